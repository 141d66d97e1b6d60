"""What the emulated Azure sells: sizes, as Resource Manager lists them, and their retail prices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALL_ZONES = ("1", "2", "3")
PAGE = 10
"""Items of one answer; the real service gives a hundred."""
FALLBACK = "eastus"
"""Whose prices locations have that the snapshot does not know."""


@dataclass(frozen=True)
class Sold:
    """One size."""

    name: str
    family: str
    vcpus: int
    memory_gib: float
    gpus: int = 0
    zones: tuple[str, ...] = ALL_ZONES
    architecture: str = "x64"
    generations: str = "V1,V2"
    has_trusted_launch: bool = True


def _series(family: str, name: str, vcpus: tuple[int, ...], gib_per_vcpu: float, **rest: Any) -> Iterator[Sold]:
    for count in vcpus:
        yield Sold(name.format(count), family, count, count * gib_per_vcpu, **rest)


EVERYTHING = (
    Sold("Standard_B1s", "standardBSFamily", 1, 1),
    Sold("Standard_B1ms", "standardBSFamily", 1, 2),
    Sold("Standard_B2s", "standardBSFamily", 2, 4),
    Sold("Standard_B2ms", "standardBSFamily", 2, 8),
    Sold("Standard_B4ms", "standardBSFamily", 4, 16),
    Sold("Standard_B8ms", "standardBSFamily", 8, 32),
    *_series("standardDSv5Family", "Standard_D{}s_v5", (2, 4, 8, 16, 32, 48, 64), 4),
    *_series("standardDASv5Family", "Standard_D{}as_v5", (2, 4, 8, 16), 4),
    *_series(
        "standardDPSv5Family",
        "Standard_D{}ps_v5",
        (2, 4, 8),
        4,
        architecture="Arm64",
        generations="V2",
        has_trusted_launch=False,
    ),
    *_series("standardESv5Family", "Standard_E{}s_v5", (2, 4, 8, 16, 32, 64), 8),
    *_series("standardFSv2Family", "Standard_F{}s_v2", (2, 4, 8, 16, 32, 64), 2),
    *_series("Standard NCASv3_T4 Family", "Standard_NC{}as_T4_v3", (4, 8, 16), 7, gpus=1, zones=("1", "2")),
    Sold("Standard_NC64as_T4_v3", "Standard NCASv3_T4 Family", 64, 440, gpus=4, zones=("1", "2")),
    Sold("Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, 220, gpus=1, zones=("2",), generations="V2"),
    Sold("Standard_NC48ads_A100_v4", "StandardNCADSA100v4Family", 48, 440, gpus=2, zones=("2",), generations="V2"),
    Sold("Standard_NC96ads_A100_v4", "StandardNCADSA100v4Family", 96, 880, gpus=4, zones=("2",), generations="V2"),
    Sold("Standard_NV6ads_A10_v5", "StandardNVADSA10v5Family", 6, 55, gpus=1, zones=()),
    Sold("Standard_NV36ads_A10_v5", "StandardNVADSA10v5Family", 36, 440, gpus=1, zones=()),
)
SIZES: Mapping[str, Sold] = {one.name.lower(): one for one in EVERYTHING}


def sku(sold: Sold, location: str, restricted: tuple[str, ...] | None) -> dict[str, Any]:
    """Returns one entry of the list of SKUs.

    Args:
        sold: the size.
        location: which location is asked about.
        restricted: zones that the subscription may not use; an empty tuple: none at all; None: no restriction.
    """
    has = {
        "vCPUs": sold.vcpus,
        "MemoryGB": sold.memory_gib,
        "CpuArchitectureType": sold.architecture,
        "HyperVGenerations": sold.generations,
        **({"GPUs": sold.gpus} if sold.gpus else {}),
        **({} if sold.has_trusted_launch else {"TrustedLaunchDisabled": "True"}),
    }
    restrictions = []
    if restricted is not None:
        restrictions.append(
            {
                "type": "Zone" if restricted else "Location",
                "values": [location],
                "restrictionInfo": {"locations": [location], "zones": list(restricted)},
                "reasonCode": "NotAvailableForSubscription",
            }
        )
    return {
        "resourceType": "virtualMachines",
        "name": sold.name,
        "family": sold.family,
        "locations": [location],
        "locationInfo": [{"location": location, "zones": list(sold.zones)}],
        "capabilities": [{"name": name, "value": str(value)} for name, value in has.items()],
        "restrictions": restrictions,
    }


def retail(wanted: str, *, skip: int, address: str) -> dict[str, Any]:
    """Returns one page of what the retail prices API answers, other systems and spot prices between it.

    The prices are those of the provider's snapshot: a rehearsal shows what the deployment would cost.

    Args:
        wanted: the filter.
        skip: items on the pages before.
        address: of the API, for the link to the next page.
    """
    raw = json.loads(resources.files("clouddeploy_providers.azure").joinpath("prices.json").read_text("utf-8"))
    region = (re.findall(r"armRegionName eq '([^']+)'", wanted) or [FALLBACK])[0]
    prices = raw["sizes"].get(region, raw["sizes"][FALLBACK])
    items = [
        _item(size, region, prices[size] * factor, product=product, suffix=suffix)
        for size in re.findall(r"armSkuName eq '([^']+)'", wanted)
        if size in prices
        for product, suffix, factor in (
            ("Virtual Machines {} Series Windows", "", 1.5),
            ("Virtual Machines {} Series", " Spot", 0.2),
            ("Virtual Machines {} Series", " Low Priority", 0.3),
            ("Virtual Machines {} Series", "", 1.0),
        )
    ]
    following = f"{address}?$skip={skip + PAGE}&$filter={wanted}" if skip + PAGE < len(items) else None
    page = items[skip : skip + PAGE]
    return {"BillingCurrency": "USD", "Items": page, "NextPageLink": following, "Count": len(page)}


def _item(size: str, region: str, price: float, *, product: str, suffix: str) -> dict[str, Any]:
    short = size.removeprefix("Standard_").replace("_", " ")
    return {
        "currencyCode": "USD",
        "retailPrice": round(price, 6),
        "unitPrice": round(price, 6),
        "armRegionName": region,
        "armSkuName": size,
        "meterName": f"{short}{suffix}",
        "skuName": f"{short}{suffix}",
        "productName": product.format(short.split()[0]),
        "serviceName": "Virtual Machines",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
    }
