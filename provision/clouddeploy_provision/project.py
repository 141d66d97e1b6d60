"""A federation as its project file describes it: who takes part, who connects to whom, what their kits hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.kit import Kind
from pydantic import ValidationError

from clouddeploy_provision import schema, topology, validation, yaml_source
from clouddeploy_provision.builders import catalogue
from clouddeploy_provision.builders.reference_api import ParticipantWords, ProjectWords
from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clouddeploy_provision.yaml_source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where a participant itself is reached by those behind it."""

    scheme: str = "tcp"
    host: str = "localhost"
    hosts: tuple[str, ...] = ()
    """Further names and addresses, for its certificate."""
    port: int = 0
    """0: any free one."""
    connection_security: str = "clear"


@dataclass(frozen=True)
class Participant(ParticipantWords):
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
    relay: str = ""
    """The relay that it connects to; empty: the server itself."""
    parent: str = ""
    """The client above this one."""
    fqsn: str = ""
    """Fully qualified site name: the names from the top of its hierarchy down to its own, joined by dots."""
    is_leaf: bool = True
    """No client has it as its parent."""
    listening: Listening | None = None
    connection_security: str = "mtls"
    custom_ca_cert: bytes | None = field(default=None, repr=False)
    """PEM of a further authority, of a proxy before the server."""
    auth_identity: str = ""
    """The name that its peers see when that is not its own, behind a proxy that ends TLS."""
    props: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the project file says, word for word, for builders of one's own."""


