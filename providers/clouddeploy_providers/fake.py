"""A cloud in memory or in one file, for tests of ours and of anybody who builds on the engine; faults are settings."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clouddeploy_providers import fake_cloud
from clouddeploy_providers.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    InvalidRequest,
    NotFound,
    ProviderError,
    QuotaError,
    Throttled,
)
from clouddeploy_providers.fake_cloud import DEFAULT_SIZE, IMAGE, SIZES, FakeCloud
from clouddeploy_providers.reach import JUMP, REACHED, check_login, inside, jump_outputs
from clouddeploy_providers.resources import Check, Found, Kind
from clouddeploy_providers.waiters import retrying, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Demand, MachineSpec, Need, Offer, Price, Resource, ResourceRef

__all__ = ["FakeCloud", "FakeProvider", "kill_this_process"]

ADOPTABLE = {Kind.NETWORK: "network", Kind.MACHINE: "machine"}


def kill_this_process() -> None:
    """Ends this process as `kill -9` does: nothing of ours runs after it."""
    os.kill(os.getpid(), signal.SIGKILL)


class FakeProvider:
    """Keeps its resources in a `FakeCloud`; with the setting `file`, a killed run and its successor see one cloud.

    Further settings: `credentials` (`wrong` is refused); `denied` (what the identity may not do, `create machine,
    delete address`); `no_capacity` (sizes, zones and `size@zone`s of which none is free, separated by commas);
    `quota_vcpus` and `quota_addresses` (how many there may be); `throttle` (this many calls are refused first);
    `latency_s` (each creation takes so long); `lag_s` (so long searches and `read` do not see a new thing);
    `crash_after` (this process dies right after its site's creation that is the cloud's of that number or a later one,
    before anybody hears of it). `network`
    and `machine` name things that exist and are adopted; the latter comes with `user`, `identity_file`, `host_key`.

    What others do to the cloud meanwhile are methods of `FakeCloud`. See `ComputeProvider` for the verbs.

    Args:
        settings: see above.
        endpoints: not used; it is its own endpoint.
        cloud: one to share within a process; None: that of `file`, or a new one in memory.
        crash: what `crash_after` does.
    """

    name: ClassVar[str] = "fake"
    setting_names: ClassVar[frozenset[str]] = frozenset(
        {
            "file",
            "credentials",
            "denied",
            "no_capacity",
            "quota_vcpus",
            "quota_addresses",
            "throttle",
            "latency_s",
            "lag_s",
            "crash_after",
            *ADOPTABLE.values(),
            *REACHED,
            *JUMP,
        }
    )
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True
    default_size: ClassVar[str] = DEFAULT_SIZE

    def __init__(
        self,
        settings: Mapping[str, str],
        endpoints: Endpoints,  # noqa: ARG002 - it is its own endpoint
        *,
        cloud: FakeCloud | None = None,
        crash: Callable[[], None] = kill_this_process,
    ) -> None:
        missing = [key for key in REACHED if "machine" in settings and not settings.get(key)]
        if missing:
            raise InvalidRequest(
                f"the machine {settings['machine']} lacks {', '.join(missing)}",
                why="it exists already, so nothing else says how it is reached",
                hint="add them in the deploy file",
            )
        if "machine" in settings:
            check_login(settings, settings["machine"])
            jump_outputs(settings, settings["machine"])
        self._settings = settings
        file = settings.get("file")
        self.cloud = cloud or FakeCloud(Path(file).expanduser() if file else None)
        self._place = f"fake {Path(file).name}" if file else "fake, in memory"
        self._denied, self._exhausted = (_listed(settings.get(key, "")) for key in ("denied", "no_capacity"))
        self._throttle = int(settings.get("throttle", "0"))
        self._latency_s = float(settings.get("latency_s", "0"))
        self._lag_s = float(settings.get("lag_s", "0"))
        self._crash_after = int(settings.get("crash_after", "0"))
        self._crash = crash

    @property
    def place(self) -> str:
        """The file's name."""
        return self._place

    @property
    def lag_s(self) -> float:
        """As the settings say."""
        return self._lag_s

    @property
    def quota_scope(self) -> str:
        """The place itself."""
        return self.place

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """As a real cloud: an address for the server, a firewall and a machine for all; an adopted machine alone."""
        if "machine" in self._settings:
            return (Kind.MACHINE,)
        network = (Kind.NETWORK,) if "network" in self._settings else ()
        return (*((Kind.ADDRESS,) if is_server else ()), *network, Kind.FIREWALL, Kind.MACHINE)

    def check(self, demand: Demand) -> list[Check]:
        """Reports credentials, permissions, sizes, quotas and what is to be adopted."""
        with self._asked() as content:
            found = [*self._check_permissions(), *self._check_sizes(demand.machines)]
            found += [*self._check_quotas(content, demand), *self._check_adopted(content)]
        return found or [Check("size", ok=True)]

    def offers(self, need: Need) -> list[Offer]:
        """Returns what is sold, with prices of its own list."""
        with self._asked():
            fitting = [offer for offer in SIZES.values() if offer.satisfies(need)]
        return sorted(fitting, key=lambda offer: offer.price.usd_per_hour if offer.price else float("inf"))

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:
        """Returns the price in its own list."""
        return None if kind is Kind.MACHINE and "machine" in self._settings else fake_cloud.price(kind, spec)

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the one image there is."""
        return spec.image or IMAGE

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates the resource, or finds it by name, or adopts what the settings name."""
        if resource.kind in ADOPTABLE and ADOPTABLE[resource.kind] in self._settings:
            return retrying(lambda: self._adopt(resource), cancel=cancel)
        if cancel.wait(self._latency_s):
            raise stopped(resource.name)
        return retrying(lambda: self._create(resource), cancel=cancel)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a firewall's rules, or starts a machine."""
        if ref.is_adopted:
            raise InvalidRequest(
                f"{ref.id} is not ours to change", why="it was there before", hint="change it yourself"
            )
        if ref.kind not in {Kind.FIREWALL, Kind.MACHINE}:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")

        def change() -> ResourceRef:
            with self._allowed("update", ref.kind) as content:
                thing = content["things"].get(ref.name)
                if thing is None:
                    raise NotFound(f"{ref.name} does not exist", hint="apply again")
                if ref.kind is Kind.FIREWALL:
                    thing["rules"] = [[rule.port, source] for rule in resource.rules for source in rule.sources]
                else:
                    thing["power"] = "running"
                return fake_cloud.reference(ref.name, thing)

        return retrying(change, cancel=cancel)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as it is now."""
        with self._asked() as content:
            if ref.is_adopted:
                return self._adopted(ref.kind, ref.name, content)
            thing = content["things"].get(ref.name)
            return fake_cloud.reference(ref.name, thing) if thing and self._is_visible(thing) else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes the resource; refuses while another needs it."""

        def remove() -> None:
            with self._allowed("delete", ref.kind) as content:
                thing = content["things"].get(ref.name)
                if ref.is_adopted or (thing and thing["owner"] is None):
                    raise InvalidRequest(f"{ref.id} is not ours to delete", hint="delete it yourself")
                users = [name for name, other in content["things"].items() if ref.name in other["needs"]]
                if thing and users:
                    raise Conflict(f"{ref.name} is in use", why=f"by {', '.join(users)}", hint="delete those first")
                content["things"].pop(ref.name, None)

        retrying(remove, cancel=cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's resources."""
        return [found.ref for found in self.find_all() if found.owner.deployment == deployment]

    def find_all(self) -> list[Found]:
        """Returns everything that has an owner."""
        with self._asked() as content:
            found = [
                Found(fake_cloud.reference(name, thing), owner)
                for name, thing in content["things"].items()
                if (owner := fake_cloud.owner_of(thing)) and self._is_visible(thing)
            ]
        return sorted(found, key=lambda one: list(Kind).index(one.ref.kind))

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

    @contextmanager
    def _allowed(self, verb: str, kind: Kind) -> Iterator[dict[str, Any]]:
        with self._asked() as content:
            permission = f"{verb} {kind.value}"
            if permission in self._denied:
                raise AccessDenied(f"the identity may not {permission}", hint=f"grant {permission}")
            yield content

    def _create(self, resource: Resource) -> ResourceRef:
        with self._allowed("create", resource.kind) as content:
            thing = content["things"].get(resource.name)
            is_new = thing is None
            if thing is None:
                zone = self._place_for(resource, content)
                content["created"] += 1
                thing = fake_cloud.born(resource, content["created"], zone=zone)
                content["things"][resource.name] = thing
            elif fake_cloud.owner_of(thing) != resource.owner:
                raise Conflict(f"{resource.name} is there and is not ours", hint="remove or rename it yourself")
            number, ref = content["created"], fake_cloud.reference(resource.name, thing)
        if is_new and 0 < self._crash_after <= number:
            self._crash()
        return ref

    def _place_for(self, resource: Resource, content: Mapping[str, Any]) -> str:
        """Returns the zone of a machine, and an empty text for the rest; refuses what the cloud has no room for."""
        if resource.machine is None:
            self._must_fit("quota_addresses", _count(content, Kind.ADDRESS), resource.kind is Kind.ADDRESS)
            return ""
        zone = fake_cloud.zone_for(resource.machine, exhausted=self._exhausted)
        wanted = fake_cloud.vcpus([resource.machine.size or DEFAULT_SIZE])
        self._must_fit("quota_vcpus", fake_cloud.vcpus(_sizes(content)), wanted)
        return zone

    def _must_fit(self, quota: str, used: int, wanted: int) -> None:
        limit = self._settings.get(quota)
        if wanted and limit is not None and used + wanted > int(limit):
            raise QuotaError(
                f"the {quota} of {limit} is too small", why=f"{used} used, {wanted} more wanted", hint=f"raise {quota}"
            )

    def _adopt(self, resource: Resource) -> ResourceRef:
        with self._asked() as content:
            ref = self._adopted(resource.kind, resource.name, content)
        if ref is None:
            key = ADOPTABLE[resource.kind]
            raise InvalidRequest(f"there is no {key} {self._settings[key]}", hint=f"correct `{key}`, or leave it out")
        return ref

    def _adopted(self, kind: Kind, name: str, content: Mapping[str, Any]) -> ResourceRef | None:
        theirs = self._settings.get(ADOPTABLE[kind], "")
        thing = content["things"].get(theirs)
        if thing is None or thing["kind"] != kind:
            return None
        ref = fake_cloud.reference(theirs, thing)
        reach = {}
        if kind is Kind.MACHINE:
            reach = {key: self._settings[key] for key in REACHED} | {"ssh_port": "22"}
            reach |= jump_outputs(self._settings, theirs)
        return replace(ref, name=name, id=theirs, outputs={**inside(ref.outputs, reach), **reach}, is_adopted=True)

    def _check_permissions(self) -> Iterator[Check]:
        for permission in sorted(self._denied):
            yield Check("permissions", ok=False, problem=f"may not {permission}", hint=f"grant {permission}")

    def _check_sizes(self, machines: Iterable[MachineSpec]) -> Iterator[Check]:
        for spec in dict.fromkeys(machines):
            try:
                fake_cloud.zone_for(spec, exhausted=frozenset())  # what is free now says nothing about then
            except ProviderError as error:
                yield Check("size", ok=False, problem=str(error), hint=error.hint)

    def _check_quotas(self, content: Mapping[str, Any], demand: Demand) -> Iterator[Check]:
        vcpus = fake_cloud.vcpus([spec.size or DEFAULT_SIZE for spec in demand.charged])
        others = {"things": {name: thing for name, thing in content["things"].items() if name not in demand.names}}
        for quota, used, wanted in (
            ("quota_vcpus", fake_cloud.vcpus(_sizes(others)), vcpus),
            ("quota_addresses", _count(others, Kind.ADDRESS), demand.charged_addresses),
        ):
            try:
                self._must_fit(quota, used, wanted)
            except QuotaError as error:
                yield Check("quota", ok=False, problem=str(error), hint=error.hint)

    def _check_adopted(self, content: Mapping[str, Any]) -> Iterator[Check]:
        for kind, key in ADOPTABLE.items():
            if key in self._settings and self._adopted(kind, "", content) is None:
                yield Check(key, ok=False, problem=f"there is no {key} {self._settings[key]}", hint=f"correct `{key}`")

    def _is_visible(self, thing: Mapping[str, Any]) -> bool:
        return time.time() >= float(thing["since"]) + self._lag_s


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _count(content: Mapping[str, Any], kind: Kind) -> int:
    return sum(thing["kind"] == kind for thing in content["things"].values())


def _sizes(content: Mapping[str, Any]) -> list[str]:
    return [thing["outputs"].get("size", "") for thing in content["things"].values() if thing["kind"] == Kind.MACHINE]


_: type[ComputeProvider] = FakeProvider
