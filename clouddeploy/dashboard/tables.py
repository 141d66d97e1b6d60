"""Lists as CSV, for a spreadsheet: what others wrote is text there too, and no formula."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import printable

from clouddeploy.dashboard import people, sites
from clouddeploy.dashboard.listing import MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clouddeploy.dashboard.desk import Visit
    from clouddeploy.dashboard.listing import Page, Wanted

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""With these spreadsheets begin to calculate (OWASP, "CSV Injection")."""
USERS = ("id", "email", "name", "organization", "role", "approval_state", "download_count", "created_at")
SITES = (
    "id", "name", "organization", "creator", "num_of_gpus", "mem_per_gpu_in_gib", "approval_state", "download_count",
    "created_at",
)  # fmt: skip


def users(visit: Visit, wanted: Wanted) -> str:
    """Returns the people whom a search finds, all of them, as CSV with a heading."""
    rows = _all(lambda part: people.find(visit, part), wanted)
    return _csv(USERS, (_row(one, USERS) for one in rows))


def site_list(visit: Visit, wanted: Wanted) -> str:
    """Returns the sites that a search finds, all of them, as CSV with a heading."""
    find = sites.find if visit.me.approval.is_approved else sites.own
    return _csv(SITES, (_row(one, SITES) for one in _all(lambda part: find(visit, part), wanted)))


def safe(value: object) -> str:
    """Returns a cell's text; an apostrophe before what would be a formula says that it is text."""
    text = printable(str(value))
    is_number = isinstance(value, int | float)
    return f"'{text}" if not is_number and str(value).lstrip(" ").startswith(_FORMULA) else text


def _all(find: Callable[[Wanted], Page[Any]], wanted: Wanted) -> Iterator[Any]:
    number = 1
    while True:
        found = find(replace(wanted, page=number, per_page=MOST))
        yield from found.rows
        if number >= found.last:
            return
        number += 1


def _row(one: Any, columns: Sequence[str]) -> list[object]:
    named = {"organization": lambda: one.organization.name, "creator": lambda: one.creator.email}
    return [named[column]() if column in named else getattr(one, column) for column in columns]


def _csv(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(heading)
    writer.writerows([safe(cell) for cell in row] for row in rows)
    return buffer.getvalue()
