"""A site's privacy policy, `local/privacy.json`: which filters it puts on the jobs of each privacy scope.

The file is the reference's. Where there is none, nothing is filtered but by the jobs themselves. Where there is one, a
job runs in one of its scopes or not at all; a file that cannot be used lets no job run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.jobs import known

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "privacy.json"
_SHOWN = f"local/{FILE}"
"""Submitters read it; where the kit lies is not their business."""
VARIABLE = "CLOUDDEPLOY_PRIVACY_SCOPE"
"""How a job's process learns of its scope, as JSON; a script finds the scope's properties there."""
_MAX_BYTES = 64 << 10
"""Of one scope: the kernel takes 128 KiB in a variable."""
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_BY_NAME: Mapping[str, str] = {path.rpartition(".")[2]: path for path in sorted(known.FILTERS, reverse=True)}
"""The reference also takes a class without its module."""
_FILE_KEYS = frozenset({"format_version", "scopes", "default_scope"})
_SCOPE_KEYS = frozenset({"name", "properties", "task_data_filters", "task_result_filters"})
_FILTER_KEYS = frozenset({"id", "path", "class_path", "name", "args", "direction"})
_DIRECTIONS: Mapping[str, str] = {"task_data_filters": "in", "task_result_filters": "out"}
"""Which way a site passes each on; the other way there is nothing for a filter to see."""


class ScopeRefused(RuntimeFault):
    """This site has no privacy scope for a job, or its policy cannot be used."""

    error_code = "PRIVACY_SCOPE_REFUSED"


class Entry(msgspec.Struct, frozen=True):
    """One filter of a scope.

    Attributes:
        path: its class, `package.module.Class`.
        args: what it is made with.
        where: file, scope and key, for messages.
    """

    path: str
    args: dict[str, Any]
    where: str


class Scope(msgspec.Struct, frozen=True):
    """One kind of use of a site's data, and what becomes of all that jobs of this kind exchange with the server.

    Attributes:
        name: as jobs call it.
        properties: of the site's own choice, for its scripts.
        data: filters for what comes from the server, in their order.
        result: filters for what goes back.
    """

    name: str
    properties: dict[str, Any] = {}
    data: tuple[Entry, ...] = ()
    result: tuple[Entry, ...] = ()

    def environment(self) -> Mapping[str, str]:
        """Return the variable by which a job's process learns of it; `given` reads it."""
        return {VARIABLE: msgspec.json.encode(self).decode()}


@dataclass(frozen=True)
class Policy:
    """The scopes of a site."""

    scopes: Mapping[str, Scope]
    default: str = ""
    """The scope of jobs that name none; empty: they do not run."""

    def choose(self, wanted: str) -> Scope:
        """Return the scope that a job runs in.

        Args:
            wanted: what its meta.json says; empty: nothing.

        Raises:
            ScopeRefused: there is none.
        """
        has = ", ".join(sorted(self.scopes))
        if not wanted and not self.default:
            raise ScopeRefused(
                "a job without a privacy scope is not allowed",
                why=f"{_SHOWN} has no default_scope",
                hint=f'Give the job\'s meta.json a "scope": {has}.',
            )
        found = self.scopes.get(wanted or self.default)
        if found is None:
            raise ScopeRefused(
                f"privacy scope {wanted!r} is not allowed",
                why=f"{_SHOWN} has {has}",
                hint="Name one of them in the job's meta.json, or ask the site for yours.",
            )
        return found


def load(local: Path) -> Policy | None:
    """Read the policy of a kit's `local` folder; None when there is no file.

    Raises:
        ScopeRefused: it cannot be read, or says what is not known; names all problems.
    """
    path = local / FILE
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as exc:
        if path.is_symlink():  # what it led to is gone, and with it what the owner wanted
            raise _bad("it is a link to nothing") from exc
        return None
    except OSError as exc:
        raise _bad(exc.strerror or "it cannot be read") from exc
    except (ValueError, RecursionError) as exc:
        raise _bad(str(exc)) from exc
    reader = _Reader()
    policy = reader.policy(document)
    if reader.problems:
        raise _bad("; ".join(reader.problems))
    return policy


