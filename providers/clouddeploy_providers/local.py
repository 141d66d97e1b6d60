"""This machine: a site is a folder, its runtime a process of the user. The simplest provider, to be read first."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.naming import owner_of, tags
from clouddeploy_providers.resources import Check, Found, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Demand, MachineSpec, Need, Offer, Owner, Price, Resource

DEFAULT = "~/.clouddeploy/local"
TAGS = "tags.json"


class LocalProvider:
    """Gives every site a folder below `directory`; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "local"
    setting_names: ClassVar[frozenset[str]] = frozenset({"directory"})
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = False
    default_size: ClassVar[str] = ""

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:  # noqa: ARG002 - no cloud is asked
        self._directory = Path(settings.get("directory", DEFAULT)).expanduser().absolute()

    @property
    def place(self) -> str:
        """The folder."""
        return f"this machine, {self._directory}"

    @property
    def lag_s(self) -> float:
        """None: nobody else keeps a list."""
        return 0.0

    @property
    def quota_scope(self) -> str:
        """The place itself."""
        return self.place

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """Only the machine."""
        return (Kind.MACHINE,)

    def check(self, demand: Demand) -> list[Check]:  # noqa: ARG002 - any size will do
        """Reports whether the folder is one, or can be made."""
        there = next(path for path in (self._directory, *self._directory.parents) if path.exists())
        if not there.is_dir():
            problem = f"{there} is no folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            problem = f"{there} may not be written to"
        else:
            return [Check("directory", ok=True)]
        return [Check("directory", ok=False, problem=problem, hint="name another `directory`")]

    def offers(self, need: Need) -> list[Offer]:  # noqa: ARG002 - this machine is what it is
        """There are no sizes."""
        return []

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:  # noqa: ARG002 - nobody sells it
        """It is free."""
        return None

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
            owner = self._owner_of(folder)
            if owner is None or owner.deployment != resource.owner.deployment:
                if any(folder.iterdir()):
                    raise Conflict(f"{folder} is in the way", why="it is not empty and not ours", hint="move it away")
                _write_whole(folder / TAGS, json.dumps(tags(resource.owner, name=resource.name, kind=resource.kind)))
        except OSError as error:
            raise InvalidRequest(f"{folder} cannot be used", why=str(error), hint="name another `directory`") from error
        return self._ref(folder)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - there is no firewall
        """Finds the machine running, as it always is; there is no firewall here."""
        if ref.kind is not Kind.MACHINE or ref.is_adopted:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        there = self.read(ref)
        if there is None:
            raise NotFound(f"the folder of {ref.name} does not exist", hint="apply again")
        return there

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the site's folder, if it is there."""
        folder = self._directory / ref.name
        return self._ref(folder) if self._owner_of(folder) else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:  # noqa: ARG002 - it takes no time
        """Removes the folder; what runs in it was stopped by the engine.

        The tags go last, so that a deletion that was killed is found again and finished.
        """
        if ref.is_adopted:
            raise InvalidRequest(f"{ref.name} is not ours to delete", hint="delete it yourself")
        folder = self._directory / ref.name
        if self._owner_of(folder) is None:
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
        return [found.ref for found in self.find_all() if found.owner.deployment == deployment]

    def find_all(self) -> list[Found]:
        """Returns all folders that are ours."""
        folders = sorted(path.parent for path in self._directory.glob(f"*/{TAGS}"))
        return [Found(self._ref(folder), owner) for folder in folders if (owner := self._owner_of(folder))]

    @staticmethod
    def _owner_of(folder: Path) -> Owner | None:
        """Returns whose folder it is; None when it is not ours or not there."""
        try:
            found = json.loads((folder / TAGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return owner_of({str(key): str(value) for key, value in found.items()}) if isinstance(found, dict) else None

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
