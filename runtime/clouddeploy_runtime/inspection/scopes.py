"""What a parent says of its privacy scopes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import privacy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def report(local: Path) -> dict[str, Any]:
    """Return `scopes`, each with its name and its filters' classes, and the `default`; none where there is no policy.

    The arguments of filters and the properties of scopes are the site's own business.

    Raises:
        ScopeRefused: there is a policy, and it cannot be used.
    """
    policy = privacy.load(local)
    if policy is None:
        return {"scopes": [], "default": "", "has_policy": False}
    return {
        "scopes": [
            {
                "name": scope.name,
                "task_data_filters": _classes(scope.data),
                "task_result_filters": _classes(scope.result),
            }
            for scope in policy.scopes.values()
        ],
        "default": policy.default,
        "has_policy": True,
    }


def _classes(filters: Iterable[privacy.Entry]) -> list[str]:
    return [one.path for one in filters]