def given(environment: Mapping[str, str]) -> Scope | None:
    """Return the scope that a job's process was given; None: none.

    Raises:
        msgspec.MsgspecError: something else stands there.
    """
    text = environment.get(VARIABLE)
    return None if text is None else msgspec.json.decode(text, type=Scope)


def _bad(why: str) -> ScopeRefused:
    return ScopeRefused(
        f"no job may run: {_SHOWN} cannot be used", why=why, hint="The owner of the site must correct it."
    )


class _Reader:
    """Collects the scopes of one file and every problem in it: a word that is passed over could be a protection."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def policy(self, document: Any) -> Policy:
        scopes: dict[str, Scope] = {}
        if not isinstance(document, dict):
            self.problems.append("it is not an object")
            return Policy(scopes)
        self._check_keys(document, _FILE_KEYS, "")
        entries = document.get("scopes")
        if not isinstance(entries, list) or not entries:
            self.problems.append('"scopes" must be a list of at least one')
            entries = []
        for number, entry in enumerate(entries):
            scope = self._scope(entry, f"scopes[{number}]")
            if scope is not None and scope.name in scopes:
                self.problems.append(f'there are two scopes "{scope.name}"')
            elif scope is not None:
                scopes[scope.name] = scope
        default = document.get("default_scope") or ""
        if default and not (isinstance(default, str) and default in scopes):
            self.problems.append(f'"default_scope" is {default!r}, and there is no such scope')
            default = ""
        return Policy(scopes, str(default))

    def _check_keys(self, holder: Mapping[str, Any], known_keys: frozenset[str], where: str) -> None:
        self.problems += [f'{where}"{key}" is not known' for key in holder if key not in known_keys]

    def _scope(self, entry: Any, where: str) -> Scope | None:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.isprintable() or not name:
            self.problems.append(f'{where} must be an object with a "name"')
            return None
        where = f'scope "{name}": '
        self._check_keys(entry, _SCOPE_KEYS, where)
        properties = entry.get("properties") or {}
        if not isinstance(properties, dict):
            self.problems.append(f'{where}"properties" must be an object')
            return None
        scope = Scope(
            name,
            properties,
            data=tuple(self._filters(entry, "task_data_filters", where)),
            result=tuple(self._filters(entry, "task_result_filters", where)),
        )
        if len(msgspec.json.encode(scope)) > _MAX_BYTES:
            self.problems.append(f"{where}it is larger than {_MAX_BYTES} bytes")
        return scope

    def _filters(self, scope: Mapping[str, Any], key: str, where: str) -> list[Entry]:
        entries = scope.get(key) or []
        if not isinstance(entries, list):
            self.problems.append(f'{where}"{key}" must be a list')
            return []
        found = [self._filter(entry, key, f"{where}{key}[{number}]") for number, entry in enumerate(entries)]
        return [one for one in found if one is not None]

    def _filter(self, entry: Any, key: str, where: str) -> Entry | None:
        if not isinstance(entry, dict):
            self.problems.append(f"{where} must be an object")
            return None
        self._check_keys(entry, _FILTER_KEYS, f"{where}: ")
        name = entry.get("name")
        path = entry.get("path", entry.get("class_path", _BY_NAME.get(name) if isinstance(name, str) else None))
        args = entry.get("args") or {}
        direction, used = str(entry.get("direction") or _DIRECTIONS[key]).lower(), _DIRECTIONS[key]
        if not isinstance(path, str) or not _CLASS.fullmatch(path):
            self.problems.append(f'{where} must name its class by "path", the whole package.module.Class')
        elif not isinstance(args, dict):
            self.problems.append(f'{where}: "args" must be an object')
        elif direction not in {used, "inout"}:
            self.problems.append(f'{where}: "direction" is {direction!r}, and a site has {key} only for {used!r}')
        else:
            return Entry(path, args, f"{_SHOWN}: {where}")
        return None
