"""Breaks a federation in every way that is known, on this machine, and says what came of it.

Each case is a test with the mark `fault`, in tests/; this runs all of them one after the other, also those that the
suite leaves to the night. `--sample` runs those that the suite runs too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from measure import show

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Case:
    """One fault.

    Attributes:
        fault: what is broken.
        outcome: what has to come of it.
        test: which test shows it.
        verdict: what came of it: `passed`, `failed` or why it could not be tried.
        seconds: how long it took.
    """

    fault: str
    outcome: str
    test: str
    verdict: str = "not run"
    seconds: float = 0.0


@dataclass(eq=False)
class Faults:
    """A plugin of pytest that picks the marked tests and notes how each ends."""

    cases: dict[str, Case] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Note what each test breaks."""
        for item in items:
            mark = item.get_closest_marker("fault")
            if mark is not None:
                fault, outcome = mark.args
                callspec = getattr(item, "callspec", None)
                if callspec is not None:
                    fault = f"{fault} ({callspec.id})"
                self.cases[item.nodeid] = Case(fault, outcome, item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how one ended."""
        case = self.cases.get(report.nodeid)
        if case is None:
            return
        case.seconds += report.duration
        if report.failed:
            case.verdict = "failed"
        elif report.skipped:
            case.verdict = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else "skipped"
        elif report.when == "call":
            case.verdict = "passed"


def run(*, is_sample: bool) -> list[Case]:
    """Run the cases; what pytest itself says goes to standard error."""
    faults = Faults()
    which = "fault and not nightly" if is_sample else "fault"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        # What a failed test has left open is no reason to lose the table.
        words = ["-W", "default::pytest.PytestUnraisableExceptionWarning", "-p", "no:cacheprovider"]
        status = pytest.main(["-m", which, "-q", *words, "--rootdir", str(ROOT), str(ROOT / "tests")], [faults])
    cases = [case for case in faults.cases.values() if case.verdict != "not run"]
    if not cases:
        sys.exit(f"the cases could not be run:\n{said.getvalue()[-4000:]}")
    if status != pytest.ExitCode.OK:
        sys.stderr.write(said.getvalue())
    return list(faults.cases.values())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--sample", action="store_true", help="only what the suite runs too")
    given = parser.parse_args()
    cases = run(is_sample=given.sample)
    passed = [case for case in cases if case.verdict == "passed"]
    failed = [f"{case.fault}: {case.verdict} ({case.test})" for case in cases if case.verdict != "passed"]
    results = {"cases": len(cases), "passed": len(passed), "failed": failed}
    rows = [("fault", "has to", "did", "s")]
    rows += [(case.fault, case.outcome, case.verdict, f"{case.seconds:.1f}") for case in cases]
    show(results, rows, as_json=given.output == "json")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