@dataclass(frozen=True)
class Study:
    """Who takes part in one study."""

    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Organisation → its sites."""
    admins: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    """Admin → role in this study, where the project file gives one."""


@dataclass(frozen=True)
class Project(ProjectWords[Participant]):
    """A project file, checked."""

    name: str
    description: str
    participants: tuple[Participant, ...]
    root_valid_days: int | None = None
    """What the file demands for the root certificate; `None`: no demand."""
    require_signed_jobs: bool | None = None
    download_job_url: str = ""
    api_version: int = 3
    connection_security: str = "mtls"
    studies: Mapping[str, Study] = field(default_factory=dict)
    builders: tuple[catalogue.Step, ...] = ()
    packager: catalogue.Step | None = None
    warnings: tuple[str, ...] = ()
    """What is allowed but probably not meant."""

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
    def relays(self) -> tuple[Participant, ...]:
        """The relays, in the order of the file."""
        return self._of(Kind.RELAY)

    @property
    def admins(self) -> tuple[Participant, ...]:
        """The admins, in the order of the file."""
        return self._of(Kind.ADMIN)

    @property
    def port(self) -> int:
        """The one port that the server listens on."""
        return self.server.port

    def participant(self, name: str) -> Participant:
        """Return the participant of this name.

        Raises:
            KeyError: there is none.
        """
        for one in self.participants:
            if one.name == name:
                return one
        raise KeyError(name)

    def relay_chain(self, name: str) -> list[str]:
        """Return the relays from the server down to this one."""
        relays = {one.name: one.relay for one in self.relays}
        return topology.chain(name, lambda one: relays.get(one, ""))

    def _of(self, kind: Kind) -> tuple[Participant, ...]:
        return tuple(one for one in self.participants if one.kind is kind)


def load(path: Path, *, custom: catalogue.Custom | None = None, extra: Sequence[tuple[str, Path]] = ()) -> Project:
    """Read and check a project file.

    Args:
        path: the file.
        extra: (type, file) of participants that take part in this run without standing in the project file.
        custom: where builders that are not bundled come from; `None`: nowhere, they are refused.

    Raises:
        ProjectFileError: with every problem that the file has.
    """
    source = yaml_source.parse(path)
    if not isinstance(source.data, dict):
        problem = Problem(source.name, 1, rule="must be a mapping", example="name: my_project")
        raise ProjectFileError(source.name, [*source.problems, problem])
    for kind, file in extra:
        _add(source, kind, file)
    return check(source, custom=custom)


def _add(source: Source, kind: str, path: Path) -> None:
    """Add one participant of a file of its own to parsed data."""
    added = yaml_source.parse(path)
    source.problems += added.problems
    example = "{name: site-9, org: org_a}" if kind == "client" else "{name: a@b.com, org: org_a, role: lead}"
    if not isinstance(added.data, dict):
        source.problems.append(Problem(added.name, 1, rule=f"must describe one {kind}", example=example))
        return
    if added.data.get("type", kind) != kind:
        rule = f"must be {kind} or be left out"
        source.problems.append(added.problem(("type",), rule, example=f"type: {kind}"))
    participants = source.data.setdefault("participants", [])
    if isinstance(participants, list):
        key = ("participants", len(participants))
        source.places.update({(*key, *place): at for place, at in added.places.items()})
        participants.append({**added.data, "type": kind})


def check(source: Source, *, custom: catalogue.Custom | None = None) -> Project:
    """Check parsed data as a whole project.

    Raises:
        ProjectFileError: with every problem.
    """
    problems = list(source.problems)
    parsed: schema.ProjectFile | None = None
    try:
        parsed = schema.ProjectFile.model_validate(source.data)
    except ValidationError as exc:
        problems += [validation.explain(source, error) for error in exc.errors(include_url=False)]
    problems += validation.crosswise(source, custom or catalogue.Custom())
    reader = _Reader(source)
    project = reader.project(parsed) if parsed is not None and not problems else None
    problems += reader.problems
    if project is None or problems:
        raise ProjectFileError(source.name, list(dict.fromkeys(problems)))
    for warning in project.warnings:
        log.warning("%s: %s", source.name, warning)
    return project


class _Reader:
    """Turns the checked mappings into a `Project`, with every default resolved."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._warnings: list[str] = []
        self._authorities: dict[str, bytes | str] = {}
        self.problems: list[Problem] = []

    def project(self, parsed: schema.ProjectFile) -> Project:
        steps = tuple(catalogue.Step(step.path, step.args or {}) for step in parsed.builders)
        self._warnings += [text for step in steps for text in catalogue.warnings(step)]
        raw: Sequence[Any] = self._source.data["participants"]
        pairs = zip(parsed.participants, raw, strict=True)
        entries = [(one, props) for one, props in pairs if not isinstance(one, schema.Overseer)]
        if len(entries) < len(parsed.participants):
            self._warnings.append("an overseer is obsolete and ignored")
        name = parsed.name
        if len(name) > schema.MAX_PROJECT:
            name = name[: schema.MAX_PROJECT]
            self._warnings.append(f"the project's name is cut to {schema.MAX_PROJECT} characters: {name}")
        return Project(
            name=name,
            description=parsed.description or "",
            participants=self._participants(parsed, entries),
            root_valid_days=catalogue.argument(steps, "CertBuilder", "root_valid_days"),
            require_signed_jobs=catalogue.argument(steps, "StaticFileBuilder", "require_signed_jobs"),
            download_job_url=catalogue.argument(steps, "StaticFileBuilder", "download_job_url") or "",
            api_version=parsed.api_version,
            connection_security=parsed.connection_security or "mtls",
            studies=_studies(parsed),
            builders=steps,
            packager=None
            if parsed.packager is None
            else catalogue.Step(parsed.packager.path, parsed.packager.args or {}),
            warnings=tuple(self._warnings),
        )

    def _participants(self, parsed: schema.ProjectFile, pairs: list[tuple[Any, Any]]) -> tuple[Participant, ...]:
        entries = [one for one, _ in pairs]
        server = self._server(next(one for one in entries if isinstance(one, schema.Server)))
        relays = {one.name: _listening(one.listening_host, server) for one in entries if isinstance(one, schema.Relay)}
        parents = {one.name: one.parent or "" for one in entries if isinstance(one, schema.Client)}
        found = []
        for one, props in pairs:
            self._note_ignored(one)
            above = topology.upstream_name(props)
            plain = server if isinstance(one, schema.Server) else self._below(one, above, server, relays)
            parent = parents.get(plain.name, "")
            authority = getattr(one, "custom_ca_cert", None) or parsed.custom_ca_cert
            found.append(
                replace(
                    plain,
                    props=props,
                    parent=parent,
                    fqsn=".".join(topology.chain(plain.name, lambda name: parents.get(name, ""))),
                    is_leaf=plain.name not in parents.values(),
                    listening=_listening(getattr(one, "listening_host", None), server),
                    connection_security=self._security(one, parsed),
                    custom_ca_cert=self._authority(authority) if authority else None,
                    auth_identity=getattr(one, "auth_identity", None) or "",
                )
            )
        return tuple(found)

    def _note_ignored(self, one: Any) -> None:
        """Warn of keys that older files have and that neither the reference nor we read any more."""
        if getattr(one, "components", None) is not None:
            self._warnings.append(f"{one.name}: components is ignored; what the site offers to jobs is its capacity")
        if getattr(one, "enable_byoc", None) is not None:
            self._warnings.append(f"{one.name}: enable_byoc is ignored; local/authorization.json decides about byoc")

    def _server(self, one: schema.Server) -> Participant:
        if one.admin_port not in {None, one.fed_learn_port}:
            self._warnings.append("admin_port is ignored, everything goes through fed_learn_port")
        name = one.name
        if len(name) > schema.MAX_NAME:
            name = name[: schema.MAX_NAME].rstrip("-.")
            self._warnings.append(f"the server's name is cut to {name} in its certificate")
        host = one.default_host or one.name
        hosts = tuple(dict.fromkeys([host, *_hosts(one.host_names), *([one.name] if name != one.name else [])]))
        return Participant(Kind.SERVER, name, one.org, hosts=hosts, host=host, port=one.fed_learn_port)

    def _below(self, one: Any, relay: str, server: Participant, relays: Mapping[str, Listening | None]) -> Participant:
        """Resolve a participant that connects to the server or to a relay."""
        given = one.connect_to
        listening = relays.get(relay)
        if listening is None:
            relay = ""
            host, port, known = server.host, server.port, {server.name, *server.hosts}
        else:
            host, port, known = listening.host, listening.port, {listening.host, *listening.hosts}
        if isinstance(given, schema.ConnectTo):
            host, port = given.host or host, given.port or port
        elif given and not isinstance(one, schema.Relay):
            host = given
        if host not in known:
            target = "the server's names" if not relay else f"the names of {relay}"
            self._warnings.append(f"{one.name} connects to {host}, which is none of {target}")
        plain = Participant(Kind.ADMIN, one.name, one.org, host=host, port=port, relay=relay)
        if isinstance(one, schema.Admin):
            return replace(plain, role=one.role)
        if isinstance(one, schema.Relay):
            return replace(plain, kind=Kind.RELAY)
        capacity = one.capacity or schema.Capacity()
        return replace(
            plain,
            kind=Kind.CLIENT,
            gpus=capacity.num_of_gpus,
            gib_per_gpu=capacity.mem_per_gpu_in_GiB,
            allow_log_streaming=one.allow_log_streaming,
        )

    def _security(self, one: Any, parsed: schema.ProjectFile) -> str:
        given = getattr(one, "connect_to", None)
        upward = given.connection_security if isinstance(given, schema.ConnectTo) else None
        found: str = upward or one.connection_security or parsed.connection_security or "mtls"
        if found != "mtls":
            self._warnings.append(
                f"{one.name} has connection_security {found}; the server's must be tls or clear too, "
                "and it takes clear only with allow_clear in its local/comm_config.json"
            )
        return found

    def _authority(self, name: str) -> bytes | None:
        """Read a further authority's certificate; it was checked, so None means that it went just now."""
        if name not in self._authorities:
            self._authorities[name] = validation.authority(self._source.folder, name)
        found = self._authorities[name]
        if isinstance(found, str):
            self.problems.append(validation.at(self._source, ("custom_ca_cert",), f"{name} cannot be used: {found}"))
            return None
        return found


def _hosts(names: list[str] | str | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _listening(given: schema.ListeningHost | str | None, server: Participant) -> Listening | None:
    if given is None:
        return None
    if isinstance(given, str):
        return Listening(host=given)
    host = given.default_host or next(iter(_hosts(given.host_names)), "") or server.host or "localhost"
    return Listening(
        scheme=given.scheme,
        host=host,
        hosts=tuple(dict.fromkeys(_hosts(given.host_names))),
        port=given.port,
        connection_security=given.connection_security,
    )


def _studies(parsed: schema.ProjectFile) -> dict[str, Study]:
    """Bring both forms of a study into one."""
    orgs = {one.name: one.org for one in parsed.participants if isinstance(one, schema.Client)}
    found = {}
    for name, given in (parsed.studies or {}).items():
        if given is None:
            found[name] = Study()
            continue
        sites: dict[str, list[str]] = {org: list(names) for org, names in (given.site_orgs or {}).items()}
        for site in given.sites or []:
            sites.setdefault(orgs[site], []).append(site)
        roles = given.admins if isinstance(given.admins, dict) else {}
        found[name] = Study(
            {org: tuple(names) for org, names in sites.items()}, tuple(dict.fromkeys(given.admins or ())), dict(roles)
        )
    return found
