"""Filters that add noise: SVTPrivacy and GaussianPrivacy of the reference, and ClippedNoise, the Gaussian mechanism.

Noise comes from a generator that the operating system seeds, anew in each job; nothing sets it. The functions take
theirs as an argument, so that what they compute can be repeated.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import numpy as np

from clouddeploy_runtime.job.filters import BadFilter, ChangeFilter, checked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.filters import Changes

_PERCENT = 100
_SEED_BITS = 128
_MAX_PASSES = 1000
"""Guessed: some are enough, unless `tau` is many times what noise can reach; the reference would go on for ever."""


def _generator() -> np.random.Generator:
    return np.random.default_rng(secrets.randbits(_SEED_BITS))


class SVTPrivacy(ChangeFilter):
    """The sparse vector technique: of the changes that are large, with noise, some go out, with noise.

    Args:
        fraction: above 0, to 1; of all changes, so many go out.
        epsilon: above 0; privacy budget of the choice.
        noise_var: above 0; privacy budget of the values: less is more noise.
        gamma: above 0; changes are cut to this size for each local step.
        tau: from 0; the size for each step from which a change is large.
        data_kinds: as `ChangeFilter` takes them.
        replace: whether one change may be drawn twice; fewer than `fraction` go out then.

    Raises:
        BadFilter: an argument is none of these.

    Source:
        Li et al. 2019, "Privacy-Preserving Federated Brain Tumour Segmentation", algorithm 1
    """

    def __init__(
        self,
        *,
        fraction: float = 0.1,
        epsilon: float = 0.1,
        noise_var: float = 0.1,
        gamma: float = 1e-5,
        tau: float = 1e-6,
        data_kinds: list[str] | None = None,
        replace: bool = True,
    ) -> None:
        super().__init__(data_kinds)
        self._fraction = checked(self, "fraction", fraction, most=1)
        self._epsilon = checked(self, "epsilon", epsilon)
        self._noise_var = checked(self, "noise_var", noise_var)
        self._gamma = checked(self, "gamma", gamma)
        self._tau = checked(self, "tau", tau, least=0)
        if not isinstance(replace, bool):
            raise BadFilter("SVTPrivacy cannot be used", why=f'"replace" cannot be {replace!r}')
        self._replace = replace
        self._rng = _generator()

    def change(self, changes: Changes, steps: float) -> Changes:
        """Returns some of the large ones, with noise, and 0 for the others."""
        names = sorted(changes)
        flat = np.concatenate([changes[name].ravel() for name in names], dtype=np.float64) / steps
        flat = sparse_vector(
            flat,
            fraction=self._fraction,
            epsilon=self._epsilon,
            noise_var=self._noise_var,
            gamma=self._gamma,
            tau=self._tau,
            replace=self._replace,
            rng=self._rng,
        )
        ends = np.cumsum([changes[name].size for name in names])
        parts = zip(names, np.split(flat * steps, ends[:-1]), strict=True)
        return {name: part.reshape(changes[name].shape).astype(changes[name].dtype) for name, part in parts}


def sparse_vector(
    values: NDArray[np.float64],
    *,
    fraction: float,
    epsilon: float,
    noise_var: float,
    gamma: float,
    tau: float,
    replace: bool,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Choose values that are large, noise added, and return those with noise and 0 for the others.

    Args:
        values: one row.
        fraction: how many are chosen.
        epsilon: budget of the choice.
        noise_var: budget of the values.
        gamma: limit of their size.
        tau: what is large.
        replace: whether one may be drawn twice.
        rng: where noise comes from.

    Raises:
        BadFilter: `tau` is out of reach for values and noise.
    """
    count = min(math.ceil(values.size * fraction), values.size)
    threshold = tau + rng.laplace(scale=2 * gamma / epsilon)
    scale = 4 * gamma * count / (epsilon * (2 * count) ** (2 / 3))
    sizes = np.abs(np.clip(values, -gamma, gamma))
    accepted: list[NDArray[np.intp]] = []
    rest = np.arange(values.size)
    for _ in range(_MAX_PASSES):
        is_large = sizes[rest] + rng.laplace(scale=scale, size=rest.size) >= threshold
        accepted.append(rest[is_large])
        rest = rest[~is_large]
        if values.size - rest.size >= count:
            break
    else:
        raise BadFilter(
            "the filter SVTPrivacy finds too few changes", why=f"none reaches tau {tau}", hint="make tau smaller"
        )
    chosen = rng.choice(np.concatenate(accepted), size=count, replace=replace)
    noise = rng.laplace(scale=2 * gamma / noise_var, size=count)
    out = np.zeros_like(values)
    out[chosen] = np.clip(values[chosen] + noise, -gamma, gamma)
    return out


