"""What can be wrong with an answer, or with the folder of its request: each has an error code of its own."""

import base64
import hashlib
import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from clouddeploy_provision import approval
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import formats
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

OTHER = formats.Site("hospitals", "site-2", "hospital_b", "client")
SITUATIONS = []


def situation(code, *, after="approved"):
    """Registers a situation that must end in this code; `after`: how far enrolment had come."""

    def register(function):
        SITUATIONS.append(pytest.param(code, after, function, id=f"{code}-{function.__name__.removeprefix('s_')}"))
        return function

    return register


def exchange(one, member):
    """Puts a member of the answer to another request into the answer."""
    other = one.members(one.approve(one.ask(OTHER).archive).archive)
    one.replace(one.signed_zip, {member: other[member.replace("site-1", "site-2")]})


@situation("OUTPUT_DIR_EXISTS")
def s_a_second_package(one):
    one.package()
    one.package()


@situation("OUTPUT_DIR_EXISTS")
def s_even_force_replaces_no_folder_that_is_no_kit(one):
    (one.folder / "workspace" / "hospitals" / "prod_00" / "site-1").mkdir(parents=True)
    one.package(force=True)


@situation("OUTPUT_DIR_UNUSABLE")
def s_a_file_stands_where_the_kit_goes(one):
    (one.folder / "workspace").write_text("")
    one.package()


@situation("PRIVATE_KEY_IN_ZIP")
def s_an_answer_with_a_key(one):
    key = (one.folder / "site" / "site-1" / "site-1.key").read_bytes()
    one.replace(one.signed_zip, {"kit/startup/client.key": key})
    one.package()


@situation("REQUEST_METADATA_INVALID")
def s_the_local_request_json_was_damaged(one):
    (one.folder / "site" / "site-1" / "request.json").write_bytes(b"\xff")
    one.package()


@situation("SITE_YAML_HASH_MISMATCH")
def s_the_local_site_yaml_was_changed(one):
    path = one.folder / "site" / "site-1" / "site.yaml"
    path.write_bytes(path.read_bytes() + b"# host\n")
    one.package()


@situation("SIGNED_ZIP_NOT_FOUND")
def s_no_answer(one):
    one.package(one.folder / "none.zip")


@situation("SIGNED_ZIP_NOT_FOUND")
def s_a_path_that_cannot_be_one(one):
    one.package(Path("a\0b"))


@situation("INVALID_SIGNED_ZIP")
def s_a_request_instead_of_an_answer(one):
    one.package(one.request_zip)


@situation("INVALID_SIGNED_ZIP")
def s_a_file_of_the_kit_was_removed(one):
    one.replace(one.signed_zip, {"kit/startup/start.sh": None})
    one.package()


@situation("INVALID_SIGNED_ZIP")
def s_a_file_was_added_to_the_kit(one):
    one.replace(one.signed_zip, {"kit/local/custom/evil.py": b"print('hello')\n"})
    one.package()


@situation("INVALID_SIGNED_ZIP")
def s_a_root_that_is_no_certificate(one):
    one.replace(one.signed_zip, {"rootCA.pem": b"hello"})
    one.package()


@situation("INVALID_SIGNED_ZIP")
def s_a_signature_that_is_not_base64(one):
    one.replace(one.signed_zip, {"signed.json.sig": b"\xff"})
    one.package()


@situation("INVALID_SIGNED_ZIP")
def s_the_authority_signed_a_certificate_that_is_none(one):
    digest = hashlib.sha256(b"hello").hexdigest()
    one.sign_again(lambda said: said["hashes"].update(certificate_sha256=digest), {"site-1.crt": b"hello"})
    one.package()


