"""The SDK's clients for one account and region, each made when it is first needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config

from clouddeploy_providers.aws.errors import translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.endpoints import AwsEndpoint

PRICE_LIST_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-northwest-1"}
"""The price list of a whole partition is asked in one region; others have none, and the snapshot has to do."""
TIMEOUTS_S: Final = {"connect_timeout": 20, "read_timeout": 60}
"""AWS answers in a second; RunInstances and a slow line may take some."""
CONNECTIONS = 64
"""As many as there are sites at work; botocore's ten would be closed and opened again all the time."""
READS = 4


class Clients:
    """Clients that any thread may use.

    One for EC2 takes a quarter of a second to make, which the other clouds need not wait for. Clients are shared by
    threads, but sessions must not be (boto/boto3#1592), so one is made at a time.

    Args:
        settings: of the site; `profile` is honoured when there is no endpoint of ours.
        endpoint: where AWS answers; None for what boto3 knows.
    """

    def __init__(self, settings: Mapping[str, str], endpoint: AwsEndpoint | None) -> None:
        self._region = settings["region"]
        self._lock = threading.Lock()
        self._made: dict[tuple[str, int], Any] = {}
        given: dict[str, Any] = {"region_name": self._region}
        self._url: dict[str, Any] = {}
        if endpoint is not None:
            given |= {"aws_access_key_id": endpoint.access_key_id, "aws_secret_access_key": endpoint.secret_access_key}
            self._url = {"endpoint_url": endpoint.url}
        elif settings.get("profile"):
            given["profile_name"] = settings["profile"]
        with translated("AWS cannot be used"):
            self._session = boto3.Session(**given)
            self.partition = str(self._session.get_partition_for_region(self._region))

    @property
    def changes(self) -> Any:
        """EC2, asked once: changes are repeated by us.

        We know the deadline and what must not be repeated; botocore would ask four times where there is no capacity.
        """
        return self._of("ec2", attempts=1)

    @property
    def reads(self) -> Any:
        """EC2 for questions, which have nobody else to repeat them."""
        return self._of("ec2")

    @property
    def ssm(self) -> Any:
        """Systems Manager, which knows the newest images."""
        return self._of("ssm")

    @property
    def sts(self) -> Any:
        """The Security Token Service, which knows the account."""
        return self._of("sts")

    @property
    def quotas(self) -> Any:
        """Service Quotas."""
        return self._of("service-quotas")

    @property
    def pricing(self) -> Any:
        """The price list."""
        return self._of("pricing", region_name=PRICE_LIST_REGIONS.get(self.partition, self._region))

    def _of(self, service: str, *, attempts: int = READS, **elsewhere: str) -> Any:
        with self._lock:
            key = (service, attempts)
            if key not in self._made:
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    max_pool_connections=CONNECTIONS,
                    **TIMEOUTS_S,
                )
                with translated("AWS cannot be used"):
                    self._made[key] = self._session.client(service, config=config, **{**self._url, **elsewhere})
            return self._made[key]
