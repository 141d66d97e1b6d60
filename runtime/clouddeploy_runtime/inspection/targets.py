"""Whom a question is for: the server, sites by name, or all of a kind; in the words that its asker signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = "server"
CLIENTS = "client"
"""Every connected client."""
ALL = "all"
"""The server and every connected client."""
_MAX_NAMES = 1000
_BETWEEN = ","
"""No participant's name holds it."""


def written(target: str | Sequence[str]) -> str:
    """Return a target as it is signed: one of the words, or names with commas between and after them.

    Raises:
        InvalidTarget: nothing is named, or what is no name.
    """
    if isinstance(target, str) and target in {SERVER, CLIENTS, ALL}:
        return target
    names = [target] if isinstance(target, str) else list(target)
    if not names or len(names) > _MAX_NAMES or any(not name or _BETWEEN in name for name in names):
        raise InvalidTarget("The target cannot be used", why=f"it is {target!r}", hint="Name a site, or `all`.")
    return "".join(f"{name}{_BETWEEN}" for name in dict.fromkeys(names))


def names_of(target: str) -> tuple[str, ...]:
    """Return the names in a target; none for one of the words."""
    return tuple(filter(None, target.split(_BETWEEN))) if _BETWEEN in target else ()


def means(target: str, name: str, *, is_server: bool = False) -> bool:
    """Tell whether a participant is meant."""
    named = names_of(target)
    if named:
        return name in named or (is_server and SERVER in named)
    return target in {ALL, SERVER if is_server else CLIENTS}
