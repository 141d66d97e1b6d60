"""Tables and lists for people, in signs that every terminal and file has; what others wrote stays in its cell."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def boxed(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a box under a head; a cell stays in its line, whatever it holds."""
    cells = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def pairs(values: Sequence[tuple[str, object]]) -> str:
    """Return names and values below each other."""
    width = max((len(name) for name, _ in values), default=0)
    return "\n".join(f"{one_line(name):<{width}}  {one_line(value)}".rstrip() for name, value in values)


def one_line(value: object) -> str:
    """Return a value in one line, harmless to a terminal: it can neither steer it nor look like a row of its own."""
    return printable(str(value)).replace("\n", "\\n")


def moment(text: str) -> str:
    """Return a time as the server writes it to the second, which is enough for people and a third shorter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return found.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if found.tzinfo else text
