"""What can be wrong with a startup kit.

    KitError          missing, malformed or of a kind that cannot be used     exit 4
    ├── KitTampered   a file is not the one that the project signed           exit 4
    ├── KitExpired    the certificate's time has not come or is over          exit 4
    └── KitRevoked    the certificate was revoked or replaced by a newer one  exit 4

OSError and the errors of cryptography and msgspec become one of these inside the package.
"""

from __future__ import annotations

from clouddeploy_runtime.errors import ExitCode, RuntimeFault


class KitError(RuntimeFault):
    """A startup kit cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "KIT_UNUSABLE"


class KitTampered(KitError):
    """A kit is not what the project's authority signed.

    Args:
        problems: path under the kit → what is wrong with it; at least one.
    """

    error_code = "KIT_TAMPERED"

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__(
            "the startup kit was changed after it was signed",
            why="; ".join(f"{_printable(path)}: {problem}" for path, problem in problems.items()),
            hint="do not start it: get the kit again from the project admin, over a channel you trust",
        )
        self.problems = problems
        self.path = next(iter(problems))
        """The first path concerned, relative to the kit."""


def _printable(path: str) -> str:
    """Escape what a terminal would act on: the name of a file that somebody added is somebody's words."""
    return path if path.isprintable() else ascii(path)[1:-1]


class KitExpired(KitError):
    """The participant's certificate is not valid now."""

    error_code = "KIT_EXPIRED"


class KitRevoked(KitError):
    """The participant's certificate was revoked, or a newer one has been in use on this machine."""

    error_code = "KIT_REVOKED"
