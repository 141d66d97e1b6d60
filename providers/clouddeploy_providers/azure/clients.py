"""Where Resource Manager and Entra ID answer, with whose credentials, and the SDK's clients for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from azure.identity import (
    AzureAuthorityHosts,
    AzureCliCredential,
    ChainedTokenCredential,
    ClientSecretCredential,
    DefaultAzureCredential,
    EnvironmentCredential,
)
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.transport import transport
from clouddeploy_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.endpoints import AzureEndpoint

POLLING_S = 3.0
"""The SDK's default of 30 seconds would be most of a deployment's time (Azure/azure-sdk-for-python#1120)."""
CLI_S = 60
"""`az` needs more than the default of 10 seconds when several run at once (Azure/azure-sdk-for-python#37739)."""
# The SDK's own ten repetitions could last a quarter of an hour; what still fails after these is repeated by us.
PATIENCE: Final = {"retry_total": 3, "connection_timeout": 20, "read_timeout": 60}
RETAIL_PRICES: Final = "https://prices.azure.com/api/retail/prices"
DEFAULT_CLOUD: Final = "AzureCloud"


@dataclass(frozen=True)
class Cloud:
    """One of Azure's separate clouds, or a stand-in."""

    url: str
    """Resource Manager."""
    scope: str
    """What tokens for Resource Manager are asked for."""
    authority: str
    """Entra ID; a host name or an address."""
    portal: str
    """For people."""
    prices: str = RETAIL_PRICES
    """The retail prices API; it knows the prices of all clouds."""
    ca_file: str = ""
    """Of a private certificate authority; empty: those that the system trusts."""
    is_known: bool = True
    """Whether Entra ID's own discovery knows the authority; it must not be asked about a private one."""


CLOUDS: Final[Mapping[str, Cloud]] = {
    DEFAULT_CLOUD: Cloud(
        url="https://management.azure.com",
        scope="https://management.azure.com/.default",
        authority=AzureAuthorityHosts.AZURE_PUBLIC_CLOUD,
        portal="https://portal.azure.com",
    ),
    "AzureUSGovernment": Cloud(
        url="https://management.usgovcloudapi.net",
        scope="https://management.core.usgovcloudapi.net/.default",
        authority=AzureAuthorityHosts.AZURE_GOVERNMENT,
        portal="https://portal.azure.us",
    ),
    "AzureChinaCloud": Cloud(
        url="https://management.chinacloudapi.cn",
        scope="https://management.chinacloudapi.cn/.default",
        authority=AzureAuthorityHosts.AZURE_CHINA,
        portal="https://portal.azure.cn",
    ),
}
"""By the names that `az cloud list` uses."""


@dataclass(frozen=True)
class Clients:
    """The SDK's clients of one subscription; they may be used from several threads."""

    resources: Any
    network: Any
    compute: Any
    credential: Any
    subscription: str
    cloud: Cloud
    polling_s: float

    def close(self) -> None:
        """Ends the connections; they cannot be used any more."""
        for one in (self.resources, self.network, self.compute, self.credential):
            one.close()


def cloud_of(there: AzureEndpoint | None, environment: Mapping[str, str]) -> Cloud:
    """Returns where Azure answers: the rehearsal, or what the environment says, or the public cloud.

    Args:
        there: of a rehearsal.
        environment: `AZURE_CLOUD` chooses a cloud; `AZURE_RESOURCE_MANAGER_ENDPOINT` and `AZURE_AUTHORITY_HOST` replace
            its addresses, `AZURE_CA_FILE` says whom to trust there, `AZURE_RETAIL_PRICES_URL` where prices are.

    Raises:
        InvalidRequest: there is no such cloud, or an address is not HTTPS.
    """
    if there is not None:
        scope, prices = f"{there.url}/.default", f"{there.url}/api/retail/prices"
        return Cloud(there.url, scope, there.url, there.url, prices=prices, ca_file=there.ca_file, is_known=False)
    name = environment.get("AZURE_CLOUD") or DEFAULT_CLOUD
    if name not in CLOUDS:
        raise InvalidRequest(f"there is no Azure cloud {name!r}", hint=f"AZURE_CLOUD is one of {', '.join(CLOUDS)}")
    known = CLOUDS[name]
    url = (environment.get("AZURE_RESOURCE_MANAGER_ENDPOINT") or known.url).rstrip("/")
    authority = environment.get("AZURE_AUTHORITY_HOST") or known.authority
    for variable, value in (("AZURE_RESOURCE_MANAGER_ENDPOINT", url), ("AZURE_AUTHORITY_HOST", authority)):
        if "://" in value and not value.startswith("https://"):
            raise InvalidRequest(
                f"{variable} is {value!r}", why="a token would travel unprotected", hint="use https://"
            )
    return Cloud(
        url=url,
        scope=known.scope if url == known.url else f"{url}/.default",
        authority=authority,
        portal=known.portal,
        prices=environment.get("AZURE_RETAIL_PRICES_URL") or RETAIL_PRICES,
        ca_file=environment.get("AZURE_CA_FILE", ""),
        is_known=authority.removeprefix("https://").rstrip("/") in {one.authority for one in CLOUDS.values()},
    )


def connect(settings: Mapping[str, str], there: AzureEndpoint | None, *, subscription: str) -> Clients:
    """Returns the clients; contacts nobody.

    Args:
        settings: the site's; `tenant_id` chooses the tenant.
        there: of a rehearsal.
        subscription: its id.
    """
    cloud = cloud_of(there, os.environ)
    polling_s = there.polling_interval_s if there else POLLING_S
    verify: dict[str, Any] = {"connection_verify": cloud.ca_file} if cloud.ca_file else {}
    given: dict[str, Any] = {
        **PATIENCE,
        **verify,
        "polling_interval": polling_s,
        "transport": transport({**verify, **PATIENCE}),
        "base_url": cloud.url,
        "credential_scopes": [cloud.scope],
    }
    with translated("Azure cannot be used"):
        credential = _credential(there, cloud, settings.get("tenant_id"), verify)
    return Clients(
        resources=ResourceManagementClient(credential, subscription, **given),
        network=NetworkManagementClient(credential, subscription, **given),
        compute=ComputeManagementClient(credential, subscription, **given),
        credential=credential,
        subscription=subscription,
        cloud=cloud,
        polling_s=polling_s,
    )


def _credential(there: AzureEndpoint | None, cloud: Cloud, tenant: str | None, verify: Mapping[str, Any]) -> Any:
    """Returns the rehearsal's credentials, or the user's own; with a tenant, those that can be asked of that tenant."""
    given: dict[str, Any] = {**verify, "authority": cloud.authority, "disable_instance_discovery": not cloud.is_known}
    if there is not None:
        return ClientSecretCredential(there.tenant_id, there.client_id, there.client_secret, **given, **PATIENCE)
    if tenant:
        return ChainedTokenCredential(
            EnvironmentCredential(**given), AzureCliCredential(tenant_id=tenant, process_timeout=CLI_S)
        )
    return DefaultAzureCredential(process_timeout=CLI_S, exclude_interactive_browser_credential=True, **given)
