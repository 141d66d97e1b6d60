"""What the console itself refuses; all else is an error of the session below it.

DeployError
└── ConsoleError
    ├── SyntaxFault       the line is no command, or its arguments are wrong      exit 4
    ├── UserRefused       the name that was typed is not the certificate's        exit 2
    ├── NotConfirmed      the answer was no, or another user's name               exit 4
    ├── SitesFailed       sites refused, or did not answer                        exit 6 when others did
    └── CommandsFailed    with --keep-going: some lines of a script failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import DeployError, exit_code_of_sites

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.errors import ClouddeployError

WORDS: Mapping[str, str] = {
    "SYNTAX_ERROR": "syntax_error",
    "INVALID_COMMAND": "syntax_error",
    "INVALID_CONFIG": "syntax_error",
    "AUTHORIZATION_REFUSED": "not_authorized",
    "SIGNATURE_REFUSED": "not_authorized",
    "JOB_NOT_FOUND": "invalid_job_id",
    "INVALID_TARGET": "invalid_target",
    "JOB_RUNNING": "job_running",
    "JOB_NOT_FINISHED": "job_running",
    "CLIENTS_RUNNING": "clients_running",
    "NO_CLIENTS": "no_clients",
    "NO_REPLY": "no_reply",
    "TIMEOUT": "timeout",
    "CONNECTION_FAILED": "no_connection",
    "SESSION_EXPIRED": "session_expired",
    "INTERNAL_ERROR": "internal_error",
}
"""Error code → the word that a reply of the console begins with; another code is its own word, in lower case."""


def word(error_code: str) -> str:
    """Return the word for an error."""
    return WORDS.get(error_code, error_code.lower() or "error")


class ConsoleError(DeployError):
    """The console does not do what was typed."""


class SyntaxFault(ConsoleError):
    """A line is no command, or its arguments are wrong."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "SYNTAX_ERROR"


class UserRefused(ConsoleError):
    """The name that was typed is not the one in the kit's certificate."""

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHENTICATION_FAILED"


class NotConfirmed(ConsoleError):
    """Who was asked did not agree, or nobody was there to be asked."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "NOT_CONFIRMED"


class SitesFailed(ConsoleError):
    """Sites refused what was asked of them, or did not answer.

    Args:
        codes: site → its error code.
        is_partial: whether others did answer.
    """

    def __init__(self, codes: Mapping[str, str], *, is_partial: bool) -> None:
        said = ", ".join(f"{site}: {word(code)}" for site, code in codes.items())
        super().__init__("Not every site did it" if is_partial else "No site did it", why=said)
        code = codes[min(codes)] if len(set(codes.values())) == 1 else "SITES_FAILED"
        self.exit_code = ExitCode.PARTIAL if is_partial else exit_code_of_sites(codes.values())
        self.error_code = code


class CommandsFailed(ConsoleError):
    """Some lines of a script failed, and it went on as it was told.

    Args:
        failed: how many.
        first: the error of the first one, whose exit code is the script's.
    """

    def __init__(self, failed: int, first: ClouddeployError) -> None:
        super().__init__(f"{failed} command{'' if failed == 1 else 's'} failed", why=f"the first: {first}")
        self.exit_code, self.error_code = first.exit_code, first.error_code
