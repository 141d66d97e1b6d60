"""Rendering only: tables, progress lines and the JSON envelope. It knows no rule of the domain."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, ExitCode, printable

from clouddeploy.tables import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy.scheduler import Event

SCHEMA_VERSION = "1"


class Output:
    """Where a command's words go: JSON on stdout and nothing else there, or text for people.

    Args:
        as_json: one envelope on stdout, progress on stderr.
        verbose: tracebacks and start events too.
        has_lines: with `as_json`, each item is a line of JSON on stdout too, before the envelope.
    """

    def __init__(self, *, as_json: bool, verbose: bool, has_lines: bool = False) -> None:
        self.as_json = as_json
        self.has_lines = has_lines
        self.verbose = verbose

    def result(self, data: object, text: str, *, exit_code: ExitCode = ExitCode.OK) -> None:
        """Ends a command that worked."""
        if self.as_json:
            envelope = {"schema_version": SCHEMA_VERSION, "status": "ok", "exit_code": int(exit_code), "data": data}
            print(json.dumps(envelope))
        else:
            print(text)

    def error(self, error: ClouddeployError, *, data: object = None) -> None:
        """Ends a command that failed: what, why, what to do; `data` is what it found out nevertheless."""
        if self.as_json:
            envelope = {
                "schema_version": SCHEMA_VERSION,
                "status": "error",
                "exit_code": int(error.exit_code),
                "data": data,
                "error_code": error.error_code,
                "message": str(error),
                "hint": error.hint,
            }
            print(json.dumps(envelope))
            return
        print(f"Error: {printable(error.what)}.", file=sys.stderr)
        if error.why:
            print(f"  Why: {printable(error.why)}", file=sys.stderr)
        if error.hint:
            print(f"  Do:  {printable(error.hint)}", file=sys.stderr)

    def say(self, line: str) -> None:
        """Tells a person what is going on."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def item(self, data: object, text: str) -> None:
        """Tells one of several results as it comes."""
        if not self.as_json:
            self.say(text)
        elif self.has_lines:
            print(json.dumps(data), flush=True)
        else:
            self.say(json.dumps(data))

    def event(self, event: Event) -> None:
        """Tells a person that a step started or ended."""
        if event.phase == "start" and not self.verbose:
            return
        line = f"  {event.site:<12} {event.title:<28} {event.phase}"
        if event.phase in {"done", "again", "failed"}:
            line += f" {event.seconds:6.2f} s"
        if event.error is not None:
            line += f"  {event.error}"
        self.say(printable(line))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns rows as aligned columns under a head."""
    cells = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
