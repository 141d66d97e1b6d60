"""The JSON files of a kit: who this participant is, whom it connects to, what it offers; pure."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
from clouddeploy_runtime.kit import FedAdmin, FedClient, FedServer, Kind, config
from clouddeploy_runtime.kit.kit import join

from clouddeploy_provision.topology import SERVER_FQCN

if TYPE_CHECKING:
    from clouddeploy_provision.project import Listening, Participant, Project

STUDY_FORMAT = "1.0"
_BACKBONE = 2
"""Generation of the connection between a site's processes and its parent; 1 behind a relay, as the reference has it."""


@lru_cache(maxsize=64)
def packaged(name: str) -> bytes:
    """Read a file that ships with this package."""
    return (resources.files(__package__) / "kit_files" / name).read_bytes()


def pretty(settings: object) -> bytes:
    """Serialise with two spaces and a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"


class KitSettings:
    """Makes the settings of every participant of one project.

    Args:
        project: the project.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._server_name = project.server.name
        self._client_resources = lru_cache(maxsize=256)(_client_resources)

    def startup(self, participant: Participant) -> tuple[str, bytes]:
        """Return name and content of the participant's signed settings."""
        match participant.kind:
            case Kind.SERVER:
                return "fed_server.json", config.encode(self._server(participant))
            case Kind.CLIENT:
                return "fed_client.json", config.encode(self._client(participant))
            case Kind.RELAY:
                return "fed_relay.json", config.encode(self._relay(participant))
            case _:
                return "fed_admin.json", config.encode(self._admin(participant))

    def resources(self, participant: Participant) -> bytes:
        """Return `local/resources.json.default` of a server or a client."""
        if participant.kind is Kind.SERVER:
            settings = msgspec.json.decode(packaged("server_resources.json.default"))
            settings["servers"][0]["download_job_url"] = self._project.download_job_url
            return pretty(settings)
        return self._client_resources(participant.gpus, participant.gib_per_gpu, participant.allow_log_streaming)

    def study_registry(self) -> bytes | None:
        """Return the server's `local/study_registry.json`; None when the project has no studies."""
        if not self._project.studies:
            return None
        studies: dict[str, dict[str, Any]] = {}
        for name, study in self._project.studies.items():
            entry: dict[str, Any] = {}
            if study.sites:
                entry["site_orgs"] = {org: list(sites) for org, sites in study.sites.items()}
            if study.admins:
                entry["admins"] = list(study.admins)
            if study.roles:
                entry["roles"] = dict(study.roles)
            studies[name] = entry
        return pretty({"format_version": STUDY_FORMAT, "studies": studies})

    def communication(self, participant: Participant) -> bytes | None:
        """Return `local/comm_config.json` of whoever listens or stands behind a relay; None for the others."""
        listening = participant.listening
        if listening is None and not participant.relay:
            return None
        settings: dict[str, Any] = {
            "allow_adhoc_conns": False,
            "backbone_conn_gen": 1 if participant.relay else _BACKBONE,
        }
        if listening is not None:
            settings["internal"] = _internal(listening)
        return pretty(settings)

    def relay_resources(self, participant: Participant) -> bytes | None:
        """Return `local/relay__resources.json` of a client behind a relay: where its relay is; None for the others."""
        if not participant.relay or participant.kind is not Kind.CLIENT:
            return None
        return pretty({"format_version": 2, "relay_config": msgspec.to_builtins(self._relay_target(participant))})

    @property
    def _signed_jobs(self) -> bool | msgspec.UnsetType:
        demanded = self._project.require_signed_jobs
        return msgspec.UNSET if demanded is None else demanded

    def _server(self, server: Participant) -> FedServer:
        others = {
            one.fqsn or one.name: one.auth_identity
            for one in self._project.participants
            if one.auth_identity not in {"", one.name} and one is not server
        }
        return FedServer(
            require_signed_jobs=self._signed_jobs,
            servers=(
                config.ServerSettings(
                    name=self._project.name,
                    service=config.Service(join(server.name, server.port)),
                    admin_server=server.name,
                    admin_port=server.port,
                    connection_security=server.connection_security,
                    auth_identity=msgspec.UNSET if server.auth_identity in {"", server.name} else server.auth_identity,
                    auth_identity_map=others or msgspec.UNSET,
                ),
            ),
        )

    def _client(self, client: Participant) -> FedClient:
        target = config.Service(join(client.host, client.port))
        address = config.ServerAddress(name=self._project.name, service=target, identity=self._server_name)
        return FedClient(
            require_signed_jobs=self._signed_jobs,
            servers=(address,),
            client=config.ClientSettings(
                fqsn=client.fqsn or client.name,
                is_leaf=client.is_leaf,
                connection_security=client.connection_security,
            ),
        )

    def _relay(self, relay: Participant) -> config.FedRelay:
        return config.FedRelay(
            project_name=self._project.name,
            identity=relay.name,
            server_identity=self._server_name,
            connect_to=self._relay_target(relay),
        )

    def _relay_target(self, participant: Participant) -> config.RelayTarget:
        fqcn, identity, scheme = SERVER_FQCN, self._server_name, config.SCHEME
        if participant.relay:
            relay = self._project.participant(participant.relay)
            fqcn = ".".join(self._project.relay_chain(relay.name))
            identity = relay.name
            scheme = relay.listening.scheme if relay.listening else scheme
        return config.RelayTarget(
            identity=identity,
            address=join(participant.host, participant.port),
            fqcn=fqcn,
            scheme=scheme,
            connection_security=participant.connection_security,
        )

    def _admin(self, admin: Participant) -> FedAdmin:
        return FedAdmin(
            config.AdminSettings(
                project_name=self._project.name,
                username=admin.name,
                server_identity=self._server_name,
                host=admin.host,
                port=admin.port,
                connection_security=admin.connection_security,
            )
        )


def _client_resources(gpus: int, gib_per_gpu: float, allow_log_streaming: bool) -> bytes:
    settings = msgspec.json.decode(packaged("client_resources.json.default"))
    settings["allow_log_streaming"] = allow_log_streaming
    for component in settings["components"]:
        if component["id"] == "resource_manager":
            component["args"]["num_of_gpus"] = gpus
            component["args"]["mem_per_gpu_in_GiB"] = gib_per_gpu
    return pretty(settings)


def _internal(listening: Listening) -> dict[str, Any]:
    resources: dict[str, Any] = {"host": listening.host, "connection_security": listening.connection_security}
    if listening.port:
        resources["port"] = listening.port
    return {"scheme": listening.scheme, "resources": resources}
