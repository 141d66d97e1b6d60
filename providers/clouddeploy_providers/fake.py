"""A cloud in one file: for tests of ours and of anybody who builds on the engine. Its faults are settings."""

from __future__ import annotations

import fcntl
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clouddeploy_providers.errors import (
    AuthenticationError,
    CapacityError,
    Conflict,
    InvalidRequest,
    NotFound,
    Throttled,
)
from clouddeploy_providers.resources import Check, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

SIZES = ("small", "large")
_LOCK = threading.Lock()  # flock holds processes apart, this the threads of one


class FakeProvider:
    """Keeps its resources in the file of the setting `file`, so that a killed run and its successor see one cloud.

    Settings: `file`; `credentials` (`wrong` is refused); `no_capacity` (a size); `throttle` (this many calls are
    refused first). See `ComputeProvider` for the verbs.
    """

    name: ClassVar[str] = "fake"
    setting_names: ClassVar[frozenset[str]] = frozenset({"file", "credentials", "no_capacity", "throttle"})
    creates_nothing: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:  # noqa: ARG002 - it is its own endpoint
        self._settings = settings
        self._file = Path(settings["file"])

    @property
    def place(self) -> str:
        """The file's name."""
        return f"fake {self._file.name}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """As a real cloud: an address for the server, a firewall and a machine for all."""
        return (Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE) if is_server else (Kind.FIREWALL, Kind.MACHINE)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports credentials and sizes."""
        with self._cloud():
            unknown = [spec.size for spec in wanted if spec.size not in {None, *SIZES}]
        return [
            Check(
                "size",
                ok=not unknown,
                problem=f"no size {', '.join(map(str, unknown))}",
                hint=f"one of {', '.join(SIZES)}",
            )
        ]

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the one image there is."""
        return spec.image or "fake-image"

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - it takes no time
        """Creates the resource, or finds it by name."""
        with self._cloud() as cloud:
            if resource.name not in cloud["things"]:
                self._refuse(resource)
                cloud["created"] += 1
                number = cloud["created"]
                outputs = {}
                if resource.kind in {Kind.ADDRESS, Kind.MACHINE}:
                    outputs["address"] = f"198.51.100.{number % 256}"
                if resource.kind is Kind.MACHINE and resource.machine:
                    outputs |= {"user": resource.machine.user, "size": resource.machine.size or SIZES[0]}
                cloud["things"][resource.name] = {
                    "kind": resource.kind.value,
                    "id": f"fake-{number}",
                    "deployment": resource.owner.deployment,
                    "needs": [ref.name for ref in resource.needs],
                    "outputs": outputs,
                }
            return self._ref(cloud, resource.name)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - it takes no time
        """Accepts new firewall rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        with self._cloud() as cloud:
            if ref.name not in cloud["things"]:
                raise NotFound(f"{ref.name} does not exist")
            cloud["things"][ref.name]["rules"] = len(resource.rules)
            return self._ref(cloud, ref.name)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as it is now."""
        with self._cloud() as cloud:
            return self._ref(cloud, ref.name) if ref.name in cloud["things"] else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:  # noqa: ARG002 - it takes no time
        """Deletes the resource; refuses while another needs it."""
        with self._cloud() as cloud:
            users = [name for name, thing in cloud["things"].items() if ref.name in thing["needs"]]
            if users:
                raise Conflict(f"{ref.name} is in use", why=f"by {', '.join(users)}", hint="delete those first")
            cloud["things"].pop(ref.name, None)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's resources."""
        with self._cloud() as cloud:
            refs = [
                self._ref(cloud, name) for name, thing in cloud["things"].items() if thing["deployment"] == deployment
            ]
        return sorted(refs, key=lambda ref: list(Kind).index(ref.kind))

    @contextmanager
    def _cloud(self) -> Iterator[dict[str, Any]]:
        if self._settings.get("credentials") == "wrong":
            raise AuthenticationError("the fake cloud refuses the credentials", hint="use others")
        with _LOCK, self._file.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            cloud: dict[str, Any] = json.loads(text) if text else {"things": {}, "created": 0, "refused": 0}
            if cloud["refused"] < int(self._settings.get("throttle", "0")):
                cloud["refused"] += 1
                self._write(file, cloud)
                raise Throttled("the fake cloud has had enough for now")
            yield cloud
            self._write(file, cloud)

    @staticmethod
    def _write(file: Any, cloud: dict[str, Any]) -> None:
        file.seek(0)
        file.truncate()
        json.dump(cloud, file)
        file.flush()

    def _refuse(self, resource: Resource) -> None:
        if resource.machine is None:
            return
        size = resource.machine.size or SIZES[0]
        if size not in SIZES:
            raise InvalidRequest(f"there is no size {size!r}", hint=f"one of {', '.join(SIZES)}")
        if size == self._settings.get("no_capacity"):
            raise CapacityError(f"no {size} machine is free", hint="try another size")

    @staticmethod
    def _ref(cloud: dict[str, Any], name: str) -> ResourceRef:
        thing = cloud["things"][name]
        return ResourceRef(kind=Kind(thing["kind"]), name=name, id=thing["id"], outputs=dict(thing["outputs"]))


_: type[ComputeProvider] = FakeProvider
