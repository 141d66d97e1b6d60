"""What stands in each kind of kit: names, modes and contents; pure but for the packaged files, which it reads once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime.kit import FedAdmin, FedClient, FedServer, Kind, config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_provision.project import Participant, Project

SCRIPT = 0o755
PLAIN = 0o644
PRIVATE = 0o600

_SITE_FILES = {
    "readme.txt": ("site_readme.txt", PLAIN),
    "startup/start.sh": ("start.sh", SCRIPT),
    "startup/sub_start.sh": ("sub_start.sh", SCRIPT),
    "startup/stop_fl.sh": ("stop_fl.sh", SCRIPT),
    "local/authorization.json.default": ("authorization.json.default", PLAIN),
    "local/log_config.json.default": ("log_config.json.default", PLAIN),
    "local/privacy.json.sample": ("privacy.json.sample", PLAIN),
}
_ADMIN_FILES = {
    "startup/readme.txt": ("admin_readme.txt", PLAIN),
    "startup/fl_admin.sh": ("fl_admin.sh", SCRIPT),
    "startup/system_info.ipynb": ("system_info.ipynb", PLAIN),
    "local/resources.json.default": ("admin_resources.json.default", PLAIN),
}


@dataclass(frozen=True)
class File:
    """One file of a kit."""

    content: bytes
    mode: int = PLAIN


class KitBuilder:
    """Knows the files of every participant of one project, except keys, certificates and the manifest.

    Args:
        project: the project.
    """

    def __init__(self, project: Project) -> None:
        self._project = project

    def files(self, participant: Participant) -> Mapping[str, File]:
        """Return path → file; the same bytes for the same project, so that an unchanged kit can be recognised."""
        match participant.kind:
            case Kind.SERVER:
                own = {
                    "startup/fed_server.json": File(config.encode(self._server(participant))),
                    "local/resources.json.default": self._server_resources,
                }
            case Kind.CLIENT:
                own = {
                    "startup/fed_client.json": File(config.encode(self._client(participant))),
                    "local/resources.json.default": File(self._client_resources(participant)),
                }
            case _:
                return {"startup/fed_admin.json": File(config.encode(self._admin(participant))), **self._admin_files}
        kind_name = {"@kind@": participant.kind.value}
        return {**own, **{path: fill(file, kind_name) for path, file in self._site_files.items()}}

    @cached_property
    def _site_files(self) -> Mapping[str, File]:
        return {path: File(packaged(name), mode) for path, (name, mode) in _SITE_FILES.items()}

    @cached_property
    def _admin_files(self) -> Mapping[str, File]:
        return {path: File(packaged(name), mode) for path, (name, mode) in _ADMIN_FILES.items()}

    @cached_property
    def _server_resources(self) -> File:
        settings = msgspec.json.decode(packaged("server_resources.json.default"))
        settings["servers"][0]["download_job_url"] = self._project.download_job_url
        return File(_pretty(settings))

    @cached_property
    def _client_defaults(self) -> bytes:
        return packaged("client_resources.json.default")

    def _client_resources(self, participant: Participant) -> bytes:
        settings = msgspec.json.decode(self._client_defaults)
        settings["allow_log_streaming"] = participant.allow_log_streaming
        for component in settings["components"]:
            if component["id"] == "resource_manager":
                component["args"]["num_of_gpus"] = participant.gpus
                component["args"]["mem_per_gpu_in_GiB"] = participant.gib_per_gpu
        return _pretty(settings)

    @property
    def _signed_jobs(self) -> bool | msgspec.UnsetType:
        demanded = self._project.require_signed_jobs
        return msgspec.UNSET if demanded is None else demanded

    def _server(self, server: Participant) -> FedServer:
        return FedServer(
            require_signed_jobs=self._signed_jobs,
            servers=(
                config.ServerSettings(
                    name=self._project.name,
                    service=config.Service(f"{server.name}:{server.port}"),
                    admin_server=server.name,
                    admin_port=server.port,
                ),
            ),
        )

    def _client(self, client: Participant) -> FedClient:
        target = config.Service(f"{client.host}:{client.port}")
        address = config.ServerAddress(name=self._project.name, service=target, identity=self._project.server.name)
        return FedClient(
            require_signed_jobs=self._signed_jobs,
            servers=(address,),
            client=config.ClientSettings(fqsn=client.name),
        )

    def _admin(self, admin: Participant) -> FedAdmin:
        return FedAdmin(
            config.AdminSettings(
                project_name=self._project.name,
                username=admin.name,
                server_identity=self._project.server.name,
                host=admin.host,
                port=admin.port,
            )
        )


def packaged(name: str) -> bytes:
    """Read a file that ships with this package."""
    return (resources.files(__package__) / "kit_files" / name).read_bytes()


def fill(file: File, values: Mapping[str, str]) -> File:
    """Replace placeholders; every value must be a plain word, since it may land in a shell script.

    Raises:
        ValueError: a value is none; a defect of the caller.
    """
    content = file.content
    for placeholder, value in values.items():
        if not value.replace("-", "").replace("_", "").isalnum() or not value.isascii():
            raise ValueError(f"{placeholder} cannot be {value!r}")
        content = content.replace(placeholder.encode(), value.encode())
    return File(content, file.mode)


def _pretty(settings: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
