"""What stands in each kind of kit: names, modes and contents, all but keys, certificates and the manifest; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.kit import Kind

from clouddeploy_provision.kit_settings import KitSettings, packaged
from clouddeploy_provision.kit_tree import PLAIN, SCRIPT, File

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_provision.project import Participant, Project

_NODE_FILES = {
    "readme.txt": ("site_readme.txt", PLAIN),
    "startup/start.sh": ("start.sh", SCRIPT),
    "startup/sub_start.sh": ("sub_start.sh", SCRIPT),
    "startup/stop_fl.sh": ("stop_fl.sh", SCRIPT),
    "local/log_config.json.default": ("log_config.json.default", PLAIN),
}
"""Of server, clients and relays."""
_SITE_FILES = {
    **_NODE_FILES,
    "local/authorization.json.default": ("authorization.json.default", PLAIN),
    "local/privacy.json.sample": ("privacy.json.sample", PLAIN),
}
"""Of server and clients."""
_ADMIN_FILES = {
    "startup/readme.txt": ("admin_readme.txt", PLAIN),
    "startup/fl_admin.sh": ("fl_admin.sh", SCRIPT),
    "startup/system_info.ipynb": ("system_info.ipynb", PLAIN),
    "local/resources.json.default": ("admin_resources.json.default", PLAIN),
}


class KitBuilder:
    """Knows the files of every participant of one project, except keys, certificates and the manifest.

    Args:
        project: the project.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._settings = KitSettings(project)
        self._common: dict[Kind, Mapping[str, File]] = {}

    def files(self, participant: Participant) -> dict[str, File]:
        """Return path → file; the same bytes for the same project, so that an unchanged kit can be recognised."""
        kind = participant.kind
        name, content = self._settings.startup(participant)
        found = {**self._common_files(kind), f"startup/{name}": File(content)}
        if participant.custom_ca_cert is not None:
            found["startup/customRootCA.pem"] = File(participant.custom_ca_cert)
        if kind in {Kind.SERVER, Kind.CLIENT}:
            found["local/resources.json.default"] = File(self._settings.resources(participant))
        optional = {
            "local/study_registry.json": self._settings.study_registry() if kind is Kind.SERVER else None,
            "local/comm_config.json": self._settings.communication(participant),
            "local/relay__resources.json": self._settings.relay_resources(participant),
        }
        return found | {path: File(content) for path, content in optional.items() if content is not None}

    def _common_files(self, kind: Kind) -> Mapping[str, File]:
        """Return what all participants of a kind have; the very same objects, so that each is digested once."""
        if kind not in self._common:
            files = {Kind.ADMIN: _ADMIN_FILES, Kind.RELAY: _NODE_FILES}.get(kind, _SITE_FILES)
            word = {"@kind@": kind.value}
            self._common[kind] = {path: fill(File(packaged(name), mode), word) for path, (name, mode) in files.items()}
        return self._common[kind]


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
