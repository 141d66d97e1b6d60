"""The filters that configurations and privacy scopes may name, and what becomes of both together."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from clouddeploy_runtime.job.dp import ClippedNoise, GaussianPrivacy, SVTPrivacy
from clouddeploy_runtime.job.filters import ExcludeVars
from clouddeploy_runtime.job.percentile import PercentilePrivacy
from clouddeploy_runtime.jobs import known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.job.filters import Filter

KINDS: Mapping[str, type[Filter]] = MappingProxyType(
    {
        **dict.fromkeys(known.EXCLUDE_VARS, ExcludeVars),
        **dict.fromkeys(known.PERCENTILE_PRIVACY, PercentilePrivacy),
        **dict.fromkeys(known.SVT_PRIVACY, SVTPrivacy),
        **dict.fromkeys(known.GAUSSIAN_PRIVACY, GaussianPrivacy),
        **dict.fromkeys(known.CLIPPED_NOISE, ClippedNoise),
    }
)
"""By class path."""
