"""The root of every error that a user may see, and the one table of exit codes.

    ClouddeployError
    ├── RuntimeFault          this package: kits, connections, jobs (below)
    ├── ProvisionError        clouddeploy_provision.errors
    ├── ProviderError         clouddeploy_providers.errors
    └── DeployError           clouddeploy.errors

Foreign errors (grpc, cryptography, OSError) become one of these at the module that calls the library, `raise … from exc`.
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
