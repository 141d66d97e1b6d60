"""The weighted mean of the sites' parameters."""

from __future__ import annotations

import numpy as np
import pytest
from clouddeploy_runtime.job.aggregation import ShapeMismatch, WeightedMean
from hypothesis import given
from hypothesis import strategies as st

MODEL = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float64)}


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_it_is_the_sum_of_samples_times_parameters_over_the_sum_of_samples(updates):
    mean = WeightedMean({"b": np.zeros(1)})
    for number, (samples, value) in enumerate(updates):
        mean.add(f"site-{number}", {"b": np.array([value])}, samples=samples)
    wanted = sum(samples * value for samples, value in updates) / sum(samples for samples, _ in updates)
    np.testing.assert_allclose(mean.result()["b"], [wanted], rtol=1e-9, atol=1e-9)


def test_the_result_has_the_models_shapes_and_dtypes():
    mean = WeightedMean(MODEL)
    mean.add("site-1", {"w": np.ones((2, 3)), "b": np.ones(1, np.float32)}, samples=3)
    result = mean.result()
    assert {name: (array.shape, array.dtype) for name, array in result.items()} == {
        name: (array.shape, array.dtype) for name, array in MODEL.items()
    }


def test_updates_are_folded_into_the_same_memory():
    mean = WeightedMean(MODEL)
    before = {name: id(array) for name, array in mean._means.items()}
    for _ in range(3):
        mean.add("site-1", MODEL, samples=1)
    assert {name: id(array) for name, array in mean._means.items()} == before


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"w": np.zeros((3, 2)), "b": np.zeros(1)}, ["site-9", "'w'", "(2, 3)", "(3, 2)"]),
        ({"w": np.zeros((2, 3))}, ["site-9", "'b'", "(1,)", "nothing"]),
    ],
    ids=["another-shape", "missing"],
)
def test_an_update_that_does_not_fit_is_refused_before_anything_is_folded(update, words):
    mean = WeightedMean(MODEL)
    mean.add("site-1", MODEL, samples=1)
    with pytest.raises(ShapeMismatch) as caught:
        mean.add("site-9", {name: array + 1 for name, array in update.items()}, samples=1)
    for word in words:
        assert word in str(caught.value)
    assert mean.samples == 1
    assert not mean.result()["w"].any()


def test_a_weight_may_be_a_fraction():
    mean = WeightedMean({"b": np.zeros(1)})
    for weight, value in ((1.9, 1.0), (1.1, 2.0), (0.5, 4.0)):
        mean.add("site-1", {"b": np.array([value])}, samples=weight)
    np.testing.assert_allclose(mean.result()["b"], [(1.9 + 2.2 + 2.0) / 3.5])


@pytest.mark.parametrize("samples", [0, -1, float("nan"), float("inf")])
def test_a_weight_is_positive(samples):
    with pytest.raises(ShapeMismatch, match="site-1"):
        WeightedMean(MODEL).add("site-1", MODEL, samples=samples)
