"""The weighted mean of the sites' parameters, folded in place: one accumulator, whatever the number of sites."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.frameworks import BFLOAT16, narrowed, widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


BLOCK = 1 << 15
"""Elements: three blocks of float64 are in the second-level cache of every processor in use."""


class ShapeMismatch(RuntimeFault):
    """A site's parameters do not have the model's shapes."""

    error_code = "SHAPE_MISMATCH"


class WeightedMean:
    """Averages parameters, each update weighted by its number of training samples.

    Takes one update at a time and folds it into memory of the model's size, a block that fits the processor's cache
    after the other. The mean is kept in the model's own dtype, of integers and half floats in a larger one. An update
    may be of a narrower dtype than the model.

    Args:
        model: the parameters that were sent out; names, shapes and dtypes are theirs.
        memory: arrays of an earlier mean, to be used again: new pages cost more than the sum. Their content is lost.

    Source:
        McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1.
    """

    def __init__(
        self, model: Mapping[str, NDArray[np.generic]], memory: Mapping[str, NDArray[np.generic]] | None = None
    ) -> None:
        given = memory or {}
        self._dtypes = {name: array.dtype for name, array in model.items()}
        self._means: dict[str, NDArray[np.floating]] = {}
        for name, array in model.items():
            dtype = _accumulator(array.dtype)
            old = given.get(name)
            fits = old is not None and old.dtype == dtype and old.shape == array.shape and old.flags.carray
            self._means[name] = old if fits else np.empty(array.shape, dtype)  # type: ignore[assignment]
        self._scratch: dict[np.dtype[np.floating], NDArray[np.floating]] = {}
        self.samples: float = 0

    def add(self, site: str, params: Mapping[str, NDArray[np.generic]], *, samples: float) -> None:
        """Folds one site's update in: mean += (params − mean) · samples / total.

        Raises:
            ShapeMismatch: names the site, the parameter and both shapes.
        """
        for name, mean in self._means.items():
            if name not in params or params[name].shape != mean.shape:
                shown = params[name].shape if name in params else "nothing"
                raise ShapeMismatch(
                    f"{site} sent {name!r} in another shape",
                    why=f"wanted {mean.shape}, got {shown}",
                    hint="check its code",
                )
        if not 0 < samples < math.inf:
            raise ShapeMismatch(f"{site} reports {samples} training samples", why="a weight is a positive number")
        self.samples += samples
        for name, mean in self._means.items():
            if self.samples == samples:
                first = widened(params[name])
                np.copyto(mean, first, casting="same_kind" if first.dtype.kind == "f" else "unsafe")
            else:
                self._fold(mean.reshape(-1), params[name].reshape(-1), samples / self.samples)

    def _fold(self, mean: NDArray[np.floating], update: NDArray[np.generic], share: float) -> None:
        step = self._scratch.setdefault(mean.dtype, np.empty(BLOCK, mean.dtype))
        for begin in range(0, mean.size, BLOCK):
            old = mean[begin : begin + BLOCK]
            new = step[: old.size]
            np.subtract(widened(update[begin : begin + BLOCK]), old, out=new, casting="unsafe")
            new *= share
            old += new

    def result(self) -> dict[str, NDArray[np.generic]]:
        """Returns the mean in the model's own dtypes; where that is the dtype it is kept in, without a copy."""
        return {name: _as(mean, self._dtypes[name]) for name, mean in self._means.items()}


def _accumulator(dtype: np.dtype[np.generic]) -> np.dtype[np.floating]:
    """Returns what sums of a dtype are kept in: the next larger float for halves, the largest for integers."""
    if dtype == BFLOAT16:
        return np.dtype(np.float32)
    if dtype.kind != "f":
        return np.dtype(np.float64)
    return np.promote_types(dtype, np.float32)


def _as(mean: NDArray[np.floating], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    return narrowed(mean, dtype) if dtype == BFLOAT16 else mean.astype(dtype, copy=False)
