"""A session for scripts and notebooks, and how one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy.api.commands import CommandCalls
from clouddeploy.api.connection import DEFAULT_STUDY
from clouddeploy.api.display import DisplayCalls
from clouddeploy.api.jobs import JobCalls
from clouddeploy.api.plotting import MetricCalls
from clouddeploy.api.sites import SiteCalls
from clouddeploy.api.studies import StudyCalls
from clouddeploy.api.system import SystemCalls

if TYPE_CHECKING:
    from pathlib import Path


class Session(JobCalls, DisplayCalls, MetricCalls, SystemCalls, SiteCalls, StudyCalls, CommandCalls):
    """A person's session with a server: all that the admin console does, as calls.

    Made by `new_secure_session`; ended by `close`, or as a `with` statement. Every call raises `SessionClosed` after
    that, `SessionExpired` when the server has ended the session, `NoConnection` when the server is away, `NoReply`
    when it does not answer in time, and `AuthorizationError` when a policy does not allow it.
    """


def new_secure_session(  # noqa: PLR0917 - the signature of the reference
    username: str,
    startup_kit_location: str | Path,
    debug: bool = False,
    timeout: float = 10.0,
    study: str = DEFAULT_STUDY,
    command_timeout: float | None = None,
    auto_login_max_tries: int | None = None,
) -> Session:
    """Connect to the server of an admin's startup kit, and log in.

    Args:
        username: the name in the kit's certificate.
        startup_kit_location: the kit: the folder that holds `startup/`.
        debug: log each call with the time it took, at level DEBUG.
        timeout: how long to try, in seconds.
        study: which study to work in.
        command_timeout: how long each call, and each site asked by it, may take; None: ten and five seconds.
        auto_login_max_tries: how often to try at most; None: as often as the time allows.

    Returns:
        A session, connected.

    Raises:
        AuthenticationError: the kit is another person's, was changed, has expired or was revoked, or the server does
            not let this person in; `auth_code` says which.
        InvalidArgumentError: the folder holds no admin's startup kit.
        NoConnection: nobody answers within the timeout, or one side does not accept the other's certificate.
    """
    session = Session(username, startup_kit_location, debug=debug, study=study)
    session.try_connect(timeout, command_timeout=command_timeout, max_tries=auto_login_max_tries)
    return session


def connect(
    startup_kit_location: str | Path,
    *,
    timeout: float = 10.0,
    study: str = DEFAULT_STUDY,
    command_timeout: float | None = None,
) -> Session:
    """Connect as whoever the kit is of; otherwise as `new_secure_session`."""
    return new_secure_session("", startup_kit_location, timeout=timeout, study=study, command_timeout=command_timeout)


def new_insecure_session(
    startup_kit_location: str | Path, debug: bool = False, timeout: float = 10.0, study: str = DEFAULT_STUDY
) -> Session:
    """Connect as `connect`, for scripts written for the reference: the session is as secure as every other one."""
    return new_secure_session("", startup_kit_location, debug=debug, timeout=timeout, study=study)
