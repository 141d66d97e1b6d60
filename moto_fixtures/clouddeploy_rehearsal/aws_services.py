"""AWS's price list and Service Quotas, which moto lacks, answered as their own APIs do."""

from __future__ import annotations

import io
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLISHED = "2026-11-01T00:00:00Z"
"""The day of the emulated price list; its numbers are those of the snapshot that ships with the provider."""
ELSEWHERE = "us-east-1"
"""Whose prices a region has that the snapshot lacks, so that every deploy file can be rehearsed."""
PAGE = 100
QUOTAS = {
    "L-1216C47A": 1920.0,
    "L-DB2E81BA": 768.0,
    "L-417A185B": 768.0,
    "L-0263D0A3": 256.0,
}
"""An account that asked for more: a new one has 5 vCPUs, none with GPUs, and 5 addresses."""


class Services:
    """Answers for both; `quotas` may be changed while they are asked."""

    def __init__(self) -> None:
        self.quotas = dict(QUOTAS)
        text = resources.files("clouddeploy_providers.aws").joinpath("prices.json").read_text(encoding="utf-8")
        self._regions: dict[str, Any] = json.loads(text)["regions"]

    def answer(self, service: str, call: str, environ: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Returns status and body of the answer to a call; None where the service is another one's."""
        if service not in {"pricing", "servicequotas"}:
            return None
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        given = json.loads(body or b"{}")
        if (service, call) == ("pricing", "GetProducts"):
            return "200 OK", self._products(given)
        if (service, call) == ("servicequotas", "GetServiceQuota"):
            return self._quota(given)
        return "400 Bad Request", {"__type": "UnknownOperationException"}

    def _quota(self, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        code = str(given.get("QuotaCode"))
        if given.get("ServiceCode") != "ec2" or code not in self.quotas:
            return "400 Bad Request", {"__type": "NoSuchResourceException", "Message": "The request failed."}
        return "200 OK", {"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "Value": self.quotas[code]}}

    def _products(self, given: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {one["Field"]: one["Value"] for one in given.get("Filters", [])}
        region = self._regions.get(wanted.get("regionCode", ELSEWHERE)) or self._regions[ELSEWHERE]
        start = int(given.get("NextToken") or 0)
        listed = [
            json.dumps(_product(size, usd))
            for size, usd in region["sizes_per_hour"].items()
            if wanted.get("instanceType", size) == size
        ]
        more = {"NextToken": str(start + PAGE)} if start + PAGE < len(listed) else {}
        return {"FormatVersion": "aws_v1", "PriceList": listed[start : start + PAGE], **more}


def _product(size: str, usd: float) -> dict[str, Any]:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{usd:.10f}"}}
    return {
        "product": {"productFamily": "Compute Instance", "attributes": {"instanceType": size}, "sku": size},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {f"{size}.JRTCKXETXF": {"priceDimensions": {f"{size}.6YS6EN2CT7": dimension}}}},
        "publicationDate": PUBLISHED,
    }
