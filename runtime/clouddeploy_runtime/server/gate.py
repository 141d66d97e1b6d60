"""Who may talk to this server at all: it proves itself to them, and turns away whose certificate was revoked."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import expiry, keys, revocation, server_proof
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.sessions import Registry
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

MEMORY = "crl.pem"
_POLL_S = 1.0


class Gate:
    """The server's knowledge of its own identity and of revoked ones.

    Args:
        kit: the server's.
        registry: the sessions to end when their certificate is revoked.
        workspace: where the newest list is kept.
    """

    def __init__(self, kit: Kit, registry: Registry, workspace: Path) -> None:
        self._registry = registry
        self._key = keys.load_private_key(kit.key_file)
        self._pem = kit.cert_file.read_bytes()
        self._reminder = expiry.Reminder("this server's certificate", certificate(kit.cert_file).not_valid_after_utc)
        self._revocations = revocation.RevocationList(
            authorities(kit.root_cert_file), sources=[kit.root / revocation.LIST_PATH], memory=workspace / MEMORY
        )
        self.refresh()

    @property
    def number(self) -> int:
        """Number of the newest list; 0: there is none."""
        return self._revocations.current.number

    def problem(self, peer: Peer | None) -> str:
        """Say why this peer is turned away; empty when it is not."""
        if peer is None:
            return "there is no certificate with a name"
        if peer.serial in self._revocations:
            return (
                f"the certificate of {peer.name} was revoked (list {self.number}); ask the project admin for a new kit"
            )
        return ""

    async def prove(self, request: bytes, context: Any) -> bytes:
        """Answer a peer's number, see `server_proof`."""
        pems = context.auth_context().get("x509_pem_cert", [])
        if len(request) != server_proof.NONCE_BYTES or not pems:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the number or the certificate is missing")
            raise AssertionError  # abort always raises
        crl = self._revocations.current.pem
        return server_proof.answer(self._key, self._pem, nonce=request, peer=pems[0], crl=crl)

    def handlers(self) -> dict[str, Any]:
        """Return the methods that both services have."""
        return {"Prove": grpc.unary_unary_rpc_method_handler(self.prove)}

    def adopt(self, pem: bytes) -> bool:
        """Take a newer list; returns whether it was one.

        Raises:
            RevocationFault: it was not made by the project's authority.
        """
        is_newer = self._revocations.adopt(pem)
        if is_newer:
            self._enforce()
        return is_newer

    def refresh(self) -> None:
        """Look whether somebody put a newer list into the kit."""
        if self._revocations.refresh():
            self._enforce()

    async def watch(self) -> None:
        """Look for new lists, and at the clock, until cancelled."""
        while True:
            self.refresh()
            self._reminder.remind(log)
            await asyncio.sleep(_POLL_S)

    def _enforce(self) -> None:
        """End the sessions of revoked certificates and tell the others of the list."""
        log.info("The list of revoked certificates has number %d", self.number)
        event = pb.ServerEvent(revocations=pb.Revocations(crl=self._revocations.current.pem))
        for session in self._registry.all():
            if session.serial in self._revocations:
                log.warning("The certificate of %s was revoked; its session ends", session.name)
                self._registry.end(session)
            else:
                session.outbox.put_nowait(event)
