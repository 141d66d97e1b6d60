"""Reads a project file and says everything that is wrong with it at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.kit import Kind
from pydantic import ValidationError

from clouddeploy_provision import builders, schema, yaml_source
from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy_provision.yaml_source import Key, Source

log = logging.getLogger(__name__)

_PATTERNS = {
    schema.HOST: "must be a host name or an IPv4 address: letters, digits, hyphens, dots",
    schema.SITE: "must have letters, digits, hyphens and underscores only",
    schema.SIMPLE: "must have letters, digits and underscores only",
    schema.EMAIL: "must be an e-mail address",
    schema.PROJECT: "must have letters, digits, dots, hyphens and underscores only, no dot or hyphen first",
}

_UNSUPPORTED = {
    "server": ("listening_host", "custom_ca_cert", "auth_identity", "cc_config"),
    "client": ("listening_host", "parent", "custom_ca_cert", "auth_identity", "edge_service_port", "cc_config"),
    "admin": (),
    "": ("packager", "studies", "edge", "custom_ca_cert", "include"),
}
"""Type of participant ("" is the project) → keys of the reference that are known but not carried out; saying so beats
a kit without them."""


@dataclass(frozen=True)
class Participant:
    """One of those who take part."""

    kind: Kind
    name: str
    org: str
    role: str = ""
    """Of an admin."""
    hosts: tuple[str, ...] = ()
    """Names and addresses of the server besides its name."""
    host: str = ""
    """Where this client or admin connects; for the server, where clients do unless they say otherwise."""
    port: int = 0
    """As `host`."""
    gpus: int = 0
    gib_per_gpu: float = 0
    """Memory of each GPU that the site offers to jobs, GiB."""
    allow_log_streaming: bool = True


@dataclass(frozen=True)
class Project:
    """A project file, checked."""

    name: str
    description: str
    participants: tuple[Participant, ...]
    root_valid_days: int | None = None
    """What the file demands for the root certificate; `None`: no demand."""
    require_signed_jobs: bool | None = None
    download_job_url: str = ""

    @property
    def server(self) -> Participant:
        """The one server."""
        return self.servers[0]

    @property
    def servers(self) -> tuple[Participant, ...]:
        """The servers; exactly one."""
        return self._of(Kind.SERVER)

    @property
    def clients(self) -> tuple[Participant, ...]:
        """The clients, in the order of the file."""
        return self._of(Kind.CLIENT)

    @property
    def admins(self) -> tuple[Participant, ...]:
        """The admins, in the order of the file."""
        return self._of(Kind.ADMIN)

    @property
    def port(self) -> int:
        """The one port that the server listens on."""
        return self.server.port

    def _of(self, kind: Kind) -> tuple[Participant, ...]:
        return tuple(one for one in self.participants if one.kind is kind)


def load(path: Path) -> Project:
    """Read and check a project file.

    Raises:
        ProjectFileError: with every problem that the file has.
    """
    source = yaml_source.parse(path)
    problems = list(source.problems)
    if not isinstance(source.data, dict):
        problems.append(Problem(source.name, 1, rule="must be a mapping", example="name: my_project"))
        raise ProjectFileError(source.name, problems)
    parsed: schema.ProjectFile | None = None
    try:
        parsed = schema.ProjectFile.model_validate(source.data)
    except ValidationError as exc:
        problems += [_problem(source, error) for error in exc.errors(include_url=False)]
    problems += _crosswise(source)
    if problems or parsed is None:
        raise ProjectFileError(source.name, list(dict.fromkeys(problems)))
    return _project(parsed)


def _problem(source: Source, error: Any) -> Problem:
    """Translate one of pydantic's errors."""
    key = _real_key(source.data, error["loc"])
    value = error.get("input")
    context = error.get("ctx", {})
    last = str(key[-1]) if key else ""
    match error["type"]:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            rule = "unknown key"
        case "string_pattern_mismatch":
            rule = f"{_PATTERNS[context['pattern']]}, not {value!r}"
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
            rule = "must be 1 to 65535" if "port" in last else f"is out of range: {error['msg']}"
            rule += f", not {value!r}"
        case "string_type":
            rule = f"must be text, not {value!r}; a number or a word like `yes` needs quotes"
        case _:
            rule = f"{error['msg']}, not {value!r}"
    return _at(source, key, rule)


def _at(source: Source, key: Key, rule: str) -> Problem:
    """Make a problem of a rule that is broken at a key."""
    participant = ""
    participants = source.data.get("participants")
    if len(key) > 1 and key[0] == "participants" and isinstance(participants, list) and isinstance(key[1], int):
        entry = participants[key[1]]
        participant = str(entry.get("name", "")) if isinstance(entry, dict) else ""
        participant = participant or f"participant {key[1] + 1}"
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    last = next((str(part) for part in reversed(key) if isinstance(part, str)), "")
    example = "" if rule == "unknown key" else schema.EXAMPLES.get(last, "")
    return Problem(source.name, source.line(key), shown, participant, rule, example)


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


