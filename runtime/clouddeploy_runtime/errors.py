"""The root of every error that a user may see, and the one table of exit codes.

    ClouddeployError
    ├── RuntimeFault          this package: kits, connections, jobs (below)
    ├── ProvisionError        clouddeploy_provision.errors
    ├── ProviderError         clouddeploy_providers.errors
    └── DeployError           clouddeploy.errors

Foreign errors (grpc, cryptography, OSError) become one of these where the library is called, `raise … from exc`.
Programming errors pass through. Only a process's edge (`cli.main` of either distribution) catches the root.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    OK = 0
    FAILED = 1
    """The operation was tried and failed."""
    CONNECTION = 2
    """A connection or an authentication failed."""
    TIMEOUT = 3
    """A deadline passed."""
    BAD_INPUT = 4
    """An argument, a file or a value in it is wrong; nothing was changed."""
    INTERNAL = 5
    """A defect of this program; please report it."""
    PARTIAL = 6
    """Some sites succeeded, some did not."""
    LOCKED = 7
    """Another run holds the deployment."""
    CHANGES_PENDING = 8
    """`plan --detailed-exitcode` found something to do."""
    INTERRUPTED = 130
    """Stopped by the user; running the same command again resumes."""


class ClouddeployError(Exception):
    """Says what failed, why, and what to do about it.

    Args:
        what: what failed, one clause, without a full stop.
        why: the cause, as far as it is known.
        hint: what the reader can do now.
    """

    exit_code: ExitCode = ExitCode.FAILED
    error_code: str = "FAILED"
    """Stable machine-readable name, upper case; part of the JSON envelope."""

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return ": ".join(part for part in (self.what, self.why) if part)


class RuntimeFault(ClouddeployError):
    """Anything that goes wrong at a site or in an admin session."""


class ConnectionFailed(RuntimeFault):
    """The server cannot be reached, or one side does not accept the other's certificate."""

    exit_code = ExitCode.CONNECTION
    error_code = "CONNECTION_FAILED"


class NoSession(RuntimeFault):
    """The server does not know who calls: a person has to say so again, as after a restart of the server."""

    exit_code = ExitCode.CONNECTION
    error_code = "NO_SESSION"


class SessionExpired(RuntimeFault):
    """A person's session was ended: by a logout, by somebody else, for its certificate, or since nobody used it.

    Unlike one that the server does not know, it does not come back by itself.
    """

    exit_code = ExitCode.CONNECTION
    error_code = "SESSION_EXPIRED"


class AuthenticationRefused(RuntimeFault):
    """The server does not let somebody log in.

    Args:
        code: names the reason for programs.
    """

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHENTICATION_REFUSED"

    def __init__(self, what: str, *, why: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        if code:
            self.error_code = code


class AuthorizationRefused(RuntimeFault):
    """The policy of the server or of a site does not allow this user the command."""

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHORIZATION_REFUSED"


class JobNotFound(RuntimeFault):
    """The server knows no job of this id."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "JOB_NOT_FOUND"


class InvalidJob(RuntimeFault):
    """A job folder is incomplete or contradicts itself."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_JOB"


class JobNotFinished(RuntimeFault):
    """What was asked for needs a job that has ended."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "JOB_NOT_FINISHED"


class JobNotRunning(RuntimeFault):
    """What was asked for needs a job that runs."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "JOB_NOT_RUNNING"


class SubmitTokenConflict(RuntimeFault):
    """This submit token stands for a job of other content."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SUBMIT_TOKEN_CONFLICT"


class SubmitTokenJobDeleted(RuntimeFault):
    """The job that this submit token stands for was deleted."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SUBMIT_TOKEN_JOB_DELETED"


class InvalidCommand(RuntimeFault):
    """A command, or an argument of it, is none that this server knows."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_COMMAND"


class InvalidTarget(RuntimeFault):
    """A command names a site that is not there."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_TARGET"


class NoClients(RuntimeFault):
    """A command is for clients, and none is connected."""

    error_code = "NO_CLIENTS"


class JobsRunning(RuntimeFault):
    """Jobs run, and what was asked for would disturb them."""

    error_code = "JOB_RUNNING"


class ClientsRunning(RuntimeFault):
    """The server is to stop while clients are connected, which would look for it for ever."""

    error_code = "CLIENTS_RUNNING"


class ServerBusy(RuntimeFault):
    """The server has as much of this kind to do as it takes on."""

    error_code = "SERVER_BUSY"


class NoResources(RuntimeFault):
    """A site has not, or not now, what a job needs."""

    error_code = "NO_RESOURCES"


class Timeout(RuntimeFault):
    """A deadline passed."""

    exit_code = ExitCode.TIMEOUT
    error_code = "TIMEOUT"


class BlobCorrupt(RuntimeFault):
    """What arrived is not what was announced."""

    error_code = "BLOB_CORRUPT"


class AlreadyRunning(RuntimeFault):
    """The port or the workspace is in use by another process."""

    error_code = "ALREADY_RUNNING"


def printable(text: str) -> str:
    """Write out signs that would steer a terminal: a message may quote what came from elsewhere."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
