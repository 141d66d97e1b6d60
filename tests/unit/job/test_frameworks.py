"""Parameters of the frameworks as arrays and back, and the narrow types of the wire."""

from __future__ import annotations

import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from clouddeploy_runtime.job import frameworks
from clouddeploy_runtime.job.frameworks import BFLOAT16, BadParameters
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

FLOATS = st.floats(width=32, allow_nan=False)


class Tensor:
    """What of a PyTorch tensor is used here, on numpy: the type bfloat16 can be viewed, and not given to numpy."""

    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def detach(self):
        return self

    cpu = contiguous = detach

    def view(self, dtype):
        return Tensor(self.array, dtype)

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


TORCH = SimpleNamespace(
    int16="torch.int16", bfloat16="torch.bfloat16", from_numpy=lambda array: Tensor(array, f"torch.{array.dtype}")
)


def nearest(value):
    """The bfloat16 nearest to a float32, found by trying its neighbours; of two the even one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    low = bits & 0xFFFF0000
    found = [struct.unpack("<f", struct.pack("<I", one))[0] for one in (low, low + 0x10000)]
    away = [abs(float(one) - float(value)) for one in found]
    if away[0] == away[1]:
        return found[(low >> 16) & 1]
    return found[0] if away[0] < away[1] else found[1]


@given(FLOATS.filter(lambda value: abs(value) < 3e38))
def test_a_bfloat16_is_the_nearest_one(value):
    made = frameworks.narrowed(np.array([value], np.float32), BFLOAT16)
    assert (made.dtype, made.shape) == (BFLOAT16, (1,))
    assert frameworks.widened(made)[0] == nearest(value)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (70_000,)])
def test_a_bfloat16_keeps_its_shape_there_and_back(shape):
    array = np.full(shape, -1.5, np.float32)
    back = frameworks.widened(frameworks.narrowed(array, BFLOAT16))
    assert (back.shape, back.dtype, back.tolist()) == (shape, np.float32, array.tolist())


def test_what_is_no_number_or_infinite_stays_so_in_bfloat16():
    array = np.array([np.nan, np.inf, -np.inf], np.float32)
    array.view(np.uint32)[0] = 0x7FFFFFFF  # a NaN of which rounding would make a −0
    assert str(frameworks.widened(frameworks.narrowed(array, BFLOAT16)).tolist()) == "[nan, inf, -inf]"


def test_only_floats_become_narrow_on_the_wire_and_none_wider():
    params = {"w": np.ones(2), "steps": np.ones(1, np.int64), "half": np.ones(1, np.float16)}
    for name, dtype in frameworks.WIRE.items():
        sent = frameworks.for_wire(params, name)
        assert [one.dtype for one in sent.values()] == [dtype, np.int64, np.float16]
    assert frameworks.for_wire(params, None) is params


def test_a_bfloat16_tensor_of_pytorch_travels_as_its_bytes_and_comes_back_as_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    sent = frameworks.array(Tensor(np.array([0x3F80, 0x4000], np.int16), "torch.bfloat16"))
    assert sent.dtype == BFLOAT16
    assert frameworks.widened(sent).tolist() == [1.0, 2.0]
    back = frameworks.to_torch(TORCH)(sent)
    assert (back.dtype, back.array.tolist()) == ("torch.bfloat16", [0x3F80, 0x4000])


def test_another_tensor_of_pytorch_is_a_copy_that_may_be_written():
    array = np.ones(2, np.float32)
    array.setflags(write=False)
    tensor = frameworks.to_torch(TORCH)(array)
    tensor.array[0] = 5
    assert (tensor.dtype, array.tolist()) == ("torch.float32", [1, 1])


def test_the_state_of_a_module_is_sent_and_loaded():
    loaded = {}
    module = SimpleNamespace(state_dict=lambda: {"w": 1}, load_state_dict=loaded.update)
    frameworks.load(module, frameworks.params_of(module))
    assert loaded == {"w": 1}


def test_an_estimator_of_scikit_learn_predicts_with_the_parameters_of_another():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(40, 3))
    y = (x.sum(axis=1) > 0).astype(int)
    fitted, other = LogisticRegression().fit(x, y), LogisticRegression()
    other.classes_ = np.array([0, 1])
    params = frameworks.params_of(fitted)
    for one in params.values():
        one.setflags(write=False)
    frameworks.load(other, params)
    assert set(params) == {"coef_", "intercept_"}
    assert np.array_equal(other.predict_proba(x), fitted.predict_proba(x))
    assert other.coef_.flags.writeable


def test_an_estimator_that_has_learnt_nothing_is_refused():
    with pytest.raises(BadParameters, match="LogisticRegression has no parameters"):
        frameworks.params_of(LogisticRegression())
