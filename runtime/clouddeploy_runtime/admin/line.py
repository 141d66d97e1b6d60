"""A person's line to the server and the session on it: opened, known again after a restart, and ended."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import msgspec

from clouddeploy_runtime import tls
from clouddeploy_runtime.admin.connecting import introduced
from clouddeploy_runtime.admin.replies import translated
from clouddeploy_runtime.errors import NoSession, RuntimeFault, SessionExpired
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.kit import Kit

_FAREWELL_S = 1.0
"""Nobody waits longer for a server that is gone to hear of a logout."""
_T = TypeVar("_T")


class Line:
    """The connection of one admin session.

    Args:
        kit: an admin's.
        study: which one to work in.
        timeout_s: how long connecting may take, and each call of it.

    Attributes:
        channel: the connection, on which each call names the session.
    """

    def __init__(self, kit: Kit, *, study: str, timeout_s: float) -> None:
        self._kit = kit
        self._study = study
        self._timeout_s = timeout_s
        self._bare: Any = None
        self.channel: Any = None
        self._ended: SessionExpired | None = None
        """Why the session is over for good; None: it is not."""

    def open(self) -> None:
        """Connect and log in.

        Raises:
            ConnectionFailed: nobody answers within the timeout, or one side does not accept the other's certificate.
            AuthenticationRefused: the server does not let this person log in to this study.
        """
        self._bare = tls.channel(self._kit)
        try:
            self._log_in(is_new=True)
        except BaseException:
            self._bare.close()
            raise

    def known(self, call: Callable[[], _T]) -> _T:
        """Do what a call does; once more, logged in anew, when the server does not know us: it was restarted.

        Raises:
            SessionExpired: the session was ended, which only a new one mends.
        """
        if self._ended is not None:
            raise SessionExpired(self._ended.what, why=self._ended.why, hint=self._ended.hint)
        try:
            return self._heard(call)
        except NoSession:
            self._log_in()
            return self._heard(call)

    def _heard(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except SessionExpired as exc:
            self._ended = exc
            raise

    def _log_in(self, *, is_new: bool = False) -> None:
        try:
            self.channel = introduced(
                self._bare, self._kit, study=self._study, timeout_s=self._timeout_s, is_new=is_new
            )
        except grpc.RpcError as exc:
            raise translated(exc) from exc

    def log_out(self, *, timeout_s: float) -> None:
        """End the session at the server; it is over here even when the server does not answer. May be repeated.

        Raises:
            RuntimeFault: the server was not told.
        """
        if self._ended is not None or self.channel is None:
            return
        self._ended = SessionExpired("The session has ended", why="it was logged out", hint="Log in again.")
        request = msgspec.json.encode({"command": "logout"})
        try:
            self.channel.unary_unary(rpc.COMMAND)(request, timeout=timeout_s)
        except grpc.RpcError as exc:
            fault = translated(exc)
            if not isinstance(fault, NoSession | SessionExpired):
                raise fault from exc

    def close(self) -> None:
        """Log out as far as that is quick, and hang up."""
        with contextlib.suppress(RuntimeFault):
            self.log_out(timeout_s=_FAREWELL_S)
        self._bare.close()