class GaussianPrivacy(ChangeFilter):
    """Adds Gaussian noise whose size follows the changes' own.

    Args:
        sigma0: above 0; the noise's standard deviation, as a part of the percentile's value.
        max_percentile: 0 to 100; which percentile of the sizes of all changes that are not 0.
        data_kinds: as `ChangeFilter` takes them.

    Raises:
        BadFilter: an argument is none of these.
    """

    def __init__(self, sigma0: float = 0.1, max_percentile: float = 95, data_kinds: list[str] | None = None) -> None:
        super().__init__(data_kinds)
        self._sigma0 = checked(self, "sigma0", sigma0)
        self._percentile = checked(self, "max_percentile", max_percentile, least=0, most=_PERCENT)
        self._rng = _generator()

    def change(self, changes: Changes, steps: float) -> Changes:  # noqa: ARG002 - the sizes are relative
        """Returns all of them, with noise."""
        return relative_noise(changes, sigma0=self._sigma0, percentile=self._percentile, rng=self._rng)


def relative_noise(changes: Changes, *, sigma0: float, percentile: float, rng: np.random.Generator) -> Changes:
    """Add noise of `sigma0` times a percentile of the changes' sizes; changes that are all 0 stay so."""
    sizes = np.concatenate([np.abs(one).ravel() for one in changes.values()])
    sizes = sizes[sizes > 0]
    return noisy(changes, float(sigma0 * np.percentile(sizes, percentile)) if sizes.size else 0.0, rng)


class ClippedNoise(ChangeFilter):
    """The Gaussian mechanism: the changes' norm is cut to a limit, and noise in proportion to the limit is added.

    Args:
        clip_norm: above 0; the limit of the L2 norm of all changes together.
        noise_multiplier: above 0; the noise's standard deviation as a multiple of `clip_norm`.
        data_kinds: as `ChangeFilter` takes them.

    Raises:
        BadFilter: an argument is none of these.

    Source:
        McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models"
    """

    def __init__(self, clip_norm: float, noise_multiplier: float, data_kinds: list[str] | None = None) -> None:
        super().__init__(data_kinds)
        self._clip_norm = checked(self, "clip_norm", clip_norm)
        self._multiplier = checked(self, "noise_multiplier", noise_multiplier)
        self._rng = _generator()

    def change(self, changes: Changes, steps: float) -> Changes:  # noqa: ARG002 - the limit is for the whole update
        """Returns all of them, made smaller together, with noise."""
        cut = clipped(changes, self._clip_norm)
        return noisy(cut, self._multiplier * self._clip_norm, self._rng)


def clipped(changes: Changes, norm: float) -> Changes:
    """Scale changes so that their L2 norm, all together, is `norm` at most."""
    whole = math.hypot(*(float(np.linalg.norm(one.ravel().astype(np.float64))) for one in changes.values()))
    factor = min(1.0, norm / whole) if whole else 1.0
    return {name: np.asarray(one * factor, dtype=one.dtype) for name, one in changes.items()}


def noisy(changes: Changes, sigma: float, rng: np.random.Generator) -> Changes:
    """Add Gaussian noise of a standard deviation, parameter by parameter."""
    return {name: np.asarray(one + rng.normal(0.0, sigma, one.shape), dtype=one.dtype) for name, one in changes.items()}
