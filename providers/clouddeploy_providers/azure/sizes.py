"""The machine sizes of one location: what they have, in which zones, and what the subscription may not use."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.errors import AccessDenied
from clouddeploy_providers.resources import Offer

if TYPE_CHECKING:
    from collections.abc import Iterator

ARM_NAME = re.compile(r"Standard_[A-Z]+\d+(-\d+)?[a-z]*p[a-z]*_", re.ASCII)
"""The small letter p among a size's features means Arm.

Source:
    https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
"""
GPUS = (
    (re.compile(r"_NV6ads_A10_v5"), 4, "NVIDIA A10"),
    (re.compile(r"_NV12ads_A10_v5"), 8, "NVIDIA A10"),
    (re.compile(r"_NV18ads_A10_v5"), 12, "NVIDIA A10"),
    (re.compile(r"_A10_v5"), 24, "NVIDIA A10"),
    (re.compile(r"_T4_v3"), 16, "NVIDIA T4"),
    (re.compile(r"_ND96asr_"), 40, "NVIDIA A100"),
    (re.compile(r"_A100_v4"), 80, "NVIDIA A100"),
    (re.compile(r"_NC(40|80)ad(is|s)_H100_v5"), 94, "NVIDIA H100"),
    (re.compile(r"_H100_v5"), 80, "NVIDIA H100"),
    (re.compile(r"_H200_v5"), 141, "NVIDIA H200"),
    (re.compile(r"_ND40rs_v2"), 32, "NVIDIA V100"),
    (re.compile(r"_NC\d+r?s_v3"), 16, "NVIDIA V100"),
    (re.compile(r"_NV\d+s_v3"), 8, "NVIDIA M60"),
)
"""Name, GiB per GPU and model, the first match counts: Azure's list of sizes says how many GPUs and not which.

Source:
    https://learn.microsoft.com/azure/virtual-machines/sizes/overview (GPU accelerated)
"""


@dataclass(frozen=True)
class Size:
    """One size as Azure lists it for the subscription."""

    offer: Offer
    """Without a price; its zones are those in which the subscription may use it."""
    family: str
    """Whose quota it counts against, `standardBSFamily`."""
    is_restricted: bool
    """The subscription may not use it in this location at all."""
    generations: frozenset[str]
    """Of virtual hardware: `V1`, `V2`; an image has one of them."""
    has_trusted_launch: bool


class Sizes:
    """Asks once and remembers; the list has a thousand entries and takes seconds."""

    def __init__(self, compute: Any, location: str) -> None:
        self._compute = compute
        self._location = location
        self._lock = threading.Lock()
        self._known: dict[str, Size] | None = None

    def all(self) -> dict[str, Size]:
        """Returns the sizes by their names in lower case."""
        with self._lock:
            if self._known is None:
                with translated(f"the machine sizes of {self._location} cannot be listed"):
                    self._known = {one.offer.size.lower(): one for one in self._listed()}
            return self._known

    def known(self) -> dict[str, Size]:
        """Returns what `all` returns, and nothing where the identity may not ask, so that it can still work there."""
        try:
            return self.all()
        except AccessDenied:
            return {}

    def zones(self) -> tuple[str, ...]:
        """Returns the zones of the location, those of which any size is sold; none where it has none."""
        return tuple(sorted({zone for one in self.known().values() for zone in one.offer.zones}))

    def _listed(self) -> Iterator[Size]:
        for sku in self._compute.resource_skus.list(filter=f"location eq '{self._location}'"):
            if str(sku.resource_type) == "virtualMachines" and sku.name:
                yield _size(sku)


def is_arm(size: str) -> bool:
    """Tells from its name whether a size has Arm processors."""
    return ARM_NAME.match(size) is not None


def _size(sku: Any) -> Size:
    has = {str(one.name): str(one.value) for one in sku.capabilities or []}
    name, gpus = str(sku.name), math.ceil(float(has.get("GPUs", "0")))
    memory, model = (
        next(((gib, model) for pattern, gib, model in GPUS if pattern.search(name)), (0, "")) if gpus else (0, "")
    )
    zones = {str(zone) for info in sku.location_info or [] for zone in info.zones or []}
    is_restricted = False
    for one in sku.restrictions or []:
        if str(getattr(one.type, "value", one.type)).lower() == "zone":
            zones -= {str(zone) for zone in (one.restriction_info.zones if one.restriction_info else None) or []}
        else:
            is_restricted = True
    offer = Offer(
        size=name,
        vcpus=int(has.get("vCPUsAvailable") or has.get("vCPUs", "0")),
        memory_gib=float(has.get("MemoryGB", "0")),
        gpus=gpus,
        gpu_memory_gib=memory,
        gpu_name=model,
        architecture="arm64" if has.get("CpuArchitectureType", "x64").lower() == "arm64" else "x86_64",
        zones=tuple(sorted(zones)),
    )
    generations = frozenset(part.strip() for part in has.get("HyperVGenerations", "V1,V2").split(","))
    return Size(
        offer=offer,
        family=str(sku.family or ""),
        is_restricted=is_restricted,
        generations=generations,
        has_trusted_launch="V2" in generations and has.get("TrustedLaunchDisabled", "").lower() != "true",
    )
