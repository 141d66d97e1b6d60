"""The cloud behind `FakeProvider`: what it sells, what is in it, and what others do to it behind our back."""

from __future__ import annotations

import fcntl
import io
import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import CapacityError, InvalidRequest
from clouddeploy_providers.resources import FirewallRule, Kind, Offer, Owner, Price, ResourceRef, rules_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    from clouddeploy_providers.resources import MachineSpec, Resource

IMAGE = "fake-image"
ZONES = ("zone-1", "zone-2", "zone-3")


def _price(usd_per_hour: float) -> Price:
    return Price(usd_per_hour, "fake price list", "2026-01-01")


SIZES = {
    offer.size: offer
    for offer in (
        Offer("small", 2, 2, zones=ZONES, price=_price(0.02)),
        Offer("large", 8, 32, zones=ZONES, price=_price(0.40)),
        Offer("arm", 2, 4, architecture="arm64", zones=ZONES[:1], price=_price(0.03)),
        Offer("gpu", 4, 16, gpus=1, gpu_memory_gib=16, gpu_name="Fake 16", zones=ZONES[1:], price=_price(0.60)),
        Offer("unpriced", 4, 8, zones=ZONES),
    )
}
"""What is sold, by name."""
DEFAULT_SIZE = "small"
DISK_USD_PER_GIB = 0.0001
"""Per hour; as everything here, near what clouds ask and no cloud's price."""
ADDRESS_USD = 0.005
PRIVATE, PUBLIC = "10.0.0.{}", "198.51.100.{}"


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

    @property
    def names(self) -> list[str]:
        """The names of all that exists, whoever made it."""
        with self.changing() as content:
            return list(content["things"])

    def rules(self, name: str) -> set[tuple[int, str]]:
        """Returns what a firewall lets in, as (port, source)."""
        with self.changing() as content:
            return {(int(port), str(source)) for port, source in content["things"][name]["rules"]}

    def add(self, kind: Kind, name: str) -> None:
        """Puts in what somebody else owns: it carries no tag of ours."""
        with self.changing() as content:
            content["created"] += 1
            outputs = _addresses(content["created"]) if kind is Kind.MACHINE else {}
            content["things"][name] = _thing(kind, content["created"], outputs)

    def allow(self, name: str, *, port: int, source: str) -> None:
        """Lets something more through a firewall, as somebody does in the console."""
        with self.changing() as content:
            content["things"][name]["rules"].append([port, source])

    def stop(self, name: str) -> None:
        """Switches a machine off, as somebody does in the console."""
        with self.changing() as content:
            content["things"][name]["power"] = "stopped"

    def remove(self, name: str) -> None:
        """Deletes something, as somebody does in the console."""
        with self.changing() as content:
            content["things"].pop(name, None)

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


def zone_for(spec: MachineSpec, *, exhausted: frozenset[str]) -> str:
    """Returns the first zone, of those wanted, that has a machine of the size free.

    Args:
        spec: the machine wanted.
        exhausted: sizes, zones and `size@zone`s of which nothing is free.

    Raises:
        InvalidRequest: there is no such size or zone, or the zones that are wanted do not sell the size.
        CapacityError: they sell it, but have none.
    """
    size = spec.size or DEFAULT_SIZE
    if size not in SIZES:
        raise InvalidRequest(f"there is no size {size!r}", hint=f"one of {', '.join(SIZES)}")
    sold = SIZES[size].zones
    tried = [zone for zone in spec.zones or sold if zone in sold]
    if not tried:
        raise InvalidRequest(f"{size} is not sold in {', '.join(spec.zones)}", hint=f"name one of {', '.join(sold)}")
    for zone in tried:
        if not exhausted & {size, zone, f"{size}@{zone}"}:
            return zone
    raise CapacityError(
        f"no zone has a free {size}", why=f"tried {', '.join(tried)}", hint="try later, or another size"
    )


def born(resource: Resource, number: int, *, zone: str) -> dict[str, Any]:
    """Returns a new thing as it is kept.

    Args:
        resource: what is wanted.
        number: how many things the cloud has made, this one included; makes its id and its address.
        zone: where its machine is.
    """
    outputs: dict[str, str] = {}
    if resource.kind is Kind.ADDRESS:
        outputs["address"] = PUBLIC.format(number % 256)
    spec = resource.machine
    if resource.kind is Kind.MACHINE:
        outputs = _addresses(number)
        reserved = resource.needed(Kind.ADDRESS)
        if reserved is not None:
            outputs["address"] = reserved.outputs["address"]
    if spec is not None:
        outputs |= {
            "ssh_port": "22",
            "user": spec.user,
            "size": spec.size or DEFAULT_SIZE,
            "image": spec.image or IMAGE,
            "zone": zone,
        }
    thing = _thing(resource.kind, number, outputs)
    owner = resource.owner
    return thing | {
        "owner": [owner.deployment, owner.project, owner.site],
        "needs": [ref.name for ref in resource.needs if not ref.is_adopted],
        "rules": [[rule.port, source] for rule in resource.rules for source in rule.sources],
        "expires_at": spec.expires_at if spec else "",
    }


def reference(name: str, thing: Mapping[str, Any]) -> ResourceRef:
    """Returns the reference of what is kept under a name."""
    kind, outputs = Kind(thing["kind"]), dict(thing["outputs"])
    if kind is Kind.FIREWALL:
        outputs["rules"] = _rules_text(thing["rules"])
    if kind is Kind.MACHINE:
        outputs["power"] = "stopped" if has_expired(thing) else thing["power"]
    return ResourceRef(kind, name, thing["id"], outputs)


def owner_of(thing: Mapping[str, Any]) -> Owner | None:
    """Returns whose it is; None: not ours."""
    return Owner(*thing["owner"]) if thing["owner"] else None


def has_expired(thing: Mapping[str, Any]) -> bool:
    """Tells whether the machine has switched itself off because its time is over."""
    return bool(thing["expires_at"]) and datetime.fromisoformat(thing["expires_at"]) <= datetime.now(UTC)


def vcpus(sizes: Sequence[str]) -> int:
    """Returns how many virtual CPUs machines of these sizes have together; unknown sizes count nothing."""
    return sum(SIZES[size].vcpus for size in sizes if size in SIZES)


def price(kind: Kind, spec: MachineSpec | None) -> Price | None:
    """Returns the price of one resource per hour; None when it is free or unknown."""
    if kind is Kind.ADDRESS:
        return _price(ADDRESS_USD)
    if kind is not Kind.MACHINE or spec is None:
        return None
    offer = SIZES.get(spec.size or DEFAULT_SIZE)
    if offer is None or offer.price is None:
        return None
    return _price(offer.price.usd_per_hour + spec.disk_gib * DISK_USD_PER_GIB + ADDRESS_USD)


def _thing(kind: Kind, number: int, outputs: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": kind.value,
        "id": f"fake-{number}",
        "owner": None,
        "needs": [],
        "rules": [],
        "since": time.time(),
        "power": "running",
        "expires_at": "",
        "outputs": outputs,
    }


def _addresses(number: int) -> dict[str, str]:
    return {"address": PUBLIC.format(number % 256), "private_address": PRIVATE.format(number % 256)}


def _rules_text(rules: Sequence[tuple[int, str]]) -> str:
    ports = sorted({port for port, _ in rules})
    sources = {port: tuple(source for other, source in rules if other == port) for port in ports}
    return rules_text([FirewallRule(port, sources[port], str(port)) for port in ports])
