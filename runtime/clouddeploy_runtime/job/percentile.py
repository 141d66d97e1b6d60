"""The filter PercentilePrivacy: a site gives away its largest changes only, and those cut to a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clouddeploy_runtime.job.filters import ChangeFilter, checked

if TYPE_CHECKING:
    from clouddeploy_runtime.job.filters import Changes

_PERCENT = 100


class PercentilePrivacy(ChangeFilter):
    """Keeps what changed most.

    Args:
        percentile: 0 to 100; of all changes, those whose size is below this percentile become 0.
        gamma: above 0; the others are cut to this size. Both are sizes for each local step.
        data_kinds: as `ChangeFilter` takes them.

    Raises:
        BadFilter: an argument is none of these; the reference would pass everything on then.

    Source:
        Shokri and Shmatikov 2015, "Privacy-Preserving Deep Learning"
    """

    def __init__(self, percentile: float = 10, gamma: float = 0.01, data_kinds: list[str] | None = None) -> None:
        super().__init__(data_kinds)
        self._percentile = checked(self, "percentile", percentile, least=0, most=_PERCENT)
        self._gamma = checked(self, "gamma", gamma)

    def change(self, changes: Changes, steps: float) -> Changes:
        """Returns the largest."""
        return largest(changes, percentile=self._percentile, gamma=self._gamma, steps=steps)


def largest(changes: Changes, *, percentile: float, gamma: float, steps: float) -> Changes:
    """Keep the changes from a percentile of their sizes on, over all parameters together, and cut them to a limit.

    Args:
        changes: at least one number.
        percentile: 0 to 100.
        gamma: the limit for each step.
        steps: local steps that made the changes.
    """
    scaled = {name: one / steps for name, one in changes.items()}
    cutoff = np.percentile(np.concatenate([np.abs(one).ravel() for one in scaled.values()]), percentile)
    return {
        name: np.asarray(np.where(np.abs(one) < cutoff, 0, np.clip(one, -gamma, gamma)) * steps)
        for name, one in scaled.items()
    }
