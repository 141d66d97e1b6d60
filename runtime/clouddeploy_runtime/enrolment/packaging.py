"""The site's second step: check what the project approved, and make the startup kit from it and the private key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import archive, formats
from clouddeploy_runtime.enrolment import fingerprint as fingerprints
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.request import REQUEST_FILE, ROLE_OID, SITE_FILE, check
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import attribute
from clouddeploy_runtime.kit.verify import issuer_of, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNED_FILE = "signed.json"
SIGNATURE_FILE = "signed.json.sig"
ROOT_FILE = "rootCA.pem"
KIT_PREFIX = "kit/"
_FOLDER = 0o755
_VERSION = re.compile(r"[0-9]{2}")
_MODES = {"0644": 0o644, "0755": 0o755, "0600": 0o600}


@dataclass(frozen=True)
class Package:
    """What `package` made."""

    kit: Path
    project: str
    name: str
    rootca_fingerprint: str


@dataclass(frozen=True)
class _Approval:
    """A signed archive, verified."""

    signed: formats.Signed
    members: Mapping[str, bytes]
    certificate: x509.Certificate
    root_fingerprint: str


def package(
    signed_zip: Path,
    workspace: Path,
    *,
    request_dir: Path | None = None,
    expected_fingerprint: str | None = None,
    trust_on_first_use: bool = False,
    force: bool = False,
    now: datetime | None = None,
) -> Package:
    """Make `<workspace>/<project>/prod_<version>/<name>` from an approval.

    Args:
        signed_zip: what the project admin sent.
        workspace: where the kit goes.
        request_dir: the folder that `request.make` wrote; default: one named after the participant, here.
        expected_fingerprint: of the project's root certificate, learnt from the admin by another way.
        trust_on_first_use: accept whatever root the archive brings.
        force: replace a kit that is there already.
        now: the time to judge certificates by; the clock's when not given.

    Raises:
        EnrolmentFault: see the table in `errors`.
        KitError: the approved files do not make a sound kit.
    """
    expected = fingerprints.parse(expected_fingerprint) if expected_fingerprint else None
    if expected is None and not trust_on_first_use:
        raise EnrolmentFault(
            "ROOTCA_FINGERPRINT_REQUIRED",
            f"{signed_zip} is not used yet",
            why="without the fingerprint of the project's root certificate anybody could have made it",
            hint="ask the project admin by another way and pass --fingerprint SHA256:…, or --trust-on-first-use",
        )
    approval = _read(signed_zip, expected, now or datetime.now(UTC))
    key_pem = _local_key(approval, request_dir)
    signed = approval.signed
    result = workspace / signed.project / f"prod_{signed.ca_info.provision_version}"
    _check_result(result, approval.root_fingerprint)
    kit = result / signed.name
    if kit.exists() and not force:
        raise EnrolmentFault(
            "OUTPUT_DIR_EXISTS", f"{kit} is there already", why="it is a kit in use, perhaps", hint="use --force"
        )
    _write(kit, approval, key_pem, now)
    return Package(kit, signed.project, signed.name, approval.root_fingerprint)


def _read(  # noqa: C901, PLR0912 - one check a line
    path: Path, expected: str | None, now: datetime
) -> _Approval:
    """Read and verify an archive; nothing in it is believed before the signature and the fingerprint hold."""
    members = archive.read(path, "SIGNED", is_expected=_is_expected)
    refused = f"{path} is refused"
    for name in (SIGNED_FILE, SIGNATURE_FILE, ROOT_FILE, SITE_FILE):
        if name not in members:
            raise EnrolmentFault("INVALID_SIGNED_ZIP", refused, why=f"{name} is missing", hint="ask for it again")
    try:
        roots = x509.load_pem_x509_certificates(members[ROOT_FILE])
        signature = base64.b64decode(members[SIGNATURE_FILE].strip(), validate=True)
    except (ValueError, binascii.Error) as exc:
        raise EnrolmentFault("INVALID_SIGNED_ZIP", refused, why=str(exc), hint="ask for it again") from exc
    marks = [fingerprints.fingerprint(root) for root in roots]
    if expected is not None and expected not in marks:
        raise EnrolmentFault(
            "ROOTCA_FINGERPRINT_MISMATCH",
            refused,
            why=f"its root has {marks[0]}, expected was {expected}",
            hint="somebody may have exchanged it: talk to the project admin before you go on",
        )
    if not any(keys.is_signed_by(root.public_key(), signature, members[SIGNED_FILE]) for root in roots):
        raise EnrolmentFault(
            "SIGNATURE_INVALID", refused, why="signed.json was not signed by the root", hint="ask for it again"
        )
    try:
        signed = msgspec.json.decode(members[SIGNED_FILE], type=formats.Signed)
        if (signed.artifact_type, signed.schema_version) != (formats.SIGNED, formats.SCHEMA_VERSION):
            raise msgspec.ValidationError(f"it is a {signed.artifact_type} of version {signed.schema_version}")
        # What becomes part of a path is checked before it does, whoever signed it.
        check(formats.Site(signed.project, signed.name, signed.org, signed.kind, signed.cert_role))
        if _VERSION.fullmatch(signed.ca_info.provision_version) is None:
            raise msgspec.ValidationError("provision_version must have two digits")
    except (msgspec.MsgspecError, EnrolmentFault) as exc:
        raise EnrolmentFault("SIGNED_METADATA_INVALID", refused, why=str(exc), hint="ask for it again") from exc
    _check_hashes(members, signed, refused)
    cert = x509.load_pem_x509_certificate(members[signed.cert_file])
    authority = issuer_of(cert, roots)
    if authority is None:
        raise EnrolmentFault(
            "CERT_CHAIN_INVALID", refused, why="the root did not issue the certificate", hint="ask for it again"
        )
    for one in (cert, authority):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            span = f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            raise EnrolmentFault(
                "CERT_EXPIRED",
                refused,
                why=f"a certificate is valid {span}, now is {now:%Y-%m-%d}",
                hint="see the clock",
            )
    found = (
        attribute(cert, NameOID.COMMON_NAME),
        attribute(cert, NameOID.ORGANIZATION_NAME),
        attribute(cert, ROLE_OID),
        f"{cert.serial_number:x}",
    )
    if found != (signed.name, signed.org, signed.cert_role, signed.certificate.serial):
        raise EnrolmentFault(
            "SIGNED_ZIP_IDENTITY_CONFLICT",
            refused,
            why=f"the certificate is for {found[0]} of {found[1]}, signed.json for {signed.name} of {signed.org}",
            hint="ask for it again",
        )
    mark = fingerprints.fingerprint(authority)
    if mark != signed.ca_info.rootCA_fingerprint:
        raise EnrolmentFault(
            "ROOTCA_FINGERPRINT_MISMATCH",
            refused,
            why=f"signed.json names {signed.ca_info.rootCA_fingerprint}, not {mark}",
        )
    return _Approval(signed, members, cert, mark)


def _is_expected(name: str) -> bool:
    if name.startswith(KIT_PREFIX):
        return name.removeprefix(KIT_PREFIX).split("/")[0] in {"startup", "local", "readme.txt"}
    return "/" not in name and (name in {SIGNED_FILE, SIGNATURE_FILE, ROOT_FILE, SITE_FILE} or name.endswith(".crt"))


def _check_hashes(members: Mapping[str, bytes], signed: formats.Signed, refused: str) -> None:
    """Compare every member with what was signed, both ways."""
    wanted = {
        SITE_FILE: signed.hashes.site_yaml_sha256,
        ROOT_FILE: signed.hashes.rootca_sha256,
        signed.cert_file: signed.hashes.certificate_sha256,
        **{f"{KIT_PREFIX}{path}": file.sha256 for path, file in signed.kit.items()},
    }
    for name in {*members, *wanted} - {SIGNED_FILE, SIGNATURE_FILE}:
        content = members.get(name)
        if content is None or name not in wanted:
            why = f"{name} is missing" if content is None else f"{name} was not approved"
            raise EnrolmentFault("INVALID_SIGNED_ZIP", refused, why=why, hint="ask for it again")
        if hashlib.sha256(content).hexdigest() != wanted[name]:
            raise EnrolmentFault(
                "SIGNED_FILE_HASH_MISMATCH", refused, why=f"{name} was exchanged", hint="ask for it again"
            )


def _local_key(approval: _Approval, request_dir: Path | None) -> bytes:
    """Return the private key that the approval is for, from the folder of the request."""
    signed = approval.signed
    folder = request_dir if request_dir is not None else Path(signed.name)
    if not folder.is_dir():
        raise EnrolmentFault(
            "REQUEST_DIR_NOT_FOUND",
            f"{folder} is not there",
            why="the private key is in it",
            hint="name it: --request-dir",
        )
    names = (REQUEST_FILE, SITE_FILE, f"{signed.name}.key")
    for name in names:
        if not (folder / name).is_file():
            is_other = name.endswith(".key") and any(folder.glob("*.key"))
            raise EnrolmentFault(
                "REQUEST_DIR_MISMATCH" if is_other else "REQUEST_DIR_INCOMPLETE",
                f"{folder} cannot be used",
                why=f"{name} is missing",
                hint="name the folder that `cert request` made for this participant",
            )
    try:
        request = msgspec.json.decode((folder / REQUEST_FILE).read_bytes(), type=formats.Request)
    except msgspec.MsgspecError as exc:
        raise EnrolmentFault(
            "REQUEST_METADATA_INVALID", f"{folder / REQUEST_FILE} cannot be used", why=str(exc)
        ) from exc
    asked = (request.request_id, request.project, request.name, request.org, request.kind, request.cert_role)
    answered = (signed.request_id, signed.project, signed.name, signed.org, signed.kind, signed.cert_role)
    if asked != answered or request.csr_sha256 != signed.hashes.csr_sha256:
        raise EnrolmentFault(
            "REQUEST_DIR_MISMATCH",
            f"{folder} does not belong to this approval",
            why=f"the approval answers request {signed.request_id}, this is {request.request_id}",
            hint="name the folder of that request with --request-dir",
        )
    site = hashlib.sha256((folder / SITE_FILE).read_bytes()).hexdigest()
    if site != signed.hashes.site_yaml_sha256:
        raise EnrolmentFault(
            "SITE_YAML_HASH_MISMATCH",
            f"{folder / SITE_FILE} was changed",
            why="another one was approved",
            hint="ask anew",
        )
    path = folder / f"{signed.name}.key"
    try:
        key = keys.load_private_key(path)
    except keys.KeyFault as exc:
        raise EnrolmentFault("KEY_INVALID", exc.what, why=exc.why, hint=exc.hint) from exc
    certified = approval.certificate.public_key()
    if not isinstance(certified, keys.PublicKey) or keys.public_bytes(certified) != keys.public_bytes(key.public_key()):
        raise EnrolmentFault(
            "KEY_CERT_MISMATCH", f"{path} is not the key of the certificate", why="it was exchanged", hint="ask anew"
        )
    return keys.to_pem(key)


def _check_result(result: Path, mark: str) -> None:
    """Refuse a folder with kits of another root: they would not know each other."""
    for path in sorted(result.glob("*/startup/rootCA.pem")):
        try:
            roots = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        if mark not in [fingerprints.fingerprint(root) for root in roots]:
            raise EnrolmentFault(
                "ROOTCA_FINGERPRINT_MISMATCH",
                f"{result} cannot take this kit",
                why=f"{path.parent.parent.name} in it has another root certificate",
                hint="use another --workspace",
            )


def _write(kit: Path, approval: _Approval, key_pem: bytes, now: datetime | None) -> None:
    """Write the kit beside its place, verify it like any other, then give it its name."""
    stem = "server" if approval.signed.kind == "server" else "client"
    kit.parent.mkdir(_FOLDER, parents=True, exist_ok=True)
    partial = kit.parent / f".{kit.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in (partial, partial / "startup", partial / "local", partial / "transfer"):
            folder.mkdir(_FOLDER)
            folder.chmod(_FOLDER)
        for path, file in approval.signed.kit.items():
            target = partial / path
            target.parent.mkdir(_FOLDER, parents=True, exist_ok=True)
            keys.write_private(target, approval.members[f"{KIT_PREFIX}{path}"])
            target.chmod(_MODES.get(file.mode, keys.PRIVATE_MODE))
        keys.write_private(partial / "startup" / f"{stem}.key", key_pem)
        manifest = verify(partial, now=now)
        if (manifest.participant, manifest.project) != (approval.signed.name, approval.signed.project):
            raise KitError(f"{kit} cannot be made", why="the kit's manifest is for somebody else", hint="ask anew")
        if kit.exists():
            old = kit.parent / f".{kit.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            kit.rename(old)
            partial.rename(kit)
            shutil.rmtree(old)
        else:
            partial.rename(kit)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
