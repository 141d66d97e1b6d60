"""What calls of the Python API raise: the names that scripts written for the reference's API catch.

    ApiError                  any of these
    ├── NoConnection          the server cannot be reached; a ConnectionError, too     exit 2
    ├── SessionClosed         the session was closed here                              exit 2
    ├── SessionExpired        the server ended the session                             exit 2
    ├── AuthenticationError   this person is not let in; `auth_code` says why          exit 2
    ├── AuthorizationError    a policy does not allow the call                         exit 2
    ├── InvalidArgumentError  an argument cannot be used                               exit 4
    ├── InvalidJobDefinition  the job folder cannot be used                            exit 4
    ├── JobNotFound           there is no job of this id                               exit 4
    ├── JobNotRunning         the call needs a job that runs
    ├── JobNotDone            the call needs a job that has ended                      exit 4
    ├── JobTimeout            a job that was waited for has not ended                  exit 3
    ├── NoClientsAvailable    the call is for clients, and none is connected
    ├── ClientsStillRunning   the call needs a server without clients
    ├── InvalidTarget         the call names a site that is not there                  exit 4
    ├── NoReply               who was asked did not answer in time                     exit 3
    ├── SubmitTokenConflict   the token stands for a job of other content              exit 4
    ├── SubmitTokenJobDeleted the job that the token stands for was deleted            exit 4
    ├── CommandError          any other refusal; `error_code` names it
    └── InternalError         the server failed                                        exit 5

Errors of the runtime become one of these in `told`, by their code; each keeps the code, the three parts of its message
and the exit status. Errors of the system, such as a full disk, pass through.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, ExitCode, RuntimeFault

from clouddeploy.errors import ConfigError, DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class ApiError(DeployError):
    """A call of the Python API failed; `what`, `why` and `hint` say it in three parts."""

    error_code = "COMMAND_FAILED"

    @property
    def message(self) -> str:
        """What failed, and why."""
        return str(self)


class NoConnection(ApiError, ConnectionError):
    """The server cannot be reached."""

    exit_code = ExitCode.CONNECTION
    error_code = "CONNECTION_FAILED"


class SessionClosed(ApiError):
    """The session was closed here; make a new one."""

    exit_code = ExitCode.CONNECTION
    error_code = "SESSION_CLOSED"


class SessionExpired(ApiError):
    """The server ended the session; make a new one."""

    exit_code = ExitCode.CONNECTION
    error_code = "SESSION_EXPIRED"


class AuthenticationError(ApiError):
    """This person is not let in."""

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHENTICATION_REFUSED"

    @property
    def auth_code(self) -> str:
        """The reason, for programs."""
        return self.error_code


class AuthorizationError(ApiError):
    """The policy of the server, or of a site, does not allow this person the call."""

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHORIZATION_REFUSED"


class InvalidArgumentError(ApiError):
    """An argument cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_ARGS"


class InvalidJobDefinition(ApiError):
    """The job folder is incomplete, contradicts itself or asks for what is not run."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_JOB"


class JobNotFound(ApiError):
    """There is no job of this id that this person may see."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "JOB_NOT_FOUND"


class JobNotRunning(ApiError):
    """The call needs a job that runs."""

    error_code = "JOB_NOT_RUNNING"


class JobNotDone(ApiError):
    """The call needs a job that has ended, or a federation where none runs."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "JOB_NOT_FINISHED"


class JobTimeout(ApiError):
    """A job that was waited for has not ended in time; it goes on."""

    exit_code = ExitCode.TIMEOUT
    error_code = "TIMEOUT"


class NoClientsAvailable(ApiError):
    """The call is for clients, and none is connected."""

    error_code = "NO_CLIENTS"


class ClientsStillRunning(ApiError):
    """The call needs a server without connected clients."""

    error_code = "CLIENTS_RUNNING"


class InvalidTarget(ApiError):
    """The call names a site that is not there."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_TARGET"


class NoReply(ApiError):
    """The server or a site did not answer in time."""

    exit_code = ExitCode.TIMEOUT
    error_code = "NO_REPLY"


class SubmitTokenConflict(ApiError):
    """The submit token stands for a job of other content."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SUBMIT_TOKEN_CONFLICT"


class SubmitTokenJobDeleted(ApiError):
    """The job that the submit token stands for was deleted."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SUBMIT_TOKEN_JOB_DELETED"


class CommandError(ApiError):
    """The server refused for a reason without a class of its own; `error_code` names it."""


class InternalError(ApiError):
    """The server failed."""

    exit_code = ExitCode.INTERNAL
    error_code = "INTERNAL_ERROR"


CLASSES: Mapping[str, type[ApiError]] = {
    **{
        one.error_code: one
        for one in (
            NoConnection,
            SessionExpired,
            AuthenticationError,
            AuthorizationError,
            InvalidJobDefinition,
            JobNotFound,
            JobNotRunning,
            JobNotDone,
            NoClientsAvailable,
            ClientsStillRunning,
            InvalidTarget,
            NoReply,
            SubmitTokenConflict,
            SubmitTokenJobDeleted,
            InternalError,
        )
    },
    "COMPONENT_REFUSED": InvalidJobDefinition,
    "INVALID_COMMAND": InvalidArgumentError,
    "INVALID_CONFIG": InvalidArgumentError,
    "JOB_RUNNING": JobNotDone,
    "KIT_UNUSABLE": InvalidArgumentError,
    "KIT_TAMPERED": AuthenticationError,
    "KIT_EXPIRED": AuthenticationError,
    "KIT_REVOKED": AuthenticationError,
    "NO_SESSION": SessionExpired,
    "PATH_REFUSED": InvalidArgumentError,
    "PRIVATE_KEY": InvalidArgumentError,
    "SIGNATURE_REFUSED": AuthenticationError,
    "SITE_GONE": NoReply,
    "SYNTAX_ERROR": InvalidArgumentError,
    "TIMEOUT": NoReply,
    "UNSIGNED_JOB_REJECTED": AuthenticationError,
    ClouddeployError.error_code: InternalError,
}
"""Code of an error → the class that scripts know it by. All others are a CommandError, or begin with `AUTH_`."""


def named(code: str) -> type[ApiError]:
    """Return the class of an error code."""
    usual = AuthenticationError if code.startswith("AUTH_") else CommandError
    return CLASSES.get(code, usual)


def made(code: str, what: str, *, why: str = "", hint: str = "") -> ApiError:
    """Return an error that was reported with its code, such as a site's."""
    error = named(code)(what, why=why, hint=hint)
    error.error_code = code
    return error


@contextmanager
def told() -> Iterator[None]:
    """Raise errors of the runtime as those of this API."""
    try:
        yield
    except (RuntimeFault, ConfigError) as exc:
        error = made(exc.error_code, exc.what, why=exc.why, hint=exc.hint)
        if isinstance(error, CommandError):
            error.exit_code = exc.exit_code
        raise error from exc
