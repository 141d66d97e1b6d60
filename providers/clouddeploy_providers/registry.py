"""Provider name → class, through entry points; only the one asked for is imported."""

from __future__ import annotations

from functools import cache
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from clouddeploy_providers.base import ComputeProvider

GROUP = "clouddeploy.providers"
BUILT_IN = {
    "aws": "clouddeploy_providers.aws.provider:AwsProvider",
    "azure": "clouddeploy_providers.azure.provider:AzureProvider",
    "fake": "clouddeploy_providers.fake:FakeProvider",
    "kubernetes": "clouddeploy.clusters.provider:KubernetesProvider",  # it stands on `clouddeploy prepare`
    "local": "clouddeploy_providers.local:LocalProvider",
    "onprem": "clouddeploy_providers.onprem:OnPremProvider",
}
"""The entry points of this distribution; an editable install keeps those of the day it was made, or none."""
EXTRAS = frozenset({"aws", "azure", "kubernetes"})
"""Providers whose SDK comes with an extra of the same name."""


@cache
def known() -> dict[str, str]:
    """Returns `module:class` by provider name; an installed entry point wins over the built-in one.

    Read once: it takes a file of each distribution that is installed, and every site of a deployment asks.
    """
    return {**BUILT_IN, **{point.name: point.value for point in metadata.entry_points(group=GROUP)}}


def load(name: str) -> type[ComputeProvider]:
    """Returns the provider of that name.

    Raises:
        InvalidRequest: there is none, or what it needs is not installed.
    """
    providers = known()
    if name not in providers:
        raise InvalidRequest(f"there is no provider {name!r}", hint=f"one of {', '.join(sorted(providers))}")
    module, _, attribute = providers[name].partition(":")
    try:
        provider: type[ComputeProvider] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if name in BUILT_IN and name not in EXTRAS:
            raise  # it needs nothing that could be missing, so this is a defect and no user's mistake
        raise InvalidRequest(
            f"the provider {name!r} needs {error.name}",
            why="it is not installed",
            hint=f"pip install 'clouddeploy[{name}]'" if name in EXTRAS else "install what the provider needs",
        ) from error
    return provider
