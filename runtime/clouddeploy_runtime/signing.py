"""What a person signs with the key of an admin's kit: a job with every file in it, or a command.

The server checks it, and so does every site that is to obey, with nothing but the project's root certificate: who
controls the server alone cannot run a job or change one. A statement names project, server and a number that the server
gave out, so that it is good for one use there; a site remembers which job it saw a statement for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from clouddeploy_runtime import keys, tls
from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

_CONTEXT = b"clouddeploy statement 1\0"
_BLOCK_BYTES = 1 << 20
COMMAND_AGE = timedelta(minutes=10)
"""A site obeys a command that is no older; clocks differ, and what is older has been obeyed or is of no use."""


REFERENCE_SIGNS = 16
"""Of a fingerprint, where it only has to tell entries of a log apart."""
MAX_BYTES = 4 << 20
"""Of what is signed: ten thousand files, each with a path of three hundred signs; a message may have twice as much."""
CLONE = "clone_job"
"""The command with which a person makes another's signed job his own."""
FORCE = "force"
"""Argument of `shutdown` and `restart`: whoever gives it knows whom it disturbs."""
FORCED = "yes"
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class SignatureRefused(RuntimeFault):
    """A statement is not what a person of this project signed."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SIGNATURE_REFUSED"


class NonceUnknown(SignatureRefused):
    """The number in a statement was not given to this person by this server, or long ago: sign again with a new one."""

    error_code = "NONCE_UNKNOWN"


class UnsignedJob(RuntimeFault):
    """Nobody signed a job, and the server or the site that was to take it wants that."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "UNSIGNED_JOB_REJECTED"


class JobStatement(msgspec.Struct, frozen=True, tag="job"):
    """I submit this job."""

    project: str
    server: str
    nonce: str
    """The number that the server gave out."""
    time: Moment
    study: str
    files: dict[str, str]
    """Path in the job folder → its SHA-256 as lower-case hex."""


class CommandStatement(msgspec.Struct, frozen=True, tag="command"):
    """I give this command."""

    project: str
    server: str
    nonce: str
    number: int
    """Of the command in its session; each is higher than the one before."""
    time: Moment
    command: str
    arguments: dict[str, str]


Statement = JobStatement | CommandStatement


class Manifest(msgspec.Struct, frozen=True):
    """What travels with a job to the sites."""

    job: bytes
    """The submitter's signed statement; of a clone, the original's."""
    clone: bytes = b""
    """The signed command of whoever cloned it."""


class _Envelope(msgspec.Struct, frozen=True):
    statement: bytes
    certificate: bytes
    """PEM of the signer's."""
    signature: bytes


@dataclass(frozen=True)
class Signed:
    """A statement whose signature holds, and who made it."""

    statement: Statement
    signer: tls.Peer


@dataclass(frozen=True)
class Permit:
    """What a manifest whose signatures hold allows: one job of these files."""

    job: JobStatement
    submitter: tls.Peer
    """Whose rights count: who signed the job, or cloned it."""
    time: datetime
    """When that was signed."""
    seal: str
    """Fingerprint of what was signed for this one job; its beginning ties the audit logs' entries together."""
    origin: str
    """Fingerprint of the job's statement; a clone has it from the original."""
    cloned_from: str = ""
    """Id of the original, as whoever cloned it said."""

    @property
    def reference(self) -> str:
        """What the audit logs call it."""
        return self.seal[:REFERENCE_SIGNS]


def sign(key: keys.PrivateKey, certificate: bytes, statement: Statement) -> bytes:
    """Sign a statement.

    Args:
        key: of the person's kit.
        certificate: of the person's kit, PEM.
        statement: what is said.
    """
    raw = msgspec.msgpack.encode(statement)
    return msgspec.msgpack.encode(_Envelope(raw, certificate, keys.sign(key, _CONTEXT + raw)))


