"""What can be wrong with a request, an approval, or what they are made from; each has a name of its own.

    EnrolmentFault   exit 4, `error_code` says which: the names below

| name                          | meaning                                                                    |
|-------------------------------|----------------------------------------------------------------------------|
| SITE_FILE                     | the description of the participant cannot be used                          |
| OUTPUT_DIR_EXISTS             | the folder to write is there already                                       |
| OUTPUT_DIR_UNUSABLE           | the folder to write cannot be written                                      |
| REQUEST_ZIP_NOT_FOUND         | no such file                                                               |
| INVALID_REQUEST_ZIP           | not an archive of a request: members, sizes, links, names                  |
| PRIVATE_KEY_IN_ZIP            | the archive holds a private key                                            |
| REQUEST_METADATA_INVALID      | `request.json` is not one                                                  |
| REQUEST_METADATA_MISMATCH     | `request.json` says otherwise than its certificate request or `site.yaml`  |
| CSR_HASH_MISMATCH             | the certificate request was exchanged                                      |
| SITE_YAML_HASH_MISMATCH       | `site.yaml` was exchanged                                                  |
| CSR_INVALID                   | the certificate request is damaged or was not signed with its own key      |
| PROFILE_INVALID               | the project's profile cannot be used                                       |
| CA_ALREADY_EXISTS             | the folder has an authority already                                        |
| CA_VERSION_ALREADY_EXISTS     | the authority to be replaced has the same version                          |
| PROJECT_MISMATCH              | the request is for another project                                         |
| SERVER_NAME_HOST_MISMATCH     | a server asks for another name than the project's profile gives it         |
| IDENTITY_CONFLICT             | the name belongs to somebody else already                                  |
| SIGNED_ZIP_NOT_FOUND          | no such file                                                               |
| INVALID_SIGNED_ZIP            | not an archive of an approval                                              |
| SIGNED_METADATA_INVALID       | `signed.json` is not one                                                   |
| SIGNATURE_INVALID             | `signed.json` was not signed by the root that came with it                 |
| SIGNED_FILE_HASH_MISMATCH     | a member of the approval was exchanged                                     |
| SIGNED_ZIP_IDENTITY_CONFLICT  | `signed.json` and the certificate name different participants              |
| INVALID_ROOTCA_FINGERPRINT    | what was given is not a fingerprint                                        |
| ROOTCA_FINGERPRINT_REQUIRED   | none was given, and first use is not trusted                               |
| ROOTCA_FINGERPRINT_MISMATCH   | the root is another than the one expected                                  |
| CERT_CHAIN_INVALID            | the root did not issue the certificate                                     |
| CERT_EXPIRED                  | the certificate or the root is not valid now                               |
| REQUEST_DIR_NOT_FOUND         | the folder of the request is not there                                     |
| REQUEST_DIR_INCOMPLETE        | a file of it is missing                                                    |
| REQUEST_DIR_MISMATCH          | the approval answers another request                                       |
| KEY_INVALID                   | the site's private key cannot be used                                      |
| KEY_CERT_MISMATCH             | the certificate is for another key                                         |
"""

from __future__ import annotations

from clouddeploy_runtime.errors import ExitCode, RuntimeFault


class EnrolmentFault(RuntimeFault):
    """A step of enrolment was refused.

    Args:
        error_code: a name of the table above.
        what: what failed.
        why: why.
        hint: what to do.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, error_code: str, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        self.error_code = error_code
