"""The two files with a server's studies: the kit's registry, and what commands have changed of it since. Pure.

The kit's `local/study_registry.json` is the reference's format, with the roles of some members beside the names of all
(or, as its documentation has it, a mapping of names to roles in place of the names). The workspace's `studies.json`
holds, for each study that a command has touched, what it is now, or that it is gone, and what the kit said before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from clouddeploy_runtime.studies.errors import InvalidStudy, StudyFault
from clouddeploy_runtime.studies.study import Study

if TYPE_CHECKING:
    from collections.abc import Mapping

KIT_FILE = "study_registry.json"
CHANGES_FILE = "studies.json"


class _Entry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One study, as both files write it."""

    site_orgs: dict[str, list[str]] = {}
    admins: list[str] | dict[str, str] = []
    roles: dict[str, str] = {}
    user_orgs: dict[str, str] = {}
    """Not the reference's: members who count only with a certificate of this organisation."""


class _Registry(msgspec.Struct, forbid_unknown_fields=True):
    format_version: Literal["1.0"]
    studies: dict[str, _Entry | None]


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    study: _Entry | None
    """None: it was removed."""
    based_on: str
    """Digest of the kit's entry when it was changed first; empty: the kit had none."""


class _Changes(msgspec.Struct, forbid_unknown_fields=True):
    format_version: Literal["1.0"]
    changes: dict[str, _Change]


@dataclass(frozen=True)
class Change:
    """What commands have made of one study."""

    study: Study | None
    """None: it was removed."""
    based_on: str
    """Digest of the kit's entry when it was changed first; empty: the kit had none."""


def parse_kit(content: bytes) -> dict[str, Study]:
    """Read the kit's registry.

    Raises:
        InvalidStudy: it does not follow the format, or an entry contradicts itself; says which and how.
    """
    try:
        registry = msgspec.convert(_document(content), _Registry)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise InvalidStudy("The registry of studies cannot be used", why=str(exc)) from exc
    return {name: _study(name, entry or _Entry()) for name, entry in registry.studies.items()}


def parse_changes(content: bytes) -> dict[str, Change]:
    """Read what commands have changed.

    Raises:
        InvalidStudy: as in `parse_kit`.
    """
    try:
        found = msgspec.convert(_document(content), _Changes).changes
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise InvalidStudy("The changed studies cannot be used", why=str(exc)) from exc
    return {
        name: Change(None if one.study is None else _study(name, one.study), one.based_on)
        for name, one in found.items()
    }


def _document(content: bytes) -> Any:
    """Return what a file says; of a study that stands there twice nobody knows which one is meant."""
    return json.loads(content, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def encode_changes(changes: Mapping[str, Change]) -> bytes:
    """Write what commands have changed."""
    document = _Changes(
        format_version="1.0",
        changes={
            name: _Change(None if one.study is None else _entry(one.study), one.based_on)
            for name, one in sorted(changes.items())
        },
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def digest(study: Study | None) -> str:
    """Return what a kit's entry is recognised by; empty when there is none."""
    if study is None:
        return ""
    return hashlib.sha256(msgspec.json.encode(_entry(study), order="deterministic")).hexdigest()


def _study(name: str, entry: _Entry) -> Study:
    given = entry.admins
    users = dict(given) if isinstance(given, dict) else dict.fromkeys(given, "")
    if strangers := sorted(set(entry.roles) - set(users)):
        raise InvalidStudy(
            f"The study {name!r} cannot be used", why=f"it gives a role to {strangers[0]!r}, who is no member"
        )
    try:
        return Study(
            name=name,
            site_orgs={org: tuple(sites) for org, sites in entry.site_orgs.items() if sites},
            users={**users, **entry.roles},
            user_orgs=dict(entry.user_orgs),
        ).checked()
    except StudyFault as exc:
        raise InvalidStudy(f"The study {name!r} cannot be used", why=str(exc), hint=exc.hint) from exc


def _entry(study: Study) -> _Entry:
    return _Entry(
        site_orgs={org: list(sites) for org, sites in study.site_orgs.items()},
        admins=list(study.users),
        roles={name: role for name, role in study.users.items() if role},
        user_orgs=dict(study.user_orgs),
    )