@situation("INVALID_SIGNED_ZIP")
def s_the_authority_signed_a_certificate_whose_serial_is_negative(one):
    cert = x509.load_pem_x509_certificate(one.members(one.signed_zip)["site-1.crt"])
    serial = cert.serial_number.to_bytes(cert.serial_number.bit_length() // 8 + 1)
    der = bytearray(cert.public_bytes(Encoding.DER))
    der[der.index(serial)] |= 0x80
    pem = ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    digest = hashlib.sha256(pem).hexdigest()
    one.sign_again(lambda said: said["hashes"].update(certificate_sha256=digest), {"site-1.crt": pem})
    one.package()


@situation("SIGNATURE_INVALID")
def s_signed_json_was_edited(one):
    data = one.members(one.signed_zip)["signed.json"]
    one.replace(one.signed_zip, {"signed.json": data.replace(b'"mtls"', b'"clear"')})
    one.package()


@situation("SIGNATURE_INVALID")
def s_the_signature_of_another_answer(one):
    exchange(one, "signed.json.sig")
    one.package()


@situation("SIGNATURE_INVALID")
def s_a_stranger_signed_and_put_the_real_root_beside_his_own(one):
    """The expected root is there, but it is the other one that signed."""
    stranger = Authority.create("hospitals", now=one.now)
    data = one.members(one.signed_zip)["signed.json"]
    one.replace(
        one.signed_zip,
        {
            "rootCA.pem": CaStore(one.ca).bundle() + stranger.pem,
            "signed.json.sig": base64.b64encode(stranger.sign(data)),
        },
    )
    one.package()


@situation("INVALID_ROOTCA_FINGERPRINT")
def s_a_fingerprint_with_a_digit_too_few(one):
    one.package(expected_fingerprint=one.fingerprint[:-1])


@situation("INVALID_ROOTCA_FINGERPRINT")
def s_a_variable_that_was_not_set(one):
    one.package(expected_fingerprint="", trust_on_first_use=True)


@situation("ROOTCA_FINGERPRINT_REQUIRED")
def s_no_fingerprint(one):
    one.package(expected_fingerprint=None)


@situation("ROOTCA_FINGERPRINT_MISMATCH")
def s_an_answer_of_another_authority(one):
    one.package(expected_fingerprint="00" * 32)


@situation("ROOTCA_FINGERPRINT_MISMATCH")
def s_the_root_was_exchanged(one):
    one.replace(one.signed_zip, {"rootCA.pem": Authority.create("hospitals", now=one.now).pem})
    one.package()


@situation("ROOTCA_FINGERPRINT_MISMATCH")
def s_signed_json_names_another_root(one):
    one.sign_again(lambda said: said["ca_info"].update(rootCA_fingerprint="SHA256:00"))
    one.package()


@situation("ROOTCA_FINGERPRINT_MISMATCH")
def s_the_result_has_kits_of_another_root(one):
    one.package()
    one.init(force=True, version="01")
    one.approve(force=True)
    one.sign_again(lambda said: said["ca_info"].update(provision_version="00"))
    one.package(force=True)


@situation("CERT_CHAIN_INVALID")
def s_a_certificate_of_another_root(one):
    participant = approval.Participant(Kind.CLIENT, "site-1", "hospital_a")
    cert = Authority.create("hospitals", now=one.now).issue(participant, keys.generate().public_key(), now=one.now)
    pem = cert.public_bytes(Encoding.PEM)
    digest = hashlib.sha256(pem).hexdigest()
    one.sign_again(lambda said: said["hashes"].update(certificate_sha256=digest), {"site-1.crt": pem})
    one.package()


@situation("CERT_EXPIRED")
def s_an_answer_that_was_left_lying_for_years(one):
    one.package(now=one.now + timedelta(days=1096))


@situation("CERT_EXPIRED")
def s_a_clock_that_is_behind(one):
    one.package(now=one.now - timedelta(days=1))


@situation("SIGNED_ZIP_IDENTITY_CONFLICT")
def s_signed_json_names_another_than_the_certificate(one):
    one.sign_again(lambda said: said.update(org="hospital_b"))
    one.package()


@situation("SIGNED_ZIP_IDENTITY_CONFLICT")
def s_signed_json_names_another_serial_number(one):
    one.sign_again(lambda said: said["certificate"].update(serial="1"))
    one.package()


@situation("REQUEST_DIR_NOT_FOUND")
def s_no_folder_of_the_request(one):
    one.package(request_dir=one.folder / "none")


@situation("REQUEST_DIR_INCOMPLETE")
def s_the_private_key_is_gone(one):
    (one.folder / "site" / "site-1" / "site-1.key").unlink()
    one.package()


@situation("REQUEST_DIR_MISMATCH")
def s_the_folder_of_another_site(one):
    one.ask(OTHER)
    one.package(request_dir=one.folder / "site" / "site-2")


@situation("REQUEST_DIR_MISMATCH")
def s_the_folder_of_a_later_request_of_the_same_site(one):
    one.ask(force=True)
    one.package()


@situation("KEY_INVALID")
def s_a_key_that_others_may_read(one):
    (one.folder / "site" / "site-1" / "site-1.key").chmod(0o644)
    one.package()


@situation("KEY_INVALID")
def s_a_key_that_is_none(one):
    (one.folder / "site" / "site-1" / "site-1.key").write_text("hello")
    one.package()


@situation("KEY_CERT_MISMATCH")
def s_the_private_key_was_exchanged(one):
    path = one.folder / "site" / "site-1" / "site-1.key"
    path.unlink()
    keys.write_private(path, keys.to_pem(keys.generate()))
    one.package()


@pytest.mark.parametrize(("code", "after", "happens"), SITUATIONS)
def test_a_situation_has_its_own_code(code, after, happens, enrolment):
    """It is bad input, it says why, and no kit is left behind."""
    if after != "init":
        enrolment.ask()
    if after == "approved":
        enrolment.approve()
    with pytest.raises(EnrolmentFault) as caught:
        happens(enrolment)
    fault = caught.value
    assert fault.error_code == code
    assert fault.exit_code is ExitCode.BAD_INPUT
    assert fault.why
    assert not list(enrolment.folder.glob("**/.*.partial"))
    shutil.rmtree(enrolment.folder)


EVERY_MEMBER = {
    "rootCA.pem": "ROOTCA_FINGERPRINT_MISMATCH",
    "signed.json": "SIGNATURE_INVALID",
    "signed.json.sig": "SIGNATURE_INVALID",
}
"""What an exchanged member of an answer gives; every other one was not what was signed."""


def test_every_member_of_an_answer_is_bound_to_it(approved):
    """Removed, edited, or taken from the answer to another request: each member, one by one."""
    original = approved.signed_zip.read_bytes()
    approved.ask(OTHER)
    approved.init(force=True, version="01")
    approved.approve(approved.folder / "site" / "site-2" / "site-2.request.zip")
    other = approved.members(approved.folder / "answers" / "site-2.signed.zip")
    mark = CaStore(approved.ca / "backup_00").ca_file().rootCA_fingerprint
    members = approved.members(approved.signed_zip)
    for name, content in members.items():
        exchanged = other[name.replace("site-1", "site-2")]
        tried = {"removed": None, "edited": content + b"\n"}
        tried |= {"exchanged": exchanged} if exchanged != content else {}
        for how, changed in tried.items():
            approved.signed_zip.write_bytes(original)
            approved.replace(approved.signed_zip, {name: changed})
            expected = "SIGNED_FILE_HASH_MISMATCH"
            if how == "removed":
                expected = "INVALID_SIGNED_ZIP"
            elif how == "exchanged":
                expected = EVERY_MEMBER.get(name, expected)
            elif name == "signed.json":
                expected = "SIGNATURE_INVALID"
            if name == "signed.json.sig" and how == "edited":
                continue  # a newline more is the same signature
            with pytest.raises(EnrolmentFault) as caught:
                approved.package(expected_fingerprint=mark)
            assert (name, how, caught.value.error_code) == (name, how, expected)
    assert not (approved.folder / "workspace").exists()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda said: said.pop("kit"), id="a field is missing"),
        pytest.param(lambda said: said.update(more=1), id="a field too many"),
        pytest.param(lambda said: said.update(artifact_type="cert_request"), id="another document"),
        pytest.param(lambda said: said.update(project="../x"), id="a project that leads elsewhere"),
        pytest.param(lambda said: said.update(name="../x"), id="a name that leads elsewhere"),
        pytest.param(lambda said: said["ca_info"].update(provision_version="1"), id="a version of one digit"),
        pytest.param(lambda said: said["ca_info"].update(provision_version="/x"), id="a version that is none"),
        pytest.param(lambda said: said.update(cert_file="signed.json.sig"), id="a certificate that nobody signed"),
        pytest.param(lambda said: said["kit"]["startup/start.sh"].update(mode="0777"), id="a file for everybody"),
        pytest.param(lambda said: said["kit"]["startup/start.sh"].update(mode="4755"), id="a set-user-id file"),
        pytest.param(
            lambda said: said["kit"].update({"startup/client.key": said["kit"]["startup/start.sh"]}), id="a key"
        ),
        pytest.param(
            lambda said: said["kit"].update({"startup/start.sh/x": said["kit"]["startup/start.sh"]}),
            id="a file that is a folder too",
        ),
        pytest.param(lambda said: said["kit"].update(local=said["kit"]["startup/start.sh"]), id="a file named local"),
    ],
)
def test_whatever_the_authority_signs_a_kit_is_made_within_its_place_or_not_at_all(approved, change):
    approved.sign_again(change)
    with pytest.raises(EnrolmentFault) as caught:
        approved.package()
    assert caught.value.error_code == "SIGNED_METADATA_INVALID"
    assert not (approved.folder / "workspace").exists()
