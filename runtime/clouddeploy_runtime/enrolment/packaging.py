"""The site's second step: check what the project approved, and make the startup kit from it and the private key."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import fingerprint as fingerprints
from clouddeploy_runtime.enrolment import formats
from clouddeploy_runtime.enrolment import signed as approvals
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.request import REQUEST_FILE, SITE_FILE
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.verify import verify

if TYPE_CHECKING:
    from clouddeploy_runtime.enrolment.signed import Approved

_FOLDER = 0o755


@dataclass(frozen=True)
class Package:
    """What `package` made."""

    kit: Path
    project: str
    name: str
    rootca_fingerprint: str


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
        force: replace a kit that is there already; what the site itself put into it stays.
        now: the time to judge certificates by; the clock's when not given.

    Raises:
        EnrolmentFault: see the table in `errors`.
        KitError: the approved files do not make a sound kit.
    """
    expected = _expected(signed_zip, expected_fingerprint, trust_on_first_use=trust_on_first_use)
    approved = approvals.read(signed_zip, expected=expected, now=now or datetime.now(UTC))
    signed = approved.signed
    key_pem = _local_key(approved, request_dir if request_dir is not None else Path(signed.name))
    kit = workspace / signed.project / f"prod_{signed.ca_info.provision_version}" / signed.name
    try:
        _check_place(kit, approved.root_fingerprint, force=force)
        _write(kit, approved, key_pem, now)
    except OSError as exc:
        why = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        raise EnrolmentFault(
            "OUTPUT_DIR_UNUSABLE", f"{kit} cannot be written", why=why, hint="use another --workspace"
        ) from exc
    return Package(kit, signed.project, signed.name, approved.root_fingerprint)


def _expected(signed_zip: Path, given: str | None, *, trust_on_first_use: bool) -> str | None:
    # An empty text is a fingerprint that somebody forgot to fill in, not the wish to go without.
    expected = fingerprints.parse(given) if given is not None else None
    if expected is None and not trust_on_first_use:
        raise EnrolmentFault(
            "ROOTCA_FINGERPRINT_REQUIRED",
            f"{signed_zip} is not used yet",
            why="without the fingerprint of the project's root certificate anybody could have made it",
            hint="ask the project admin by another way and pass --fingerprint SHA256:…, or --trust-on-first-use",
        )
    return expected


def _check_files(signed: formats.Signed, folder: Path) -> None:
    """Refuse a folder that is not that of a request of this participant."""
    if not folder.is_dir():
        raise EnrolmentFault(
            "REQUEST_DIR_NOT_FOUND",
            f"{folder} is not there",
            why="the private key is in it",
            hint="name it: --request-dir",
        )
    for name in (REQUEST_FILE, SITE_FILE, f"{signed.name}.key"):
        if not (folder / name).is_file():
            is_other = name.endswith(".key") and any(folder.glob("*.key"))
            raise EnrolmentFault(
                "REQUEST_DIR_MISMATCH" if is_other else "REQUEST_DIR_INCOMPLETE",
                f"{folder} cannot be used",
                why=f"{name} is missing",
                hint="name the folder that `request` made for this participant",
            )


def _check_request(signed: formats.Signed, folder: Path) -> None:
    """Refuse a request that is not the one which the approval answers."""
    try:
        request = formats.decode((folder / REQUEST_FILE).read_bytes(), formats.Request)
    except ValueError as exc:
        raise EnrolmentFault(
            "REQUEST_METADATA_INVALID", f"{folder / REQUEST_FILE} cannot be used", why=str(exc), hint="ask anew"
        ) from exc
    asked = (request.request_id, request.project, request.name, request.org, request.kind, request.cert_role)
    answered = (signed.request_id, signed.project, signed.name, signed.org, signed.kind, signed.cert_role)
    if asked != answered or request.csr_sha256 != signed.hashes.csr_sha256:
        raise EnrolmentFault(
            "REQUEST_DIR_MISMATCH",
            f"{folder} does not belong to this approval",
            why=f"the approval answers request {signed.request_id!r}, this is {request.request_id!r}",
            hint="name the folder of that request with --request-dir",
        )
    if hashlib.sha256((folder / SITE_FILE).read_bytes()).hexdigest() != signed.hashes.site_yaml_sha256:
        raise EnrolmentFault(
            "SITE_YAML_HASH_MISMATCH",
            f"{folder / SITE_FILE} was changed",
            why="another one was approved",
            hint="ask anew",
        )