def _crosswise(source: Source) -> Iterator[Problem]:
    """Check what no single key can tell; works on the raw data, so that it reports beside the schema's problems."""
    data = source.data
    yield from _unsupported(source, data, "", ())
    if data.get("connection_security") in {"tls", "clear"}:
        yield _at(source, ("connection_security",), "only mtls is supported")
    entries = data.get("participants")
    if isinstance(entries, list):
        yield from _participants(source, entries)
    for index, entry in enumerate(data.get("builders") or []) if isinstance(data.get("builders"), list) else ():
        args = entry.get("args") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(entry.get("path"), str) and isinstance(args or {}, dict):
            for key, rule in builders.problems(entry["path"], args or {}):
                yield _at(source, ("builders", index, *key.split(".")), rule)


def _participants(source: Source, entries: list[Any]) -> Iterator[Problem]:  # noqa: C901 - one loop, one check a line
    first: dict[str, int] = {}
    servers = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        at: Key = ("participants", index)
        kind = entry.get("type")
        if kind == "overseer":
            log.warning("%s: an overseer is obsolete and ignored", source.name)
            continue
        name = entry.get("name")
        if isinstance(name, str) and name in first:
            line = source.line(("participants", first[name], "name"))
            yield _at(source, (*at, "name"), f"duplicate participant, {name} stands in line {line} already")
        elif isinstance(name, str):
            first[name] = index
        if kind == "server":
            servers.append(index)
        elif kind == "relay":
            yield _at(source, (*at, "type"), "relays are not yet supported")
        yield from _unsupported(source, entry, str(kind), at)
        if entry.get("connection_security") in {"tls", "clear"}:
            yield _at(source, (*at, "connection_security"), "only mtls is supported")
        if kind == "server" and entry.get("admin_port", entry.get("fed_learn_port", 8002)) != entry.get(
            "fed_learn_port", 8002
        ):
            log.warning("%s: admin_port is ignored, everything goes through fed_learn_port", source.name)
    if not servers:
        yield _at(source, ("participants",), "missing server: exactly one participant must be of type server")
    for index in servers[1:]:
        yield _at(source, ("participants", index, "type"), "exactly one participant may be of type server")


def _unsupported(source: Source, entry: dict[str, Any], kind: str, at: Key) -> Iterator[Problem]:
    for key in _UNSUPPORTED.get(kind, ()):
        if entry.get(key) not in (None, "", [], {}):
            yield _at(source, (*at, key), "is not yet supported")


def _project(parsed: schema.ProjectFile) -> Project:
    steps = [(step.path, step.args or {}) for step in parsed.builders]
    server = next(one for one in parsed.participants if isinstance(one, schema.Server))
    days = builders.argument(steps, "CertBuilder", "root_valid_days")
    return Project(
        name=parsed.name,
        description=parsed.description or "",
        participants=tuple(
            _participant(one, server) for one in parsed.participants if not isinstance(one, schema.Overseer)
        ),
        root_valid_days=days,
        require_signed_jobs=builders.argument(steps, "StaticFileBuilder", "require_signed_jobs"),
        download_job_url=builders.argument(steps, "StaticFileBuilder", "download_job_url") or "",
    )


def _participant(one: Any, server: schema.Server) -> Participant:
    names = server.host_names or []
    hosts = tuple(dict.fromkeys([server.default_host or server.name, *([names] if isinstance(names, str) else names)]))
    host, port = server.default_host or server.name, server.fed_learn_port
    if isinstance(one, schema.Server):
        return Participant(Kind.SERVER, one.name, one.org, hosts=hosts, host=host, port=port)
    if isinstance(one.connect_to, schema.ConnectTo):
        host, port = one.connect_to.host or host, one.connect_to.port or port
    elif one.connect_to:
        host = one.connect_to
    if host not in {server.name, *hosts}:
        log.warning("%s connects to %s, which is none of the server's names", one.name, host)
    if isinstance(one, schema.Admin):
        return Participant(Kind.ADMIN, one.name, one.org, role=one.role, host=host, port=port)
    capacity = one.capacity or schema.Capacity()
    return Participant(
        Kind.CLIENT,
        one.name,
        one.org,
        host=host,
        port=port,
        gpus=capacity.num_of_gpus,
        gib_per_gpu=capacity.mem_per_gpu_in_GiB,
        allow_log_streaming=one.allow_log_streaming,
    )
