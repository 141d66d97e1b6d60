"""Version numbers as packages declare them, so far as the runtime's own declarations need; pure.

A site has no library for it, and the runtime's wheel asks for releases only (PEP 440 without pre-releases and `~=`).
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_RELEASE = re.compile(r"\d+(?:\.\d+)*")
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*([^,\s]+)")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*\(?([^;()]*)\)?\s*(;.*)?")
_COMPARE: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_LONGEST = 6


def requirements(declared: Iterable[str]) -> dict[str, str]:
    """Return what a distribution always needs, name → versions; what depends on an extra or the machine is left out."""
    matches = (_REQUIREMENT.fullmatch(one.strip()) for one in declared)
    return {match[1]: match[2].strip() for match in matches if match and not match[3]}


def fits(version: str, specifier: str) -> bool:
    """Tell whether a version is one of those asked for; a clause of an unknown kind is taken as met."""
    clauses = _CLAUSE.findall(specifier)
    return all(_COMPARE[sign](_release(version), _release(bound)) for sign, bound in clauses)


def _release(version: str) -> tuple[int, ...]:
    found = _RELEASE.match(version)
    parts = [int(part) for part in found[0].split(".")] if found else []
    return tuple((parts + [0] * _LONGEST)[:_LONGEST])
