"""What things cost per hour: the retail prices of the last question, else the snapshot that ships with the package."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from azure.core import PipelineClient
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import RetryPolicy
from azure.core.rest import HttpRequest

from clouddeploy_providers.resources import Price

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clouddeploy_providers.azure.clients import Cloud

log = logging.getLogger(__name__)

SOURCE, SNAPSHOT = "Azure retail prices", "snapshot"
HOURS_PER_MONTH = 730
"""As Azure's own calculator has it."""
DISK_TIERS_GIB = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32767)
"""A disk costs as much as the next larger tier.

Source:
    https://azure.microsoft.com/pricing/details/managed-disks/
"""
DISK: Final = "StandardSSD_LRS"
PER_QUESTION = 15
"""Sizes in one filter; the address of a request must stay below 2,000 characters."""
ANSWER_S = 10
PATIENCE_S = 20.0
"""For all questions together; after that the snapshot has to do."""
NOT_LINUX_ON_DEMAND = ("windows", "spot", "low priority", "cloud services", "dev/test")


class Prices:
    """The prices of one location.

    Args:
        cloud: where the retail prices API answers.
        location: Azure's name of the region.
        today: returns the day, ISO 8601.
        clock: for the patience.
        connect: returns the HTTP client, which is closed after each question.
    """

    def __init__(
        self,
        cloud: Cloud,
        location: str,
        *,
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[], Any] | None = None,
    ) -> None:
        self._location = location
        self._today = today
        self._clock = clock
        self._address = cloud.prices
        self._connect = connect or partial(_connect, cloud)
        self._lock = threading.Lock()
        self._asked: dict[str, Price] = {}
        raw = json.loads(resources.files(__package__).joinpath("prices.json").read_text(encoding="utf-8"))
        self._snapshot: Mapping[str, Any] = raw

    def size(self, size: str) -> Price | None:
        """Returns the price of a machine without its disk; None: unknown. Contacts nobody."""
        with self._lock:
            asked = self._asked.get(size.lower())
        known = self._snapshot["sizes"].get(self._location, {})
        return asked or (self._kept(known[size]) if size in known else None)

    def machine(self, size: str, disk_gib: int) -> Price | None:
        """Returns the price of a machine and its disk; None: unknown. Contacts nobody."""
        price = self.size(size)
        if price is None:
            return None
        tier = next((tier for tier in DISK_TIERS_GIB if tier >= disk_gib), disk_gib)
        disk = tier * float(self._snapshot["disk_per_gib_month"][DISK]) / HOURS_PER_MONTH
        return Price(round(price.usd_per_hour + disk, 6), price.source, price.as_of)

    def address(self) -> Price:
        """Returns the price of a static public address. Contacts nobody."""
        return self._kept(self._snapshot["public_address_per_hour"])

    def ask(self, sizes: Sequence[str]) -> None:
        """Asks for the prices of these sizes; whatever is not answered keeps the price that it had."""
        deadline = self._clock() + PATIENCE_S
        try:
            with self._connect() as client:
                for first in range(0, len(sizes), PER_QUESTION):
                    for item in self._items(client, sizes[first : first + PER_QUESTION], deadline):
                        self._remember(item)
        except (AzureError, ValueError, KeyError, TypeError) as error:
            log.info("Azure's retail prices cannot be had, those of the snapshot are used: %s", error)

    def _items(self, client: Any, sizes: Sequence[str], deadline: float) -> Iterator[Mapping[str, Any]]:
        names = " or ".join(f"armSkuName eq '{size}'" for size in sizes)
        wanted = (
            f"serviceName eq 'Virtual Machines' and armRegionName eq '{self._location}' and priceType eq 'Consumption'"
            f" and ({names})"
        )
        request: HttpRequest | None = HttpRequest("GET", self._address, params={"$filter": wanted})
        while request is not None and self._clock() < deadline:
            response = client.send_request(request)
            response.raise_for_status()
            body = response.json()
            yield from body["Items"]
            # The link must lead to the same service: it decides what a machine is said to cost.
            link = str(body.get("NextPageLink") or "")
            request = HttpRequest("GET", link) if link.startswith(self._address) else None

    def _remember(self, item: Mapping[str, Any]) -> None:
        words = " ".join(str(item.get(key, "")) for key in ("productName", "skuName", "meterName")).lower()
        is_wanted = str(item.get("unitOfMeasure")) == "1 Hour" and item.get("type", "Consumption") == "Consumption"
        if is_wanted and not any(word in words for word in NOT_LINUX_ON_DEMAND):
            with self._lock:
                self._asked[str(item["armSkuName"]).lower()] = Price(float(item["retailPrice"]), SOURCE, self._today())

    def _kept(self, usd_per_hour: float) -> Price:
        return Price(float(usd_per_hour), SNAPSHOT, str(self._snapshot["as_of"]))


def _connect(cloud: Cloud) -> Any:
    """Returns a client without credentials and with one repetition at most: a price is worth no long wait."""
    verify: dict[str, Any] = {"connection_verify": cloud.ca_file} if cloud.ca_file else {}
    timeouts: dict[str, Any] = {"connection_timeout": ANSWER_S, "read_timeout": ANSWER_S}
    return PipelineClient(cloud.prices, policies=[RetryPolicy(retry_total=1, timeout=ANSWER_S)], **timeouts, **verify)
