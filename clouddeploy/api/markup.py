"""HTML for notebooks: tables, in which nothing that others wrote is taken for markup; pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def cell(value: object) -> str:
    """Return what stands in a cell: the text of a value, harmless in HTML."""
    return escape(printable("" if value is None else str(value)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """Return a table with a head."""
    caption = f"<caption>{cell(title)}</caption>" if title else ""
    top = "".join(f"<th>{cell(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table>{caption}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def record(values: Mapping[str, object], *, title: str = "") -> str:
    """Return a table of names and values, without those that say nothing."""
    return table(("", ""), [(name, value) for name, value in values.items() if value not in ("", None)], title=title)