def _local_key(approved: Approved, folder: Path) -> bytes:
    """Return the private key that the approval is for, from the folder of the request."""
    try:
        _check_files(approved.signed, folder)
        _check_request(approved.signed, folder)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise EnrolmentFault("REQUEST_DIR_INCOMPLETE", f"{folder} cannot be read", why=why) from exc
    path = folder / f"{approved.signed.name}.key"
    try:
        key = keys.load_private_key(path)
    except keys.KeyFault as exc:
        raise EnrolmentFault("KEY_INVALID", exc.what, why=exc.why, hint=exc.hint) from exc
    certified = approved.certificate.public_key()
    if not isinstance(certified, keys.PublicKey) or keys.public_bytes(certified) != keys.public_bytes(key.public_key()):
        raise EnrolmentFault(
            "KEY_CERT_MISMATCH", f"{path} is not the key of the certificate", why="it was exchanged", hint="ask anew"
        )
    return keys.to_pem(key)


def _check_place(kit: Path, mark: str, *, force: bool) -> None:
    """Refuse a place that is taken, and one beside kits of another root: they would not know each other."""
    for path in sorted(kit.parent.glob("*/startup/rootCA.pem")):
        try:
            roots = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        if mark not in [fingerprints.fingerprint(root) for root in roots]:
            raise EnrolmentFault(
                "ROOTCA_FINGERPRINT_MISMATCH",
                f"{kit.parent} cannot take this kit",
                why=f"{path.parent.parent.name} in it has another root certificate",
                hint="use another --workspace",
            )
    is_kit = (kit / "startup").is_dir()
    if kit.exists() and not (force and is_kit):
        hint = "use --force" if is_kit else "it is no kit: use another --workspace"
        raise EnrolmentFault("OUTPUT_DIR_EXISTS", f"{kit} is there already", why="it may be in use", hint=hint)


def _write(kit: Path, approved: Approved, key_pem: bytes, now: datetime | None) -> None:
    """Write the kit beside its place, verify it like any other, then give it its name."""
    kit.parent.mkdir(_FOLDER, parents=True, exist_ok=True)
    partial, old = (kit.parent / f".{kit.name}.{suffix}" for suffix in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in (partial, *(partial / name for name in ("startup", "local", "transfer"))):
            _make_folder(folder)
        for path, file in approved.signed.kit.items():
            target = partial / path
            for parent in reversed(target.relative_to(partial).parents):
                _make_folder(partial / parent)
            keys.write_private(target, approved.members[f"{approvals.KIT_PREFIX}{path}"])
            target.chmod(approvals.MODES[file.mode])
        keys.write_private(partial / "startup" / f"{approved.stem}.key", key_pem)
        _verify(partial, approved, now)
        if kit.exists():
            _carry_over(old, kit)  # of a run that was killed while it did just that
            kit.rename(old)
        partial.rename(kit)
        _carry_over(old, kit)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    folder.mkdir(_FOLDER, exist_ok=True)
    folder.chmod(_FOLDER)  # whatever the umask


def _verify(kit: Path, approved: Approved, now: datetime | None) -> None:
    manifest, signed = verify(kit, now=now), approved.signed
    found = (manifest.participant, manifest.project, manifest.kind, manifest.certificate_serial)
    if found != (signed.name, signed.project, signed.kind, signed.certificate.serial):
        raise KitError(f"{kit} cannot be made", why="the kit's manifest is for somebody else", hint="ask anew")


def _carry_over(old: Path, kit: Path) -> None:
    """Move what the site put beside the signed files: its settings in `local/`, its jobs, its data; drop the rest."""
    if not old.exists():
        return
    for source in sorted([*old.iterdir(), *(old / "local").glob("*")]):
        target = kit / source.relative_to(old)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()  # transfer/, which is made empty
        if source != old / "startup" and not target.exists():
            source.rename(target)
    shutil.rmtree(old)
