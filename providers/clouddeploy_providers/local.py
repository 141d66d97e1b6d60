"""This machine: a site is a folder, its runtime a process of the user. The simplest provider, to be read first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers.errors import Conflict, InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT, tags
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
    ends_processes: ClassVar[bool] = False

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
        """Makes the folder, or finds it.

        Raises:
            Conflict: a folder of that name is there and is not ours; it would be deleted later.
        """
        folder = self._directory / resource.name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._deployment_of(folder) != resource.owner.deployment:
                if any(folder.iterdir()):
                    raise Conflict(f"{folder} is in the way", why="it is not empty and not ours", hint="move it away")
                _write_whole(folder / TAGS, json.dumps(tags(resource.owner, name=resource.name, kind=resource.kind)))
        except OSError as error:
            raise InvalidRequest(f"{folder} cannot be used", why=str(error), hint="name another `directory`") from error
        return self._ref(folder)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - there is no firewall
        """Refuses: there is no firewall here."""
        raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the site's folder, if it is there."""
        folder = self._directory / ref.name
        return self._ref(folder) if self._deployment_of(folder) else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:  # noqa: ARG002 - it takes no time
        """Removes the folder; what runs in it was stopped by the engine.

        The tags go last, so that a deletion that was killed is found again and finished.
        """
        folder = self._directory / ref.name
        if not self._deployment_of(folder):
            return
        try:
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != TAGS:
                    path.unlink()
            shutil.rmtree(folder)
        except OSError as error:
            raise Conflict(
                f"{folder} cannot be removed", why=str(error), hint="see who uses it, then repeat"
            ) from error

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's folders."""
        folders = sorted(path.parent for path in self._directory.glob(f"*/{TAGS}"))
        return [self._ref(folder) for folder in folders if self._deployment_of(folder) == deployment]

    @staticmethod
    def _deployment_of(folder: Path) -> str:
        """Returns whose folder it is; an empty text when it is not ours or not there."""
        try:
            found = json.loads((folder / TAGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        return str(found.get(TAG_DEPLOYMENT, "")) if isinstance(found, dict) else ""

    @staticmethod
    def _ref(folder: Path) -> ResourceRef:
        outputs = {"address": "127.0.0.1", "directory": str(folder)}
        return ResourceRef(kind=Kind.MACHINE, name=folder.name, id=str(folder), outputs=outputs)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that appears complete or not at all."""
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


_: type[ComputeProvider] = LocalProvider
