"""This machine: a site is a folder, its runtime a process of the user. The simplest provider, to be read first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers.naming import tags
from clouddeploy_providers.resources import Check, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

DEFAULT = "~/.clouddeploy/local"
TAGS = "tags.json"


class LocalProvider:
    """Gives every site a folder below `directory`; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "local"
    setting_names: ClassVar[frozenset[str]] = frozenset({"directory"})
    creates_nothing: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:  # noqa: ARG002 - no cloud is asked
        self._directory = Path(settings.get("directory", DEFAULT)).expanduser().absolute()

    @property
    def place(self) -> str:
        """The folder."""
        return f"this machine, {self._directory}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """Only the machine."""
        return (Kind.MACHINE,)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:  # noqa: ARG002 - any size will do
        """Reports whether the folder can be made."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            return [Check("directory", ok=False, problem=str(error), hint="name another `directory`")]
        return [Check("directory", ok=True)]

    def resolve_image(self, spec: MachineSpec) -> str:  # noqa: ARG002 - this machine runs what it runs
        """There is no image."""
        return ""

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - nothing to wait for
        """Makes the folder, or finds it."""
        folder = self._directory / resource.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = {**tags(resource.owner, name=resource.name, kind=resource.kind)}
        (folder / TAGS).write_text(json.dumps(written), encoding="utf-8")
        return self._ref(folder)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - there is no firewall
        """Has nothing that could change."""
        return ref

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the site's folder, if it is there."""
        folder = self._directory / ref.name
        return self._ref(folder) if (folder / TAGS).exists() else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:  # noqa: ARG002 - it takes no time
        """Removes the folder; what runs in it was stopped by the engine."""
        shutil.rmtree(self._directory / ref.name, ignore_errors=True)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's folders."""
        return [
            self._ref(path.parent)
            for path in sorted(self._directory.glob(f"*/{TAGS}"))
            if json.loads(path.read_text(encoding="utf-8")).get("clouddeploy:deployment") == deployment
        ]

    @staticmethod
    def _ref(folder: Path) -> ResourceRef:
        outputs = {"address": "127.0.0.1", "directory": str(folder)}
        return ResourceRef(kind=Kind.MACHINE, name=folder.name, id=str(folder), outputs=outputs)


_: type[ComputeProvider] = LocalProvider