def verify(
    envelope: bytes,
    *,
    project: str,
    server: str,
    trusted: Sequence[x509.Certificate],
    revoked: Container[int] = (),
    now: datetime | None = None,
) -> Signed:
    """Check a signed statement.

    Args:
        envelope: what `sign` returned.
        project: the project here.
        server: the name of its server.
        trusted: its root certificates.
        revoked: serial numbers of revoked certificates.
        now: the time; the clock's when not given.

    Raises:
        SignatureRefused: it is damaged, of another project or server, or its signer's certificate is no good.
    """
    moment = now or datetime.now(UTC)
    try:
        outer = msgspec.msgpack.decode(envelope, type=_Envelope)
        cert = x509.load_pem_x509_certificate(outer.certificate)
    except (msgspec.MsgspecError, RecursionError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise _refused("it cannot be read") from exc
    # What is in a certificate is looked at only when it is the project's: the library chokes on some that are not.
    peer = None if issuer_of(cert, trusted) is None else tls.peer_from_pem(outer.certificate)
    if peer is None:
        raise _refused("its signer's certificate is not one of this project")
    if not peer.role:
        raise _refused(f"{peer.name} is a site, and only people sign")
    if cert.serial_number in revoked:
        raise _refused(f"the certificate of {peer.name} was revoked")
    if not cert.not_valid_before_utc <= moment <= cert.not_valid_after_utc:
        raise _refused(f"the certificate of {peer.name} has expired or is not valid yet")
    if not keys.is_signed_by(cert.public_key(), outer.signature, _CONTEXT + outer.statement):
        raise _refused(f"{peer.name} did not sign it as it is")
    try:
        statement: Statement = msgspec.msgpack.decode(outer.statement, type=Statement)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _refused("it is of another version") from exc
    if (statement.project, statement.server) != (project, server):
        raise _refused(f"it is for the server {statement.server} of the project {statement.project}")
    return Signed(statement, peer)


def require_recent(command: CommandStatement, *, now: datetime | None = None) -> None:
    """Refuse a command that was given long ago: somebody may have kept it.

    Raises:
        SignatureRefused: it is older than `COMMAND_AGE`, or comes from as far in the future.
    """
    age = (now or datetime.now(UTC)) - command.time
    if abs(age) > COMMAND_AGE:
        raise _refused(f"the command {command.command} is {age.total_seconds():.0f} s old by this machine's clock")


def stop_arguments(target: str, *, is_forced: bool) -> dict[str, str]:
    """Return what is signed of a shutdown or restart: the target, and the force only where it is meant.

    So a site of a version that knows no force obeys who uses none.
    """
    return {"target": target, **({FORCE: FORCED} if is_forced else {})}


def permit(
    manifest: bytes,
    *,
    project: str,
    server: str,
    trusted: Sequence[x509.Certificate],
    revoked: Container[int] = (),
    now: datetime | None = None,
) -> Permit:
    """Check what came with a job.

    Args:
        manifest: the encoded `Manifest`.
        project: as in `verify`, like the other arguments.
        server: as in `verify`.
        trusted: as in `verify`.
        revoked: as in `verify`.
        now: as in `verify`.

    Raises:
        SignatureRefused: it is damaged, a signature in it does not hold, or the clone command names another job.
    """
    try:
        parts = msgspec.msgpack.decode(manifest, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _refused("what came with the job cannot be read") from exc
    original = verify(parts.job, project=project, server=server, trusted=trusted, revoked=revoked, now=now)
    job, origin = original.statement, fingerprint(parts.job)
    if not isinstance(job, JobStatement):
        raise _refused(f"{original.signer.name} signed a command, not a job")
    if not parts.clone:
        return Permit(job=job, submitter=original.signer, time=job.time, seal=origin, origin=origin)
    clone = verify(parts.clone, project=project, server=server, trusted=trusted, revoked=revoked, now=now)
    command = clone.statement
    if not isinstance(command, CommandStatement) or command.command != CLONE:
        raise _refused(f"{clone.signer.name} signed something else than that the job is cloned")
    if command.arguments.get("statement") != origin:
        raise _refused(f"{clone.signer.name} cloned another job than this one")
    return Permit(
        job=job,
        submitter=clone.signer,
        time=command.time,
        seal=fingerprint(parts.clone),
        origin=origin,
        cloned_from=command.arguments.get("job_id", ""),
    )


def reference(envelope: bytes) -> str:
    """Return what the audit logs call a statement: the beginning of its fingerprint.

    Raises:
        SignatureRefused: it cannot be read.
    """
    return fingerprint(envelope)[:REFERENCE_SIGNS]


def reference_of_job(manifest: bytes) -> str:
    """Return what the audit logs call what came with a job; nothing, where it cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, SignatureRefused):
        parts = msgspec.msgpack.decode(manifest, type=Manifest)
        return reference(parts.clone or parts.job)
    return ""


def fingerprint(envelope: bytes) -> str:
    """Return what a statement is remembered by: a digest of what was signed.

    Not of the envelope: others than its signer can change that, by another encoding, or by the second signature that
    ECDSA has for everything, and it still holds.

    Raises:
        SignatureRefused: it cannot be read.
    """
    try:
        return hashlib.sha256(msgspec.msgpack.decode(envelope, type=_Envelope).statement).hexdigest()
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _refused("it cannot be read") from exc


def is_required(kit: Kit) -> bool:
    """Tell whether a server or site takes signed jobs only: `require_signed_jobs` of its signed file, read anew.

    Whatever is not a plain `false` means yes, and so does a file that others than its owner may change.
    """
    path = kit.startup / f"fed_{kit.kind}.json"
    try:
        with path.open("rb") as file:
            document = json.load(file)
            mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError, RecursionError) as exc:
        log.warning("%s cannot be read, so jobs must be signed: %s", path, exc)
        return True
    wish = document.get("require_signed_jobs", True) if isinstance(document, dict) else True
    if wish is not False:
        return True
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning("Others may change %s (mode %04o), so its require_signed_jobs does not count", path, mode)
        return True
    return False


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its path below the folder."""
    found = {}
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as content:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
        found[file.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def check_files(folder: Path, signed: Mapping[str, str], *, apps: frozenset[str] | None = None) -> None:
    """Refuse a job folder that is not the one that was signed.

    Args:
        folder: the job, unpacked.
        signed: the statement's files.
        apps: the sub-folders that came here; None: all.

    Raises:
        SignatureRefused: names a file that was changed, added or left out.
    """
    there = digests(folder, (path for path in sorted(folder.rglob("*")) if not path.is_dir()))
    wanted = {
        path: sha256 for path, sha256 in signed.items() if apps is None or "/" not in path or path.split("/")[0] in apps
    }
    for path in sorted({*there, *wanted}):
        if path not in wanted:
            raise _refused(f"{path} was added to the job", what="The job")
        if path not in there:
            raise _refused(f"{path} is missing from the job", what="The job")
        if there[path] != wanted[path]:
            raise _refused(f"{path} was changed", what="The job")


def _refused(why: str, *, what: str = "The statement") -> SignatureRefused:
    return SignatureRefused(
        f"{what} does not pass signature verification",
        why=why,
        hint="Submit it again; if that does not help, ask the project admin.",
    )
