"""The filters that protect a site's data: each does what its formula says, and none with numbers that undo it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clouddeploy_runtime.job import dp, named_filters, percentile
from clouddeploy_runtime.job.dp import ClippedNoise, GaussianPrivacy, SVTPrivacy
from clouddeploy_runtime.job.filters import Answer, BadFilter
from clouddeploy_runtime.job.percentile import PercentilePrivacy
from clouddeploy_runtime.jobs import known

CHANGES = {
    "bias": np.array([0.5, -0.02], np.float32),
    "scale": np.array(-3.0),
    "weight": np.array([[0.1, -0.2], [0.004, 1.0]], np.float32),
}
FLAT = np.array([0.5, -0.02, -3.0, 0.1, -0.2, 0.004, 1.0])
"""The same, in the order of their names."""


def flat(changes):
    assert {name: (one.shape, one.dtype) for name, one in changes.items()} == {
        name: (one.shape, one.dtype) for name, one in CHANGES.items()
    }
    return np.concatenate([changes[name].ravel() for name in sorted(changes)])


@pytest.mark.parametrize(
    ("share", "gamma", "steps"), [(10, 0.01, 1), (50, 0.3, 1), (100, 9, 1), (0, 0.3, 1), (50, 0.02, 8)]
)
def test_percentile_keeps_the_largest_changes_of_a_step_and_cuts_them(share, gamma, steps):
    each = FLAT / steps
    cutoff = np.percentile(np.abs(each), share)
    expected = np.where(np.abs(each) >= cutoff * (1 - 1e-6), np.clip(each, -gamma, gamma), 0) * steps
    found = flat(percentile.largest(CHANGES, percentile=share, gamma=gamma, steps=steps))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.count_nonzero(found) == {0: 7, 10: 6, 50: 4, 100: 1}[share]


def test_percentile_is_that_of_the_reference_by_default():
    received = {"w": np.zeros(11)}
    answer = PercentilePrivacy().process_answer({"w": np.arange(11) / 1000.0}, "train", Answer(received))
    expected = [0, *(np.arange(1, 11) / 1000)]
    np.testing.assert_allclose(answer["w"], expected)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("fraction", [0.3, 1])
def test_the_sparse_vector_technique_is_the_references(replace, fraction):
    """The same numbers of the same generator, in the order in which the algorithm asks for them."""
    values, gamma, tau, epsilon, noise_var = FLAT / 4, 0.1, 0.05, 2.0, 3.0
    rng = np.random.default_rng(7)
    count = int(np.minimum(np.ceil(values.size * fraction), values.size))
    threshold = tau + rng.laplace(scale=gamma * 2 / epsilon)
    second = epsilon * (2 * count) ** (2 / 3)
    accepted, candidates = [], np.arange(values.size)
    while len(accepted) < count:
        noise = rng.laplace(scale=gamma * 4 * count / second, size=candidates.shape)
        is_above = np.abs(np.clip(values, -gamma, gamma))[candidates] + noise >= threshold
        accepted += candidates[is_above].tolist()
        candidates = candidates[~is_above]
    chosen = rng.choice(accepted, size=count, replace=replace)
    noise = rng.laplace(scale=gamma * 2 / noise_var, size=count)
    expected = values.copy()
    expected[chosen] = np.clip(values[chosen] + noise, -gamma, gamma)
    expected[sorted(set(range(values.size)) - set(chosen))] = 0

    found = dp.sparse_vector(
        values,
        fraction=fraction,
        epsilon=epsilon,
        noise_var=noise_var,
        gamma=gamma,
        tau=tau,
        replace=replace,
        rng=np.random.default_rng(7),
    )
    np.testing.assert_array_equal(found, expected)


def test_a_sparse_answer_has_the_fraction_that_was_asked_for_within_the_limit_of_all_steps():
    one = SVTPrivacy(fraction=0.4, epsilon=5, gamma=0.01, replace=False)
    found = flat(one.change(CHANGES, 10))
    assert np.count_nonzero(found) == math.ceil(0.4 * FLAT.size)
    assert np.abs(found).max() <= 0.1 + 1e-6


def test_a_threshold_that_no_change_reaches_ends_the_filter():
    with pytest.raises(BadFilter, match="SVTPrivacy finds too few changes: none reaches tau"):
        SVTPrivacy(tau=1e6).change(CHANGES, 1)


def test_gaussian_noise_is_a_part_of_the_percentile_of_what_changed():
    sizes = np.abs(FLAT)
    sigma = 0.2 * np.percentile(sizes, 90)
    found = flat(dp.relative_noise(CHANGES, sigma0=0.2, percentile=90, rng=np.random.default_rng(3)))
    rng = np.random.default_rng(3)
    noise = {name: rng.normal(0, sigma, one.shape) for name, one in CHANGES.items()}
    np.testing.assert_allclose(
        found, FLAT + flat({n: np.asarray(v, CHANGES[n].dtype) for n, v in noise.items()}), rtol=1e-4
    )


def test_gaussian_noise_leaves_alone_what_did_not_change_at_all():
    assert GaussianPrivacy().change({"w": np.zeros(3)}, 1)["w"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("limit", "factor"), [(100.0, 1.0), (1.0, 1 / np.linalg.norm(FLAT))])
def test_changes_are_cut_together_to_a_norm(limit, factor):
    np.testing.assert_allclose(flat(dp.clipped(CHANGES, limit)), FLAT * factor, rtol=1e-5)


def test_clipped_noise_has_the_size_that_its_limit_says():
    found = ClippedNoise(clip_norm=0.5, noise_multiplier=2).change({"w": np.full(100_000, 1e3)}, 1)["w"]
    assert np.std(found) == pytest.approx(1.0, rel=0.05)
    assert np.mean(found) == pytest.approx(0.5 / math.sqrt(100_000), abs=0.03)
    assert ClippedNoise(clip_norm=0.5, noise_multiplier=2).change({"w": np.zeros(2)}, 1)["w"].any()


@pytest.mark.parametrize("make", [lambda: SVTPrivacy(epsilon=5, gamma=1), GaussianPrivacy, lambda: ClippedNoise(1, 1)])
def test_noise_is_never_the_same_twice(make):
    changes = {"w": np.linspace(0.1, 1, 50)}
    np.random.seed(1)  # noqa: NPY002 - what a script might do
    first = make().change(changes, 1)["w"].tolist()
    np.random.seed(1)  # noqa: NPY002 - as above
    assert make().change(changes, 1)["w"].tolist() != first


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (PercentilePrivacy, {"percentile": -1}),
        (PercentilePrivacy, {"percentile": 101}),
        (PercentilePrivacy, {"percentile": "10"}),
        (PercentilePrivacy, {"gamma": 0}),
        (PercentilePrivacy, {"gamma": True}),
        (SVTPrivacy, {"fraction": 0}),
        (SVTPrivacy, {"fraction": 1.1}),
        (SVTPrivacy, {"epsilon": 0}),
        (SVTPrivacy, {"noise_var": -1}),
        (SVTPrivacy, {"gamma": float("nan")}),
        (SVTPrivacy, {"tau": -1}),
        (SVTPrivacy, {"replace": "no"}),
        (GaussianPrivacy, {"sigma0": 0}),
        (GaussianPrivacy, {"max_percentile": 200}),
        (ClippedNoise, {"clip_norm": 0, "noise_multiplier": 1}),
        (ClippedNoise, {"clip_norm": 1, "noise_multiplier": 0}),
    ],
)
def test_arguments_with_which_a_filter_would_protect_nothing_are_refused(kind, args):
    with pytest.raises(BadFilter, match=f"{kind.__name__} cannot be used"):
        kind(**args)


def test_every_filter_that_may_be_named_is_there():
    assert named_filters.KINDS.keys() == known.FILTERS
