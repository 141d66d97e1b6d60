"""A cloud in memory or in one file, for tests of ours and of anybody who builds on the engine; faults are settings."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import threading
import time
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
from clouddeploy_providers.waiters import retrying, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from threading import Event
    from typing import TextIO

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

SIZES = ("small", "large")
IMAGE = "fake-image"


def kill_this_process() -> None:
    """Ends this process as `kill -9` does: nothing of ours runs after it."""
    os.kill(os.getpid(), signal.SIGKILL)


class FakeCloud:
    """What exists; providers that share it see the same cloud, as do all processes that share its file.

    Args:
        file: where it is kept; None: in memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._memory = io.StringIO()
        self._lock = threading.Lock()  # flock holds processes apart, this the threads of one

    @property
    def created(self) -> int:
        """How many things were ever created; what is found again does not count."""
        with self.changing() as content:
            return int(content["created"])

    def rules(self, name: str) -> set[tuple[int, str]]:
        """Returns what a firewall lets in, as (port, source)."""
        with self.changing() as content:
            return {(int(port), str(source)) for port, source in content["things"][name]["rules"]}

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Gives the content to one caller at a time; what it changes is kept unless it raises."""
        with self._lock, self._opened() as file:
            file.seek(0)
            text = file.read()
            content: dict[str, Any] = json.loads(text) if text else {"things": {}, "created": 0, "refused": 0}
            yield content
            file.seek(0)
            file.truncate()
            json.dump(content, file)
            file.flush()

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        if self._file is None:
            yield self._memory
            return
        with self._file.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


class FakeProvider:
    """Keeps its resources in a `FakeCloud`; with the setting `file`, a killed run and its successor see one cloud.

    Further settings: `credentials` (`wrong` is refused); `no_capacity` (a size); `throttle` (this many calls are
    refused first); `latency_s` (each creation takes so long); `lag_s` (so long `find` and `read` do not see a new
    thing); `crash_after` (this process dies right after the creation of that number, before anybody hears of it).
    See `ComputeProvider` for the verbs.

    Args:
        settings: see above.
        endpoints: not used; it is its own endpoint.
        cloud: one to share within a process; None: that of `file`, or a new one in memory.
        crash: what `crash_after` does.
    """

    name: ClassVar[str] = "fake"
    setting_names: ClassVar[frozenset[str]] = frozenset(
        {"file", "credentials", "no_capacity", "throttle", "latency_s", "lag_s", "crash_after"}
    )
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True

    def __init__(
        self,
        settings: Mapping[str, str],
        endpoints: Endpoints,  # noqa: ARG002 - it is its own endpoint
        *,
        cloud: FakeCloud | None = None,
        crash: Callable[[], None] = kill_this_process,
    ) -> None:
        self._settings = settings
        file = settings.get("file")
        self.cloud = cloud or FakeCloud(Path(file).expanduser() if file else None)
        self._place = f"fake {Path(file).name}" if file else "fake, in memory"
        self._throttle = int(settings.get("throttle", "0"))
        self._latency_s = float(settings.get("latency_s", "0"))
        self._lag_s = float(settings.get("lag_s", "0"))
        self._crash_after = int(settings.get("crash_after", "0"))
        self._crash = crash

    @property
    def place(self) -> str:
        """The file's name."""
        return self._place

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """As a real cloud: an address for the server, a firewall and a machine for all."""
        return (Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE) if is_server else (Kind.FIREWALL, Kind.MACHINE)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports credentials and sizes."""
        with self._asked():
            unknown = sorted({spec.size for spec in wanted if spec.size is not None} - {*SIZES})
        if not unknown:
            return [Check("size", ok=True)]
        return [Check("size", ok=False, problem=f"no size {', '.join(unknown)}", hint=f"one of {', '.join(SIZES)}")]

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the one image there is."""
        return spec.image or IMAGE

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates the resource, or finds it by name."""
        if cancel.wait(self._latency_s):
            raise stopped(resource.name)
        return retrying(lambda: self._create(resource), cancel=cancel)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a firewall's rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")

        def change() -> ResourceRef:
            with self._asked() as content:
                if ref.name not in content["things"]:
                    raise NotFound(f"{ref.name} does not exist", hint="apply again")
                content["things"][ref.name]["rules"] = _rules(resource)
                return _ref(content, ref.name)

        return retrying(change, cancel=cancel)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as it is now."""
        with self._asked() as content:
            return _ref(content, ref.name) if self._is_visible(content["things"].get(ref.name)) else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes the resource; refuses while another needs it."""

        def remove() -> None:
            with self._asked() as content:
                users = [name for name, thing in content["things"].items() if ref.name in thing["needs"]]
                if users:
                    raise Conflict(f"{ref.name} is in use", why=f"by {', '.join(users)}", hint="delete those first")
                content["things"].pop(ref.name, None)

        retrying(remove, cancel=cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's resources."""
        with self._asked() as content:
            refs = [
                _ref(content, name)
                for name, thing in content["things"].items()
                if thing["deployment"] == deployment and self._is_visible(thing)
            ]
        return sorted(refs, key=lambda ref: list(Kind).index(ref.kind))

    @contextmanager
    def _asked(self) -> Iterator[dict[str, Any]]:
        if self._settings.get("credentials") == "wrong":
            raise AuthenticationError("the fake cloud refuses the credentials", hint="use others")
        with self.cloud.changing() as content:
            is_refused = content["refused"] < self._throttle
            content["refused"] += is_refused
            if not is_refused:
                yield content
                return
        raise Throttled("the fake cloud has had enough for now", hint="wait")

    def _create(self, resource: Resource) -> ResourceRef:
        with self._asked() as content:
            is_new = resource.name not in content["things"]
            if is_new:
                self._refuse(resource)
                content["created"] += 1
                content["things"][resource.name] = _thing(resource, content["created"])
            number, ref = content["created"], _ref(content, resource.name)
        if is_new and number == self._crash_after:
            self._crash()
        return ref

    def _refuse(self, resource: Resource) -> None:
        if resource.machine is None:
            return
        size = resource.machine.size or SIZES[0]
        if size not in SIZES:
            raise InvalidRequest(f"there is no size {size!r}", hint=f"one of {', '.join(SIZES)}")
        if size == self._settings.get("no_capacity"):
            raise CapacityError(f"no {size} machine is free", hint="try another size")

    def _is_visible(self, thing: Mapping[str, Any] | None) -> bool:
        return thing is not None and time.time() >= float(thing["since"]) + self._lag_s


def _thing(resource: Resource, number: int) -> dict[str, Any]:
    outputs = {}
    if resource.kind in {Kind.ADDRESS, Kind.MACHINE}:
        outputs["address"] = f"198.51.100.{number % 256}"
    reserved = resource.needed(Kind.ADDRESS)
    if resource.machine is not None:
        if reserved is not None:
            outputs["address"] = reserved.outputs["address"]
        outputs |= {
            "user": resource.machine.user,
            "size": resource.machine.size or SIZES[0],
            "image": resource.machine.image or IMAGE,
        }
    return {
        "kind": resource.kind.value,
        "id": f"fake-{number}",
        "deployment": resource.owner.deployment,
        "needs": [ref.name for ref in resource.needs],
        "rules": _rules(resource),
        "since": time.time(),
        "outputs": outputs,
    }


def _rules(resource: Resource) -> list[tuple[int, str]]:
    return [(rule.port, source) for rule in resource.rules for source in rule.sources]


def _ref(content: Mapping[str, Any], name: str) -> ResourceRef:
    thing = content["things"][name]
    return ResourceRef(kind=Kind(thing["kind"]), name=name, id=thing["id"], outputs=dict(thing["outputs"]))


_: type[ComputeProvider] = FakeProvider
