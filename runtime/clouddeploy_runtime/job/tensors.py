"""The safetensors layout, written straight into shared memory and read from it without a copy.

Source:
    https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job.frameworks import BFLOAT16

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

    from clouddeploy_runtime.job.direct import DirectFile

    Tensors = Mapping[str, NDArray[np.generic]]

DTYPES: Mapping[str, DTypeLike] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1", "BF16": BFLOAT16,
}  # fmt: skip
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
ALIGNMENT = 8


class BadTensors(RuntimeFault):
    """Parameters cannot be written, or bytes are not in safetensors layout."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_TENSORS"


def header_of(tensors: Tensors) -> bytes:
    """Returns the length and the JSON header, padded so that the data is aligned.

    Raises:
        BadTensors: a dtype has no name in safetensors.
    """
    entries = {}
    offset = 0
    for name, array in tensors.items():
        dtype = NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise BadTensors(
                f"the parameter {name!r} cannot be sent", why=f"its dtype is {array.dtype}", hint="use float32"
            )
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def size_of(tensors: Tensors) -> int:
    """Returns how many bytes `write` will fill."""
    return len(header_of(tensors)) + sum(array.nbytes for array in tensors.values())


def write(tensors: Tensors, into: memoryview) -> int:
    """Writes tensors into memory that is at least `size_of` bytes long; returns the number of bytes."""
    header = header_of(tensors)
    into[: len(header)] = header
    offset = len(header)
    for array in tensors.values():
        end = offset + array.nbytes
        target = np.frombuffer(into[offset:end], dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        np.copyto(target, array)
        offset = end
    return offset


def write_file(tensors: Tensors, file: BinaryIO | DirectFile) -> None:
    """Writes tensors to a file, without another copy of them."""
    file.write(header_of(tensors))
    for array in tensors.values():
        whole = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        file.write(whole.reshape(-1).view(np.uint8).data)


def read(view: memoryview) -> dict[str, NDArray[np.generic]]:
    """Returns read-only arrays that look straight into `view`; they live as long as it does.

    Raises:
        BadTensors: the bytes are not in safetensors layout.
    """
    try:
        (length,) = struct.unpack_from("<Q", view)
        if length > len(view) - 8:
            raise ValueError(f"a header of {length} bytes in {len(view)} bytes")
        entries = json.loads(bytes(view[8 : 8 + length]))
        data = view[8 + length :]
        tensors = {}
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
            if not 0 <= first <= last <= len(data) or last - first != dtype.itemsize * math.prod(shape):
                raise ValueError(f"the offsets of {name!r} do not fit")
            array = np.frombuffer(data[first:last], dtype=dtype).reshape(shape)
            array.setflags(write=False)
            tensors[name] = array
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise BadTensors("the parameters are not in safetensors layout", why=str(error)) from error
    return tensors
