"""Says everything that is wrong with a project file: what its schema forbids, and what no single key can tell."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from cryptography import x509

from clouddeploy_provision import schema, topology
from clouddeploy_provision.builders import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clouddeploy_provision.errors import Problem
    from clouddeploy_provision.yaml_source import Key, Source

NOT_SUPPORTED = {
    "edge": "generated trees of simulated sites are not supported; write the relays and clients down",
    "edge_service_port": "edge devices are not supported",
    "cc_config": "confidential computing is not supported",
    "roles": "is an older name of `role`, which has one value",
}
"""Keys of the reference that are known but not carried out; saying so beats a kit without them."""

_WRONG_TYPE = {
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must have one entry at least",
    "string_too_short": "must not be empty",
}
"""Pydantic's name of an error → our words."""
_MAX_AUTHORITY = 1 << 20


def explain(source: Source, error: Any) -> Problem:  # noqa: C901 - one case a line
    """Translate one of pydantic's errors."""
    key = _real_key(source.data, error["loc"])
    value = error.get("input")
    context = error.get("ctx", {})
    last = str(key[-1]) if key else ""
    kind = error["type"]
    got = f", not {_short(value)}"
    match kind:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            return _unknown(source, key, error["loc"])
        case "string_pattern_mismatch":
            rule = schema.PATTERNS[context["pattern"]] + got
        case "string_too_long":
            rule = f"must have {context['max_length']} characters at most, not {len(str(value))}"
        case "literal_error":
            rule = f"must be {context['expected']}{got}"
        case "union_tag_invalid" | "union_tag_not_found" if not isinstance(value, dict):
            rule = f"must be a mapping with name, type and org{got}"
        case "union_tag_invalid" | "union_tag_not_found":
            key = (*key, "type")
            tag = value.get("type")
            known = f"must be one of {', '.join(schema.TYPES)}"
            rule = f"{known}, not {_short(tag)}" if "type" in value else f"is missing; it {known}"
        case "greater_than_equal" | "less_than_equal" if "port" in last:
            rule = f"must be a port, {0 if 'listening_host' in key else 1} to 65535{got}"
        case "greater_than_equal":
            rule = f"must be {context['ge']} or more{got}"
        case "less_than_equal":
            rule = f"must be {context['le']} or less{got}"
        case "string_type":
            rule = f"must be text{got}" + ("" if isinstance(value, list | dict) else "; put it into quotes")
        case _:
            rule = _WRONG_TYPE.get(kind, error["msg"]) + got
    return at(source, key, rule)


def at(source: Source, key: Key, rule: str) -> Problem:
    """Make a problem of a rule that is broken at a key, with an example of what is right there."""
    kind = ""
    if len(key) > 1 and key[0] == "participants":
        entry = _inside(source.data, key[:2])
        kind = str(entry.get("type", "client")) if isinstance(entry, dict) else ""
    words = [str(part) for part in reversed(key) if isinstance(part, str)]
    wanted = [name for word in words for name in (f"{kind}.{word}", word)]
    example = next((schema.EXAMPLES[name] for name in wanted if name in schema.EXAMPLES), "")
    return source.problem(key, rule, example=example)


def _unknown(source: Source, key: Key, loc: tuple[str | int, ...]) -> Problem:
    """Say of a key that nobody knows which ones are known there."""
    name = str(loc[-1])
    if name in NOT_SUPPORTED:
        return source.problem(key, NOT_SUPPORTED[name])
    model = next(
        (schema.MODELS[part] for part in map(str, reversed(loc[:-1])) if part in schema.MODELS), schema.ProjectFile
    )
    known = sorted(set(model.model_fields) - {"enable_byoc", "components"})
    near = difflib.get_close_matches(name, known, n=1)
    guess = f", did you mean {near[0]}?" if near else ""
    rule = f"unknown key{guess}; known here are {', '.join(known)}"
    return source.problem(key, rule, example=schema.EXAMPLES.get(near[0], "") if near else "")


def crosswise(source: Source, custom: catalogue.Custom) -> Iterator[Problem]:
    """Check what no single key can tell; works on the raw data, so that it reports beside the schema's problems."""
    data = source.data
    entries = data.get("participants")
    entries = entries if isinstance(entries, list) else []
    yield from _names(source, entries)
    for index, key, rule in topology.problems(entries):
        yield at(source, ("participants", index, *key), rule)
    for place, name in _authorities(data, entries):
        found = authority(source.folder, name)
        if isinstance(found, str):
            yield at(source, place, f"{name} cannot be used: {found}")
    yield from _studies(source, entries)
    steps = data.get("builders")
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        yield from _step(source, step, ("builders", index), custom)
    if data.get("packager") is not None:
        yield from _step(source, data["packager"], ("packager",), custom)


def authority(folder: Path, name: str) -> bytes | str:
    """Read the certificate of a further authority; a text says why that is not possible.

    Args:
        folder: where its path starts.
        name: its path.
    """
    try:
        path = folder / name
        if not path.is_file():
            return "there is no such file"
        if path.stat().st_size > _MAX_AUTHORITY:
            return "it is larger than any certificate"
        pem = path.read_bytes()
    except (OSError, ValueError) as exc:
        return getattr(exc, "strerror", None) or "it is no path"
    if b"PRIVATE KEY" in pem:
        return "it holds a private key, and it would go into every kit"
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        return "it holds no PEM certificate"
    return pem


def _authorities(data: Mapping[str, Any], entries: list[Any]) -> Iterator[tuple[Key, str]]:
    wanted: list[tuple[Key, Any]] = [(("custom_ca_cert",), data.get("custom_ca_cert"))]
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("type") != "overseer":
            wanted.append((("participants", index, "custom_ca_cert"), entry.get("custom_ca_cert")))
    for key, name in wanted:
        if isinstance(name, str) and name:
            yield key, name


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


def _inside(data: Any, key: Key) -> Any:
    """Return what stands at a key; None when nothing does."""
    for part in key:
        if not _holds(data, part):
            return None
        data = data[part]
    return data


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _real_key(data: Any, loc: tuple[str | int, ...]) -> Key:
    """Drop what pydantic adds to a location: tags of unions, and `[key]` after a key that is wrong itself."""
    key: list[str | int] = []
    for index, part in enumerate(loc):
        is_last = index == len(loc) - 1
        if part in schema.TAGS and not (is_last and _holds(data, part)):
            continue
        if _holds(data, part):
            key.append(part)
            data = data[part]
        elif is_last and isinstance(data, dict):
            key.append(part)
    return tuple(key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line of a message
