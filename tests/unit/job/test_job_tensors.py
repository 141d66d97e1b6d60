"""The safetensors layout, held against the library that defines it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import safetensors.numpy
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.frameworks import BFLOAT16, narrowed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from([np.dtype(kind) for kind in tensors.DTYPES.values() if kind != BFLOAT16])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
MODELS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4
)


def written(model):
    content = bytearray(tensors.size_of(model))
    assert tensors.write(model, memoryview(content)) == len(content)
    return content


def same(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
        assert array.tobytes() == right[name].tobytes()  # bit for bit: NaN is not equal to itself


@given(MODELS)
def test_the_library_reads_what_is_written(model):
    same(model, safetensors.numpy.load(bytes(written(model))))


def test_a_bfloat16_is_what_the_library_calls_so():
    array = narrowed(np.array([[1.0, -2.0]], np.float32), BFLOAT16)
    ((name, found),) = safetensors.deserialize(bytes(written({"w": array})))
    assert (name, found["dtype"], found["shape"]) == ("w", "BF16", [1, 2])
    assert bytes(found["data"]) == array.tobytes()
    same({"w": array}, tensors.read(memoryview(written({"w": array}))))


@given(MODELS)
def test_what_the_library_writes_is_read(model):
    same(model, tensors.read(memoryview(safetensors.numpy.save(model, metadata={"format": "np"}))))


@given(MODELS)
def test_arrays_are_read_only_views_of_the_memory(model):
    content = written(model)
    for array in tensors.read(memoryview(content)).values():
        assert not array.flags.writeable
        assert array.size == 0 or np.shares_memory(array, np.frombuffer(content, np.uint8))


@pytest.mark.parametrize(
    "array",
    [np.arange(12.0).reshape(3, 4).T, np.arange(10)[::2], np.arange(4, dtype=">f8"), np.float32(1.5)],
    ids=["transposed", "strided", "big-endian", "scalar"],
)
def test_an_array_in_another_layout_is_written_by_value(array):
    model = {"a": np.asarray(array)}
    np.testing.assert_array_equal(tensors.read(memoryview(written(model)))["a"], array)


def test_a_dtype_without_a_name_in_the_format_is_refused():
    with pytest.raises(tensors.BadTensors, match="'z'"):
        tensors.size_of({"z": np.zeros(1, np.complex128)})


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{!",
        struct.pack("<Q", len(HEADER)) + HEADER + bytes(7),
        struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[2]", b"[3]") + bytes(8),
        struct.pack("<Q", len(HEADER)) + HEADER.replace(b"F32", b"X32") + bytes(8),
    ],
    ids=["empty", "short", "no-object", "no-json", "data-too-short", "shape-does-not-fit", "dtype"],
)
def test_damaged_bytes_are_refused(content):
    with pytest.raises(tensors.BadTensors):
        tensors.read(memoryview(content))
