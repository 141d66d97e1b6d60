"""A report for people, one line and one table with a frame, and for programs."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.preflight.findings import Status

if TYPE_CHECKING:
    from clouddeploy_runtime.errors import ClouddeployError
    from clouddeploy_runtime.preflight.findings import Finding, Report

SCHEMA_VERSION = "1"
HEAD = ("Checks", "Problems", "How to fix")
NO_PROBLEM, NO_FIX = "PASSED", "N/A"
_WIDTHS = (34, 64, 48)


def table(report: Report, *, is_verbose: bool = False) -> str:
    """Return what a terminal shows.

    Args:
        report: what was found.
        is_verbose: tell of checks that passed what they saw.
    """
    rows = [HEAD, *((one.check, _problem(one, is_verbose), one.remedy or NO_FIX) for one in report.findings)]
    cells = [[_wrapped(cell, width) for cell, width in zip(row, _WIDTHS, strict=True)] for row in rows]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(HEAD))]
    rule = "+".join(("", *("-" * (width + 2) for width in widths), ""))
    lines = [f"Checking Package: {printable(str(report.package))}", rule]
    lines += [*_framed(cells[0], widths), rule]
    for row in cells[1:]:
        lines += _framed(row, widths)
    return "\n".join([*lines, rule])


def envelope(report: Report | None, refusal: ClouddeployError | None) -> str:
    """Return what a program reads: the envelope of the operator's commands, so that it need not know who wrote it.

    Args:
        report: what was found; None: there is no kit to look at.
        refusal: why the kit must not be started; None: it may.
    """
    document: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "status": "error" if refusal is not None else "ok",
        "exit_code": int(refusal.exit_code) if refusal is not None else 0,
        "data": report.document() if report is not None else None,
    }
    if refusal is not None:
        document |= {"error_code": refusal.error_code, "message": str(refusal), "hint": refusal.hint}
    return json.dumps(document)


def _problem(one: Finding, is_verbose: bool) -> str:
    if one.status is Status.PASS:
        return f"{NO_PROBLEM}: {one.details}" if is_verbose and one.details else NO_PROBLEM
    word = {Status.WARN: "WARNING: ", Status.SKIPPED: "SKIPPED: "}.get(one.status, "")
    return word + one.details


def _wrapped(text: str, width: int) -> list[str]:
    # A path that is cut in two could not be copied.
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _framed(row: list[list[str]], widths: list[int]) -> list[str]:
    height = max(len(cell) for cell in row)
    padded = [cell + [""] * (height - len(cell)) for cell in row]
    return [
        "| " + " | ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) + " |"
        for line in zip(*padded, strict=True)
    ]
