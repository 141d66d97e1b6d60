"""What people sign for this server: it gives out the numbers that make each statement good once, and checks them."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import signing
from clouddeploy_runtime.kit.kit import authorities
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.signing import CommandStatement, JobStatement, Manifest, NonceUnknown, SignatureRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.tls import Peer

MANIFEST = "manifest.bin"
"""In a job's folder of the store: the encoded `signing.Manifest`; a job that nobody signed has none."""
_VALID_S = 3600.0
"""A session that lasts longer asks for another number."""
_MAX_OF_ONE = 100
"""Numbers of one person; more sessions than that are a defect, and push out his own oldest, nobody else's."""


@dataclass(eq=False)
class _Nonce:
    serial: int
    """Of the certificate that it was given to."""
    until: float
    last: int = 0
    """Number of the last command under it."""


class Statements:
    """Checks jobs and commands that people signed; lives in the event loop.

    What was given out is forgotten by a restart: whoever comes with an older number is told to ask for a new one.

    Args:
        kit: the server's.
        clock: seconds that only grow.
    """

    def __init__(self, kit: Kit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kit = kit
        self._trusted = authorities(kit.root_cert_file)
        self._clock = clock
        self._nonces: dict[str, _Nonce] = {}

    @property
    def is_required(self) -> bool:
        """Whether jobs must be signed here."""
        return signing.is_required(self._kit)

    def issue(self, peer: Peer) -> str:
        """Return a number for one person: for one job, or for the commands of a session."""
        now = self._clock()
        self._nonces = {nonce: one for nonce, one in self._nonces.items() if one.until > now}
        own = [nonce for nonce, one in self._nonces.items() if one.serial == peer.serial]
        for nonce in own[: max(0, len(own) - _MAX_OF_ONE + 1)]:
            del self._nonces[nonce]
        fresh = secrets.token_hex(16)
        self._nonces[fresh] = _Nonce(serial=peer.serial, until=now + _VALID_S)
        return fresh

    def job(self, envelope: bytes, peer: Peer) -> JobStatement:
        """Return what a person signed of a job; its number is used up.

        Raises:
            SignatureRefused: the signature does not hold, is another's, or its number is no good.
        """
        statement = self._verified(envelope, peer)
        if not isinstance(statement, JobStatement):
            raise _refused("it is a command, not a job")
        self._nonce_of(statement, peer)
        del self._nonces[statement.nonce]
        return statement

    def command(self, envelope: bytes, peer: Peer, *, name: str, arguments: Mapping[str, object]) -> CommandStatement:
        """Return what a person signed of a command.

        Raises:
            SignatureRefused: there is no signature, it does not hold, is another's, or for another command, or the
                number is no good.
        """
        if not envelope:
            raise _refused(f"the command {name} is not signed", hint="Install the same version at both ends.")
        statement = self._verified(envelope, peer)
        if not isinstance(statement, CommandStatement):
            raise _refused("it is a job, not a command")
        if (statement.command, statement.arguments) != (name, arguments):
            raise _refused(f"{peer.name} signed another command than this {name}")
        signing.require_recent(statement)
        nonce = self._nonce_of(statement, peer)
        if statement.number <= nonce.last:
            raise _refused(f"the command {name} was given before, or after a later one", hint="Give it again.")
        nonce.last = statement.number
        return statement

    def _verified(self, envelope: bytes, peer: Peer) -> signing.Statement:
        # Whether the certificate was revoked is the gate's question, and it is that of the session.
        signed = signing.verify(
            envelope, project=self._kit.project, server=self._kit.server_name, trusted=self._trusted
        )
        if (signed.signer.name, signed.signer.serial) != (peer.name, peer.serial):
            raise _refused(f"it is that of {signed.signer.name}, and {peer.name} sent it")
        return signed.statement

    def _nonce_of(self, statement: signing.Statement, peer: Peer) -> _Nonce:
        nonce = self._nonces.get(statement.nonce)
        if nonce is None or nonce.serial != peer.serial or nonce.until <= self._clock():
            raise NonceUnknown(
                "The statement does not pass signature verification",
                why="its number was not given out here, or was used before, or has expired",
                hint="Try again.",
            )
        return nonce


def keep(folder: Path, manifest: Manifest) -> None:
    """Put what was signed beside a job.

    Raises:
        OSError: it could not be written.
    """
    write_atomically(folder / MANIFEST, msgspec.msgpack.encode(manifest))


def kept(folder: Path) -> bytes:
    """Return what was signed of a job, as it travels to the sites; empty when nobody signed it.

    Raises:
        OSError: it is there, and cannot be read.
    """
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return b""


def _refused(why: str, *, hint: str = "Submit it again.") -> SignatureRefused:
    return SignatureRefused("The statement does not pass signature verification", why=why, hint=hint)
