"""Provider name → class, through entry points; only the one asked for is imported."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from clouddeploy_providers.base import ComputeProvider

GROUP = "clouddeploy.providers"


def load(name: str) -> type[ComputeProvider]:
    """Returns the provider of that name.

    Raises:
        InvalidRequest: there is none, or what it needs is not installed.
    """
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        raise InvalidRequest(f"there is no provider {name!r}", hint=f"one of {', '.join(sorted(points))}")
    module, _, attribute = points[name].value.partition(":")
    try:
        provider: type[ComputeProvider] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"the provider {name!r} needs {error.name}",
            why="it is not installed",
            hint=f"pip install 'clouddeploy[{name}]'",
        ) from error
    return provider
