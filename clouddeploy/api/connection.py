"""The way from a script to the server: the kit, who uses it, and where errors become those of the API."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.kit import Kind

from clouddeploy.api import markup
from clouddeploy.api.errors import AuthenticationError, InvalidArgumentError, NoReply, SessionClosed, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.kit import Kit

    Dial = Callable[..., AdminSession]

log = logging.getLogger(__name__)

DEFAULT_STUDY = "default"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_REPLY_S = 5.0
"""So long a site may take to answer; as `clouddeploy_runtime.admin.sites`."""


class Connection:
    """A session with a server, and what all its calls need.

    Args:
        username: who calls: the name in the kit's certificate. Empty: whoever that is.
        startup_path: an admin's startup kit: the folder that holds `startup/`.
        secure_mode: taken for the reference's sake; how the connection is secured stands in the kit, signed.
        debug: log each call with the time it took, at level DEBUG.
        study: which study the session is for; its jobs are the ones that it sees.
        dial: makes the connection out of a kit; for tests.

    Raises:
        InvalidArgumentError: the folder holds no admin's startup kit.
        AuthenticationError: the kit was changed, has expired or was revoked, or it is somebody else's.
    """

    def __init__(
        self,
        username: str,
        startup_path: str | Path,
        secure_mode: bool = True,
        debug: bool = False,
        study: str = DEFAULT_STUDY,
        *,
        dial: Dial | None = None,
    ) -> None:
        self.kit = _admin_kit(Path(startup_path), username)
        self.username = self.kit.name
        self.study = study
        self.upload_dir = self.download_dir = str(self.kit.transfer)
        self._dial = dial or _dial
        self._timeout_s, self._reply_s = DEFAULT_TIMEOUT_S, DEFAULT_REPLY_S
        self._admin: AdminSession | None = None
        del secure_mode
        if debug:
            log.setLevel(logging.DEBUG)

    def try_connect(
        self, timeout: float, *, command_timeout: float | None = None, max_tries: int | None = None
    ) -> None:
        """Connect; a server that starts is waited for.

        Args:
            timeout: how long to try, in seconds.
            command_timeout: how long each later call may take; None: ten seconds.
            max_tries: how often to try at most; None: as often as the time allows.

        Raises:
            NoConnection: nobody answers, or one side does not accept the other's certificate.
            AuthenticationError: the server does not let this person in; `auth_code` says why.
        """
        self.close()
        if command_timeout is not None:
            self._timeout_s = self._reply_s = _positive(command_timeout)
        deadline, tries = time.monotonic() + _positive(timeout), 0
        while self._admin is None:
            tries += 1
            left_s = max(0.1, deadline - time.monotonic())
            try:
                with told():
                    self._admin = self._dial(self.kit, timeout_s=left_s, study=self.study).__enter__()
            except NoReply:
                if time.monotonic() >= deadline or (max_tries is not None and tries >= max_tries):
                    raise
        self._apply_timeout()

    def close(self) -> None:
        """End the session; may be repeated."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with told():
                admin.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return the session, which is connected already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        self.close()

    def set_timeout(self, value: float) -> None:
        """Set how long each call, and each site asked by it, may take.

        Args:
            value: seconds, above 0.

        Raises:
            InvalidArgumentError: it is no such number.
        """
        self._timeout_s = self._reply_s = _positive(value)
        self._apply_timeout()

    def unset_timeout(self) -> None:
        """Let each call take ten seconds again, which is the default, and each site five."""
        self._timeout_s, self._reply_s = DEFAULT_TIMEOUT_S, DEFAULT_REPLY_S
        self._apply_timeout()

    def _apply_timeout(self) -> None:
        if self._admin is not None:
            self._admin.timeout_s = self._timeout_s
            self._admin.sites.reply_s = self._reply_s

    @contextmanager
    def _calling(self) -> Iterator[AdminSession]:
        """Give the session for a call, whose errors become those of the API."""
        if self._admin is None:
            raise SessionClosed(
                "The session is closed", why="`close` was called", hint="Make one with `new_secure_session`."
            )
        began = time.monotonic()
        try:
            with told():
                yield self._admin
        finally:
            log.debug("A call took %.3f s", time.monotonic() - began)

    def __repr__(self) -> str:
        kit, state = self.kit, "" if self._admin is not None else ", closed"
        return printable(f"<Session of {self.username} at {kit.host}:{kit.port}, study {self.study}{state}>")

    def _repr_html_(self) -> str:
        kit = self.kit
        values: dict[str, Any] = {
            "user": self.username,
            "project": kit.project,
            "server": f"{kit.server_name} at {kit.host}:{kit.port}",
            "study": self.study,
            "state": "closed" if self._admin is None else "connected",
        }
        return markup.record(values, title="Session")


def _admin_kit(root: Path, username: str) -> Kit:
    """Return a kit, verified, of the person it is used by."""
    with told():
        kits.verify(root)
        kit = kits.load(root)
    if kit.kind is not Kind.ADMIN:
        raise InvalidArgumentError(
            f"{root} is no admin's startup kit", why=f"it is that of a {kit.kind.value}", hint="Name an admin's kit."
        )
    if username not in {"", kit.name}:
        error = AuthenticationError(
            f"{username!r} cannot use this startup kit",
            why=f"its certificate is that of {kit.name!r}",
            hint="Use the name in the certificate, or that person's kit.",
        )
        error.error_code = "AUTH_USER_MISMATCH"
        raise error
    return kit


def _dial(kit: Kit, *, timeout_s: float, study: str) -> AdminSession:
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415 - grpc takes a tenth of a second

    return AdminSession(kit, timeout_s=timeout_s, study=study)


def _positive(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidArgumentError("The timeout cannot be used", why=f"it is {value!r}", hint="Give seconds above 0.")
    return float(value)
