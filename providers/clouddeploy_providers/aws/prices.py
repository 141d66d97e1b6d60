"""What things cost: AWS's price list where it can be asked, else the snapshot beside this module, which says its date.

Source:
    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
"""

from __future__ import annotations

import json
import logging
from importlib import resources
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import ProviderError
from clouddeploy_providers.resources import Kind, Price

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

HOURS_PER_MONTH = 730
"""AWS bills disks by the month and counts this many hours in one."""
LISTED, SNAPSHOT = "AWS price list", "snapshot"
ON_DEMAND = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "productFamily": "Compute Instance",
}
"""What makes a size's price the one that a machine of ours costs; without it a size has some two hundred prices."""


class Prices:
    """The prices of one region; read by several threads at once, replaced as a whole.

    Args:
        region: `us-west-2`.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._listed: Mapping[str, Price] = {}
        text = resources.files("clouddeploy_providers.aws").joinpath("prices.json").read_text(encoding="utf-8")
        snapshot: dict[str, Any] = json.loads(text)
        self._as_of = str(snapshot["as_of"])
        self._address = float(snapshot["public_ipv4_per_hour"])
        self._snapshot: dict[str, Any] = snapshot["regions"].get(region, {})

    def of_size(self, size: str) -> Price | None:
        """Returns what an instance of the size costs without its disk and address; None when nobody says."""
        if size in self._listed:
            return self._listed[size]
        usd = self._snapshot.get("sizes_per_hour", {}).get(size)
        return None if usd is None else Price(float(usd), SNAPSHOT, self._as_of)

    def of(self, kind: Kind, *, size: str, disk_gib: int) -> Price | None:
        """Returns what a resource costs; a machine with its disk and the public address that it is born with."""
        if kind is Kind.ADDRESS:
            return Price(self._address, SNAPSHOT, self._as_of)
        per_hour = self.of_size(size) if kind is Kind.MACHINE else None
        if per_hour is None:
            return None
        disk = float(self._snapshot.get("gp3_per_gib_month", 0)) * disk_gib / HOURS_PER_MONTH
        return Price(round(per_hour.usd_per_hour + disk + self._address, 6), per_hour.source, per_hour.as_of)

    def refresh(self, pricing: Any) -> None:
        """Reads the region's price list, once; where that fails, what is known stays.

        Whoever may not read prices can still deploy, so it is no more than a line in the log.
        """
        if self._listed:
            return
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in ON_DEMAND.items()]
        filters.append({"Type": "TERM_MATCH", "Field": "regionCode", "Value": self._region})
        try:
            with translated("the price list cannot be read"):
                pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
                listed = [_listed(json.loads(text)) for page in pages for text in page["PriceList"]]
        except ProviderError as error:
            log.info("prices are those of %s: %s", self._as_of, error)
            return
        self._listed = {size: price for size, price in listed if price is not None}


def _listed(product: Mapping[str, Any]) -> tuple[str, Price | None]:
    """Returns size and price of one entry of the list; no price where it is not sold by the hour in US dollars."""
    size = str(product["product"]["attributes"].get("instanceType", ""))
    amounts = [
        float(dimension["pricePerUnit"].get("USD", 0))
        for term in product.get("terms", {}).get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
    ]
    usd = max(amounts, default=0.0)
    return size, Price(usd, LISTED, str(product.get("publicationDate", ""))[:10]) if usd else None
