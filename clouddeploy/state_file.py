"""The format of the state: its schema, what older ones looked like, and how they become the newest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from clouddeploy_providers.resources import Kind  # noqa: TC002 - msgspec resolves the annotation

from clouddeploy.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMA = 2


class RefBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `ResourceRef`."""

    kind: Kind
    name: str
    id: str
    outputs: dict[str, str]
    is_adopted: bool = False


class RecordBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Record`."""

    ref: RefBody
    site: str
    provider: str
    settings: dict[str, str]
    fingerprint: dict[str, str]
    created: str = ""


class StateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    schema: int
    deployment: str
    project: str
    serial: int
    resources: dict[str, RecordBody]
    attempts: dict[str, int]
    sites: dict[str, dict[str, str]]
    pins: dict[str, dict[str, str]] = {}
    expires_at: str = ""


def _to_2(body: dict[str, Any]) -> dict[str, Any]:
    """Adoption, pins and an end are new in 2; none of them was possible in 1.

    Places are named in more detail since, so the old names are left out: what they were is in the settings.
    """
    resources = body.get("resources")
    for record in resources.values() if isinstance(resources, dict) else ():
        if isinstance(record, dict) and isinstance(record.get("fingerprint"), dict):
            record["fingerprint"].pop("place", None)
    return {**body, "schema": 2, "pins": {}, "expires_at": ""}


MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_to_2,)
"""The nth takes schema n + 1 to n + 2; an old file goes through all that follow its own."""


def parse(body: bytes, where: str) -> tuple[StateBody, int]:
    """Returns the state in the newest schema, and the schema it was written in.

    Raises:
        StateError: the file is damaged, was edited into something else, or is from a newer version.
    """
    hint = f"restore {where} from a backup, or correct what was edited; the journal beside it is intact"
    try:
        raw = json.loads(body)
    except ValueError as error:
        raise StateError(f"cannot read the state {where}", why=str(error), hint=hint) from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise StateError(f"cannot read the state {where}", why="it does not say its schema", hint=hint)
    if schema > SCHEMA:
        raise StateError(
            f"{where} has schema {schema}, this version knows {SCHEMA}",
            why="a newer clouddeploy wrote it",
            hint="use that version; this one would lose what it does not know",
        )
    for migrate in MIGRATIONS[schema - 1 :]:
        raw = migrate(raw)
    try:
        return msgspec.convert(raw, StateBody), schema
    except msgspec.ValidationError as error:
        raise StateError(f"cannot read the state {where}", why=str(error), hint=hint) from error


def render(body: Mapping[str, object]) -> bytes:
    """Returns the file's content.

    Args:
        body: the members of a `StateBody`. It may hold the dataclasses that a `RecordBody` stands for: they are
            written as they are, since a deployment of many sites is written hundreds of times.
    """
    return msgspec.json.format(msgspec.json.encode(body, enc_hook=dict), indent=2) + b"\n"
