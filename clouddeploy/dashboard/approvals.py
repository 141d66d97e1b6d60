"""What an approval is given for: whoever approves says by a digest what they saw, and nothing else gets approved.

Who waits may still change what they said, and SQLite gives the id of what was deleted to what comes next: an id alone
says neither who nor what is meant.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard import model
from clouddeploy.dashboard.errors import Changed, DigestNeeded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SIGNS = 32
"""128 bits: nobody finds two records with the same."""


def digest(row: model.User | model.Site) -> str:
    """Returns a digest of all that is told of somebody or of a site; another one with each change of it."""
    if isinstance(row, model.User):
        said: tuple[Any, ...] = ("user", row.email, row.name, row.role)
    else:
        # Not as they are: what was just sent may be a whole number, what is read from the tables is none.
        said = ("client", row.name, row.creator.email, int(row.num_of_gpus), float(row.mem_per_gpu_in_gib))
    common = (row.id, row.description, row.organization.name, int(row.approval_state), row.download_count)
    return hashlib.sha256(json.dumps([*said, *common]).encode()).hexdigest()[:_SIGNS]


def check(row: model.User | model.Site, *, changes: Mapping[str, Any], seen: Collection[str] | None) -> None:
    """Refuses what was decided about something else than what there is.

    Args:
        row: what there is now, held.
        changes: what is asked for; an approval must say what was seen.
        seen: digests, one of which must be that of `row`; None: it was not said.

    Raises:
        Changed: it is another now.
        DigestNeeded: it would be approved, and nothing was said.
    """
    name = row.email if isinstance(row, model.User) else row.name
    is_approved = changes.get("approval_state", -1) > 0 and changes["approval_state"] != row.approval_state
    if seen is None and is_approved:
        raise DigestNeeded(
            "nothing was approved",
            why=f"it was not said as what {name} was seen",
            hint="read it, then send its digest in the header If-Match",
        )
    if seen is not None and digest(row) not in seen:
        raise Changed("nothing was changed", why=f"{name} has changed since it was seen", hint="look at it again")
