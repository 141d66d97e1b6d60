"""What can go wrong while startup kits are made.

    ProvisionError            the root of this package                                        exit 1
    ├── ProjectFileError      the project file has one or more problems; all are listed       exit 4
    ├── CaError               the authority's folder is missing, damaged or too open          exit 4
    ├── PassphraseError       no passphrase, or not the one the authority was made with       exit 4
    ├── ResultError           no further result can be written, or a result is damaged        exit 4
    ├── BuilderFailed         a builder of the project file failed                            exit 1
    ├── ArchiveError          a request or an approval cannot be used                         exit 4
    └── ProvisionLocked       another run holds the project                                   exit 7

OSError, yaml's, pydantic's and cryptography's errors become one of these at the module that calls the library. A failed
run leaves no `prod_NN` behind, whatever the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence


class ProvisionError(ClouddeployError):
    """Startup kits could not be made."""

    error_code = "PROVISION_FAILED"


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a project file."""

    file: str
    line: int
    """From 1; 0 when the file as a whole is meant."""
    key: str = ""
    """The path of the key in the file, for example `participants[2].org`."""
    participant: str = ""
    rule: str = ""
    """What must hold."""
    example: str = ""

    def __post_init__(self) -> None:
        """Keep it on one line, whatever the value that it quotes."""
        for name in ("key", "participant", "rule"):
            object.__setattr__(self, name, getattr(self, name).replace("\n", "\\n"))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = ", ".join(part for part in (self.participant, self.key) if part)
        text = f"{place}: {subject}: {self.rule}" if subject else f"{place}: {self.rule}"
        return f"{text} (example: {self.example})" if self.example else text


class ProjectFileError(ProvisionError):
    """A project file cannot be used; says everything that is wrong with it at once."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "PROJECT_FILE"

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        ordered = tuple(sorted(problems, key=lambda one: (one.file, one.line, one.key, one.rule)))
        count = f"{len(ordered)} problems" if len(ordered) != 1 else "1 problem"
        super().__init__(
            f"{file} cannot be used, {count}",
            why="\n".join(str(one) for one in ordered),
            hint="correct the file and run the command again; nothing was changed",
        )
        self.problems = ordered


class CaError(ProvisionError):
    """The authority's folder cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "CERTIFICATE_AUTHORITY"


class PassphraseError(ProvisionError):
    """The passphrase is missing or wrong."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "CA_PASSPHRASE"


class ResultError(ProvisionError):
    """The folder of results cannot take another one, or a result in it cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "PROVISION_RESULT"


class ProvisionLocked(ProvisionError):
    """Another run is making kits for the same project."""

    exit_code = ExitCode.LOCKED
    error_code = "PROVISION_LOCKED"


class BuilderFailed(ProvisionError):
    """A builder could not do its work; the kits of this run are gone, those of earlier runs stand."""

    error_code = "BUILDER_FAILED"
