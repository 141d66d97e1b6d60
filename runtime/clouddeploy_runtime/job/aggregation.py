"""The weighted mean of the sites' parameters, folded in place: one accumulator, whatever the number of sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clouddeploy_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class ShapeMismatch(RuntimeFault):
    """A site's parameters do not have the model's shapes."""

    error_code = "SHAPE_MISMATCH"


class WeightedMean:
    """Averages parameters, each update weighted by its number of training samples.

    Holds one accumulator of the model's size in float64, and takes one update at a time.

    Args:
        model: the parameters that were sent out; names, shapes and dtypes are theirs.

    Source:
        McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1.
    """

    def __init__(self, model: Mapping[str, NDArray[np.generic]]) -> None:
        self._dtypes = {name: array.dtype for name, array in model.items()}
        self._sums = {name: np.zeros(array.shape, np.float64) for name, array in model.items()}
        self.samples = 0

    def add(self, site: str, params: Mapping[str, NDArray[np.generic]], *, samples: int) -> None:
        """Folds one site's update in: mean += (params − mean) · samples / total.

        Raises:
            ShapeMismatch: names the site, the parameter and both shapes.
        """
        for name, mean in self._sums.items():
            if name not in params or params[name].shape != mean.shape:
                shown = params[name].shape if name in params else "nothing"
                raise ShapeMismatch(
                    f"{site} sent {name!r} in another shape",
                    why=f"wanted {mean.shape}, got {shown}",
                    hint="check its code",
                )
        if samples <= 0:
            raise ShapeMismatch(f"{site} reports {samples} training samples", why="a weight is a positive number")
        self.samples += samples
        for name, mean in self._sums.items():
            step = params[name].astype(np.float64)
            step -= mean
            step *= samples / self.samples
            np.add(mean, step, out=mean)

    def result(self) -> dict[str, NDArray[np.generic]]:
        """Returns the mean in the model's own dtypes."""
        return {name: mean.astype(self._dtypes[name]) for name, mean in self._sums.items()}
