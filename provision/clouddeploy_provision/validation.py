"""Says everything that is wrong with a project file: what its schema forbids, and what no single key can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_provision import schema, topology
from clouddeploy_provision.builders import catalogue
from clouddeploy_provision.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clouddeploy_provision.yaml_source import Key, Source

NOT_SUPPORTED = {
    "edge": "generated trees of simulated sites are not supported; write the relays and clients down",
    "edge_service_port": "edge devices are not supported",
    "cc_config": "confidential computing is not supported",
}
"""Keys of the reference that are known but not carried out; saying so beats a kit without them."""


def explain(source: Source, error: Any) -> Problem:
    """Translate one of pydantic's errors."""
    key = _real_key(source.data, error["loc"])
    value = error.get("input")
    context = error.get("ctx", {})
    last = str(key[-1]) if key else ""
    match error["type"]:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            rule = NOT_SUPPORTED.get(last, "unknown key")
        case "string_pattern_mismatch":
            rule = f"{schema.PATTERNS[context['pattern']]}, not {value!r}"
        case "string_too_long":
            rule = f"must have {context['max_length']} characters at most, not {len(value)}"
        case "literal_error":
            rule = f"must be {context['expected']}, not {value!r}"
        case "union_tag_invalid" | "union_tag_not_found":
            key = (*key, "type")
            last = "type"
            tag = value.get("type") if isinstance(value, dict) else value
            rule = f"must be one of {', '.join(schema.TYPES)}, not {tag!r}" if tag else "is missing"
        case "greater_than_equal" | "less_than_equal":
            lowest = error["type"] == "greater_than_equal" and context.get("ge") == 0
            rule = f"must be {0 if lowest else 1} to 65535" if "port" in last else f"is out of range: {error['msg']}"
            rule += f", not {value!r}"
        case "string_type":
            rule = f"must be text, not {value!r}; a number or a word like `yes` needs quotes"
        case _:
            rule = f"{error['msg']}, not {_short(value)}"
    return at(source, key, rule)


def at(source: Source, key: Key, rule: str) -> Problem:
    """Make a problem of a rule that is broken at a key."""
    participant = ""
    participants = source.data.get("participants")
    if len(key) > 1 and key[0] == "participants" and isinstance(participants, list) and isinstance(key[1], int):
        entry = participants[key[1]]
        participant = str(entry.get("name", "")) if isinstance(entry, dict) else ""
        participant = participant or f"participant {key[1] + 1}"
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    last = next((str(part) for part in reversed(key) if isinstance(part, str)), "")
    known = rule == "unknown key" or rule in NOT_SUPPORTED.values()
    file, line = source.place(key)
    return Problem(file, line, shown, participant, rule, "" if known else schema.EXAMPLES.get(last, ""))


def crosswise(source: Source, custom: catalogue.Custom) -> Iterator[Problem]:
    """Check what no single key can tell; works on the raw data, so that it reports beside the schema's problems."""
    data = source.data
    entries = data.get("participants")
    entries = entries if isinstance(entries, list) else []
    yield from _names(source, entries)
    for index, key, rule in topology.problems(entries):
        yield at(source, ("participants", index, *key), rule)
    yield from _studies(source, entries)
    steps = data.get("builders")
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        yield from _step(source, step, ("builders", index), custom)
    if data.get("packager") is not None:
        yield from _step(source, data["packager"], ("packager",), custom)


def _step(source: Source, step: Any, key: Key, custom: catalogue.Custom) -> Iterator[Problem]:
    """Check one builder's path and arguments."""
    if not isinstance(step, dict) or not isinstance(step.get("path"), str) or not step["path"]:
        return
    args = step.get("args") or {}
    if isinstance(args, dict):
        for name, rule in catalogue.problems(step["path"], args, custom):
            yield at(source, (*key, *name.split(".")), rule)


def _names(source: Source, entries: list[Any]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    servers = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("type") == "overseer":
            continue
        name = entry.get("name")
        if isinstance(name, str) and name in first:
            line = source.place(("participants", first[name], "name"))[1]
            rule = f"duplicate participant, {name} stands in line {line} already"
            yield at(source, ("participants", index, "name"), rule)
        elif isinstance(name, str):
            first[name] = index
        if entry.get("type") == "server":
            servers.append(index)
    if not servers:
        yield at(source, ("participants",), "missing server: exactly one participant must be of type server")
    for index in servers[1:]:
        yield at(source, ("participants", index, "type"), "exactly one participant may be of type server")


def _studies(source: Source, entries: list[Any]) -> Iterator[Problem]:
    studies = source.data.get("studies")
    if studies is None:
        return
    if source.data.get("api_version") != 4:  # noqa: PLR2004 - the version that has them
        yield at(source, ("studies",), "requires api_version: 4")
    orgs = {"client": _names_of(entries, "client"), "admin": _names_of(entries, "admin")}
    for name, study in studies.items() if isinstance(studies, dict) else ():
        key: Key = ("studies", name)
        if schema.STUDY_NAME.fullmatch(name) is None:
            yield at(
                source, key, "must have 1 to 63 lower-case letters, digits, hyphens and underscores, no sign at an end"
            )
        if name == "default":
            yield at(source, key, "is a reserved name: every job without a study belongs to it")
        if isinstance(study, dict):
            for below, rule in _study(study, sites=orgs["client"], admins=orgs["admin"]):
                yield at(source, (*key, *below), rule)


def _names_of(entries: list[Any], kind: str) -> dict[str, Any]:
    """Return name → organisation of the participants of one type."""
    found = [entry for entry in entries if isinstance(entry, dict) and entry.get("type") == kind]
    return {str(entry.get("name")): entry.get("org") for entry in found}


def _study(  # noqa: C901 - one check a line
    study: Mapping[str, Any], *, sites: Mapping[str, Any], admins: Mapping[str, Any]
) -> Iterator[tuple[Key, str]]:
    """Yield (key, rule) for each thing that is wrong with one study."""
    seen: set[str] = set()
    by_org = study.get("site_orgs")
    listed = study.get("sites")
    if by_org is not None and listed is not None:
        yield ("sites",), "says the same as site_orgs; keep one of the two"
    named: list[tuple[Key, Any, Any]] = []
    for org, names in by_org.items() if isinstance(by_org, dict) else ():
        if org not in sites.values():
            yield ("site_orgs", org), f"no client has the organisation {org}"
        for index, name in enumerate(names if isinstance(names, list) else ()):
            named.append((("site_orgs", org, index), name, org))
    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        named.append((("sites", index), name, None))
    for key, name, org in named:
        if not isinstance(name, str):
            continue  # the schema says so
        if name not in sites:
            yield key, f"{name} is not a client"
        elif org is not None and sites[name] != org:
            yield key, f"{name} belongs to {sites[name]}, not to {org}"
        if name in seen:
            yield key, f"{name} is named twice"
        seen.add(name)
    people = study.get("admins")
    for index, name in enumerate(people if isinstance(people, list | dict) else ()):
        if isinstance(name, str) and name not in admins:
            yield ("admins", name if isinstance(people, dict) else index), f"{name} is not an admin"


def _real_key(data: Any, loc: tuple[str | int, ...]) -> Key:
    """Drop what pydantic adds to a location (tags of unions); keep a last key that is missing from the file."""
    key: list[str | int] = []
    for index, part in enumerate(loc):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            key.append(part)
            data = data[part]
        elif index == len(loc) - 1 and isinstance(data, dict):
            key.append(part)
    return tuple(key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line of a message
