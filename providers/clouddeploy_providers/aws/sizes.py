"""Machine sizes: what EC2 says of them, where each is sold, and which satisfy a need."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import CapacityError, InvalidRequest
from clouddeploy_providers.resources import Offer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from clouddeploy_providers.aws.prices import Prices
    from clouddeploy_providers.resources import Need

MIB_PER_GIB = 1024
ARM = re.compile(r"a1\.|[a-z]+\d+g[a-z]*\.")
"""Graviton's families have a `g` right after their generation: t4g, m7gd, c8gn, im4gn, g5g; g4dn and p4d have none."""
GPU_MAKER = "NVIDIA"
"""Others' GPUs (g4ad's, dl1's accelerators) do not run what is trained here, and would be the cheapest."""
GPU_FAMILIES = ("g*", "p*")
"""Asking for these alone saves ten pages of answers; all of EC2's sizes with GPUs are called so."""
SOLD = {"current-generation": "true", "bare-metal": "false", "supported-usage-class": "on-demand"}
"""Bare metal takes a quarter of an hour to start and costs most; who wants it names it."""


def architecture_of(size: str) -> str:
    """Returns `arm64` or `x86_64` by the size's name, without asking anybody."""
    return "arm64" if ARM.match(size) else "x86_64"


def described(ec2: Any, sizes: Collection[str]) -> dict[str, Offer]:
    """Returns those of the sizes that the region knows, without zones and prices."""
    return {one.size: one for one in _described(ec2, {"instance-type": sorted(sizes)})} if sizes else {}


def offers(ec2: Any, need: Need, prices: Prices) -> list[Offer]:
    """Returns the sizes that satisfy the need, the cheapest first, those without a price last."""
    filters: dict[str, Sequence[str]] = {name: [value] for name, value in SOLD.items()}
    if need.gpus:
        filters["instance-type"] = GPU_FAMILIES
    enough = [one for one in _described(ec2, filters) if one.satisfies(need)]
    zones = _zones(ec2, [])
    priced = [
        replace(one, zones=tuple(sorted(zones[one.size])), price=prices.of_size(one.size))
        for one in enough
        if one.size in zones
    ]
    return sorted(priced, key=_cheapest)


def zones_offering(ec2: Any, size: str, subnets: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the subnets whose zone offers the size: `Unsupported` from RunInstances would only be found out later.

    Raises:
        InvalidRequest: no zone of the region offers it, so the name is wrong or the size is not sold here.
        CapacityError: other zones offer it, but none of these.
    """
    zones = _zones(ec2, [size]).get(size, set())
    if not zones:
        raise InvalidRequest(f"the size {size} is not offered in this region", hint="correct `size`")
    offering = [(subnet, zone) for subnet, zone in subnets if zone in zones]
    if not offering:
        tried = ", ".join(zone for _, zone in subnets)
        hint = f"name a subnet in {', '.join(sorted(zones))}, or another size"
        raise CapacityError(f"the size {size} is not offered in {tried}", hint=hint)
    return offering


def _zones(ec2: Any, sizes: Sequence[str]) -> dict[str, set[str]]:
    """Returns the zones that sell each size; all sizes where none is named."""
    given: dict[str, Any] = {"Filters": [{"Name": "instance-type", "Values": list(sizes)}]} if sizes else {}
    found: dict[str, set[str]] = {}
    with translated(f"the zones of {', '.join(sizes) or 'the sizes'} cannot be listed"):
        pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", **given
        )
        for page in pages:
            for one in page["InstanceTypeOfferings"]:
                found.setdefault(str(one["InstanceType"]), set()).add(str(one["Location"]))
    return found


def _described(ec2: Any, filters: Mapping[str, Sequence[str]]) -> list[Offer]:
    given = [{"Name": name, "Values": list(values)} for name, values in filters.items()]
    with translated("the machine sizes cannot be listed"):
        pages = ec2.get_paginator("describe_instance_types").paginate(Filters=given)
        return [_offer(one) for page in pages for one in page["InstanceTypes"]]


def _offer(described: Mapping[str, Any]) -> Offer:
    everything = described.get("GpuInfo", {}).get("Gpus", [])
    gpus = [one for one in everything if str(one.get("Manufacturer", "")).upper() == GPU_MAKER]
    size = str(described["InstanceType"])
    memory_mib = max((int(gpu.get("MemoryInfo", {}).get("SizeInMiB", 0)) for gpu in gpus), default=0)
    architectures = described.get("ProcessorInfo", {}).get("SupportedArchitectures") or [architecture_of(size)]
    return Offer(
        size=size,
        vcpus=int(described["VCpuInfo"]["DefaultVCpus"]),
        memory_gib=int(described["MemoryInfo"]["SizeInMiB"]) / MIB_PER_GIB,
        gpus=sum(int(gpu.get("Count", 0)) for gpu in gpus),
        gpu_memory_gib=memory_mib / MIB_PER_GIB,
        gpu_name=str(gpus[0].get("Name", "")) if gpus else "",
        architecture="arm64" if "arm64" in architectures else "x86_64",
    )


def _cheapest(offer: Offer) -> tuple[bool, float, int, float, str]:
    price = offer.price.usd_per_hour if offer.price else 0.0
    return offer.price is None, price, offer.vcpus, offer.memory_gib, offer.size
