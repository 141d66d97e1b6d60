"""What a person signs with the key of an admin's kit: a job with every file in it, or a command.

The server checks it, and so does every site that is to obey, with nothing but the project's root certificate: who
controls the server alone cannot run a job or change one. A statement names project, server and a number that the server
gave out, so that it is good for one use there; a site remembers which job it saw a statement for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from clouddeploy_runtime import keys, tls
from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

_CONTEXT = b"clouddeploy statement 1\0"
_BLOCK_BYTES = 1 << 20
COMMAND_AGE = timedelta(minutes=10)
"""A site obeys a command that is no older; clocks differ, and what is older has been obeyed or is of no use."""


class SignatureRefused(RuntimeFault):
    """A statement is not what a person of this project signed."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SIGNATURE_REFUSED"


class JobStatement(msgspec.Struct, frozen=True, tag="job"):
    """I submit this job."""

    project: str
    server: str
    nonce: str
    """The number that the server gave out."""
    time: datetime
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
    time: datetime
    command: str
    arguments: dict[str, str]


Statement = JobStatement | CommandStatement


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
        peer = tls.peer_from_pem(outer.certificate)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise _refused("it cannot be read") from exc
    if peer is None or issuer_of(cert, trusted) is None:
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
    except msgspec.MsgspecError as exc:
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


def fingerprint(envelope: bytes) -> str:
    """Return what a site remembers a statement by."""
    return hashlib.sha256(envelope).hexdigest()


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
            raise _refused(f"{path} was added to the job")
        if path not in there:
            raise _refused(f"{path} is missing from the job")
        if there[path] != wanted[path]:
            raise _refused(f"{path} was changed")


def _refused(why: str) -> SignatureRefused:
    return SignatureRefused(
        "A signature does not hold", why=why, hint="Submit it again; if that does not help, ask the project admin."
    )
