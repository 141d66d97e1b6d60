"""What a preflight found: one finding for each check, and the report that they make up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ExitCode, RuntimeFault, printable
from clouddeploy_runtime.preflight.codes import CODES, Level

if TYPE_CHECKING:
    from pathlib import Path


class PackageRefused(RuntimeFault):
    """A check of a startup kit failed: it should not be started."""

    exit_code = ExitCode.FAILED
    error_code = "PREFLIGHT_FAILED"


class Status(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - the word of the report
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, as it stands in the table.
        status: how it ended.
        code: stable name of what was found, see `codes.CODES`; empty: nothing.
        details: what was found, for people; without line breaks.
        remedy: what the reader can do.
    """

    check: str
    status: Status
    code: str = ""
    details: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All that was found of one kit."""

    package: Path
    component: str
    """The participant's kind; `kit` while it is not known."""
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """The checks that failed."""
        return [one for one in self.findings if one.status is Status.FAIL]

    @property
    def refusal(self) -> PackageRefused | None:
        """The error to end with, which names the first problem; None: there is none."""
        if not self.problems:
            return None
        first = self.problems[0]
        refusal = PackageRefused(f"{self.package} must not be started", why=first.details, hint=first.remedy)
        refusal.error_code = first.code
        return refusal

    def document(self) -> dict[str, Any]:
        """Return the report as it stands in JSON."""
        checks = [
            {
                "component": self.component,
                "check": one.check,
                "status": one.status.value,
                "code": one.code,
                "details": one.details,
                "remedy": one.remedy,
            }
            for one in self.findings
        ]
        return {"package": str(self.package), "checks": checks, "overall": "fail" if self.problems else "pass"}


def passed(check: str, details: str = "") -> Finding:
    """Return that a check found nothing wrong."""
    return Finding(check, Status.PASS, details=_line(details))


def skipped(check: str, why: str) -> Finding:
    """Return that a check was not made."""
    return Finding(check, Status.SKIPPED, details=_line(why))


def found(check: str, code: str, details: str, *, remedy: str = "") -> Finding:
    """Return that a check found something, a failure or a warning as the code says.

    Args:
        check: its name.
        code: one of `CODES`.
        details: what exactly; may quote what others wrote.
        remedy: what to do besides what the code says.
    """
    known = CODES[code]
    status = Status.FAIL if known.level is Level.FAIL else Status.WARN
    return Finding(check, status, code, _line(details), _line(f"{known.remedy} {remedy}".strip()))


def _line(text: str) -> str:
    return printable(text).replace("\n", " ")
