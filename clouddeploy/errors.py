"""Everything that the operator's side may raise.

    DeployError
    ├── ConfigError           deploy.yml, an argument or an answer is wrong           exit 4
    │   ├── KitNotConfigured  nothing says which admin's kit is meant
    │   ├── KitMissing        what was named is no kit, or is there no more
    │   ├── TargetExists      what would be written over belongs to somebody else
    │   └── PrepareError      a kit cannot be made ready for an engine, see prepare.errors
    ├── ClusterRefused        a Kubernetes cluster does not do it; ClusterUnreachable, NotReady: prepare.cluster
    ├── PocState              the federation of this machine runs, or does not
    ├── ConsoleError          what the admin console refuses, see console.errors
    ├── DashboardError        what the dashboard refuses, see dashboard.errors
    ├── ApiError              what calls of the Python API raise, see api.errors
    ├── StateError            state, journal or key files cannot be read or written
    ├── LockedError           another run holds the deployment                        exit 7
    ├── PreflightFailed       something would not work; nothing was created
    ├── PartialFailure        some sites failed, the others are fine                  exit 6
    ├── UpgradeFailed         a site's new release was not healthy
    ├── JobFailed             a job that was waited for did not complete
    ├── Interrupted           stopped by the user; resumable                          exit 130
    ├── SiteDown              a site's pod does not come up, see clusters.work
    ├── ServiceFailed         a service ended again and again, or does not answer as it says
    ├── ServerNotReached      a client has no way to its server, or is not taken    exit 2
    ├── HostUnreachable       no SSH connection                                       exit 2
    ├── HostKeyUnknown        no key is pinned for the host                           exit 2
    ├── HostKeyChanged        the host shows another key than the pinned one          exit 2
    ├── RemoteCommandFailed   a command on the host ended with a non-zero status
    ├── UploadFailed          what arrived is not what was sent
    └── RemoteTimeout         a deadline passed at the host                           exit 3

paramiko's and the system's errors become one of these in `clouddeploy.remote`. Provider, provision and runtime errors
pass through. Only `cli.main` catches the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_OF_SITES: Mapping[str, ExitCode] = {
    "AUTHORIZATION_REFUSED": ExitCode.CONNECTION,
    "NO_REPLY": ExitCode.TIMEOUT,
    "JOB_NOT_FOUND": ExitCode.BAD_INPUT,
    "INVALID_COMMAND": ExitCode.BAD_INPUT,
    "PATH_REFUSED": ExitCode.BAD_INPUT,
}
"""Code that a site answers with → exit code."""


class DeployError(ClouddeployError):
    """The operator's side could not do what was asked."""


class ConfigError(DeployError):
    """A file, an argument or an answer is wrong; nothing was changed."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_CONFIG"


class KitNotConfigured(ConfigError):
    """Nothing says which admin's kit is meant."""

    error_code = "STARTUP_KIT_NOT_CONFIGURED"


class KitMissing(ConfigError):
    """What was named as an admin's kit is none, or is not there any more."""

    error_code = "STARTUP_KIT_MISSING"


class TargetExists(ConfigError):
    """What would be written over is something else than what goes there."""

    error_code = "OUTPUT_EXISTS"


class PocState(DeployError):
    """The federation of this machine is not in the state that this needs: it runs, or it is not prepared."""

    error_code = "POC_STATE"


class StateError(DeployError):
    """State, journal or key files cannot be read or written."""

    error_code = "STATE_ERROR"


class LockedError(DeployError):
    """Another run holds the deployment."""

    exit_code = ExitCode.LOCKED
    error_code = "LOCKED"


class PreflightFailed(DeployError):
    """Something would not work; nothing was created."""

    error_code = "PREFLIGHT_FAILED"


class PartialFailure(DeployError):
    """Some sites failed, the others are fine."""

    exit_code = ExitCode.PARTIAL
    error_code = "PARTIAL_FAILURE"


def exit_code_of_sites(codes: Collection[str]) -> ExitCode:
    """Returns what a command ends with that every site refused: as if the server had refused it, where all agree."""
    return _OF_SITES.get(next(iter(codes)), ExitCode.FAILED) if len(set(codes)) == 1 else ExitCode.FAILED


class UpgradeFailed(DeployError):
    """A site did not become healthy with another release."""

    error_code = "UPGRADE_FAILED"


class ServiceFailed(DeployError):
    """A service ended again and again, or does not answer as its file says."""

    error_code = "SERVICE_FAILED"


class JobFailed(DeployError):
    """A job that was waited for did not complete."""

    error_code = "JOB_FAILED"


class Interrupted(DeployError):
    """Stopped by the user; the same command again resumes."""

    exit_code = ExitCode.INTERRUPTED
    error_code = "INTERRUPTED"


class ServerNotReached(DeployError):
    """A client's machine has no way out to the server, or the server does not accept the client."""

    exit_code = ExitCode.CONNECTION
    error_code = "SERVER_NOT_REACHED"


class HostUnreachable(DeployError):
    """No SSH connection could be made."""

    exit_code = ExitCode.CONNECTION
    error_code = "HOST_UNREACHABLE"


class HostKeyUnknown(DeployError):
    """No key is pinned for the host, so nothing was sent to it."""

    exit_code = ExitCode.CONNECTION
    error_code = "HOST_KEY_UNKNOWN"


class HostKeyChanged(DeployError):
    """The host shows another key than the pinned one, so nothing was sent to it."""

    exit_code = ExitCode.CONNECTION
    error_code = "HOST_KEY_CHANGED"


class RemoteCommandFailed(DeployError):
    """A command on the host ended with a non-zero status.

    Args:
        what: the command, in words.
        status: its exit status.
        tail: the end of its output.
        hint: what to do.
    """

    error_code = "REMOTE_COMMAND_FAILED"

    def __init__(self, what: str, *, status: int, tail: str, hint: str = "") -> None:
        super().__init__(what, why=f"exit status {status}: {tail.strip()[-2000:]}", hint=hint)
        self.status = status
        self.tail = tail


class UploadFailed(DeployError):
    """What arrived at the host is not what was sent."""

    error_code = "UPLOAD_FAILED"


class RemoteTimeout(DeployError):
    """A deadline passed at the host."""

    exit_code = ExitCode.TIMEOUT
    error_code = "REMOTE_TIMEOUT"
