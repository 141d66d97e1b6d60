"""Whether the account's limits leave room: vCPUs of a family of sizes, and Elastic IPs.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-quotas.html
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws import sizes
from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.tagging import is_demanded
from clouddeploy_providers.errors import AuthenticationError, ProviderError
from clouddeploy_providers.resources import Check, Demand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_providers.resources import Offer

STANDARD = "L-1216C47A"
FAMILIES = {
    "dl": "L-6E869C2A",
    "f": "L-74FC7D96",
    "g": "L-DB2E81BA",
    "gr": "L-DB2E81BA",
    "hpc": "L-F7808C92",
    "inf": "L-1945791B",
    "p": "L-417A185B",
    "trn": "L-2C3B7624",
    "u": "L-43DA4232",
    "vt": "L-DB2E81BA",
    "x": "L-7295265B",
}
"""Quotas of running on-demand vCPUs by the letters that a size begins with; all others share the standard one."""
ADDRESSES = "L-0263D0A3"
NOTHING = Demand(())
LETTERS = re.compile(r"[a-z]+")


def quota_of(size: str) -> str:
    """Returns the code of the quota that an instance of this size counts against."""
    letters = LETTERS.match(size)
    return FAMILIES.get(letters[0] if letters else "", STANDARD)


def link(code: str, region: str) -> str:
    """Returns the page where a quota is raised."""
    return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"


class Quotas:
    """The limits of one account and region.

    Args:
        client: of Service Quotas.
        ec2: client.
        region: for the links.
    """

    def __init__(self, client: Any, ec2: Any, region: str) -> None:
        self._client = client
        self._ec2 = ec2
        self._region = region

    def check_vcpus(self, wanted: Sequence[Offer], *, demand: Demand = NOTHING) -> list[Check]:
        """Reports each family whose quota is too small for what runs already and these machines.

        Args:
            wanted: a size for each machine.
            demand: whose machines they are; what exists of it already is not in use besides.
        """
        asked: Counter[str] = Counter()
        for one in wanted:
            asked[quota_of(one.size)] += one.vcpus
        used = self._running(demand) if asked else Counter()
        return [
            found
            for code, vcpus in sorted(asked.items())
            for found in self._room(code, wanted=vcpus, used=used[code], unit=f"vCPUs of {_names(wanted, code)}")
        ]

    def check_addresses(self, wanted: int, *, demand: Demand = NOTHING) -> list[Check]:
        """Reports whether the Elastic IPs that are left are too few; arguments as above."""
        if not wanted:
            return []
        with translated("the addresses cannot be listed"):
            used = sum(not is_demanded(one, demand) for one in self._ec2.describe_addresses()["Addresses"])
        return self._room(ADDRESSES, wanted=wanted, used=used, unit="Elastic IPs")

    def _room(self, code: str, *, wanted: int, used: int, unit: str) -> list[Check]:
        where = f"ask for more: {link(code, self._region)}"
        try:
            with translated(f"the quota {code} cannot be read"):
                answer = self._client.get_service_quota(ServiceCode="ec2", QuotaCode=code)
        except AuthenticationError:
            raise
        except ProviderError as error:
            problem = f"the quota of {unit} was not checked: {error.why}"
            hint = f"allow servicequotas:GetServiceQuota, or look yourself: {link(code, self._region)}"
            return [Check("quota", ok=False, problem=problem, hint=hint, is_warning=True)]
        limit = int(answer["Quota"]["Value"])
        if used + wanted <= limit:
            return []
        problem = f"the quota allows {limit} {unit}, {used} are in use and {wanted} more are needed"
        return [Check("quota", ok=False, problem=problem, hint=where)]

    def _running(self, demand: Demand) -> Counter[str]:
        """Returns the vCPUs that others use by quota; spot instances have quotas of their own."""
        running: Counter[str] = Counter()
        filters = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        with translated("the instances cannot be listed"):
            for page in self._ec2.get_paginator("describe_instances").paginate(Filters=filters):
                for each in page["Reservations"]:
                    for one in each["Instances"]:
                        is_counted = one.get("InstanceLifecycle") != "spot" and not is_demanded(one, demand)
                        running[str(one["InstanceType"])] += is_counted
        known: Mapping[str, Offer] = sizes.described(self._ec2, running)
        used: Counter[str] = Counter()
        for size, count in running.items():
            used[quota_of(size)] += count * (known[size].vcpus if size in known else 0)
        return used


def _names(wanted: Sequence[Offer], code: str) -> str:
    return ", ".join(sorted({one.size for one in wanted if quota_of(one.size) == code}))
