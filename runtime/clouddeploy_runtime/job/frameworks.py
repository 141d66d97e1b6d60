"""Parameters of PyTorch, scikit-learn and numpy as arrays and back, and the narrow types in which they travel.

NumPy has no bfloat16. Here it is a type of its own with the same two bytes, so that a parameter of it is told apart
from a whole number of 16 bits; whoever computes with it widens it first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from clouddeploy_runtime.errors import ExitCode, RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    Params = Mapping[str, NDArray[np.generic]]

BFLOAT16: Final = np.dtype([("bfloat16", "<u2")])
"""The upper half of a float32: 8 bits of exponent, 7 of mantissa."""
WIRE: Final = {"float16": np.dtype("<f2"), "bfloat16": BFLOAT16}
"""What a job may ask for on the wire, by the name that it says."""
WIRE_KEY: Final = "wire_dtype"
"""Of a task's `meta`: in which type of `WIRE` its parameters, and those of the answer, travel."""
BLOCK: Final = 1 << 15
"""Elements that are rounded at once."""
ESTIMATOR: Final = ("coef_", "intercept_")
"""What the linear models of scikit-learn have learnt."""


class BadParameters(RuntimeFault):
    """A value of a framework is no parameter that can be sent."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_PARAMETERS"


def array(value: Any) -> NDArray[np.generic]:
    """Returns a list of numbers, an array or a PyTorch tensor on any device as an array; lists become float32.

    Raises:
        ValueError: it is none of these; TypeError as well.
    """
    if hasattr(value, "detach"):
        value = _of_tensor(value.detach().cpu())
    found: NDArray[np.generic] = np.asarray(value, dtype=np.float32 if isinstance(value, list) else None)
    if found.dtype.name == "bfloat16":  # of the package ml_dtypes
        found = found.view(np.uint16).view(BFLOAT16)
    if found.dtype.hasobject:
        raise ValueError(f"it is a {type(value).__name__}")
    return found


def _of_tensor(tensor: Any) -> Any:
    if str(getattr(tensor, "dtype", "")) != "torch.bfloat16":
        return tensor.numpy()
    # PyTorch gives none of its bfloat16 to numpy, but shows its bytes as whole numbers.
    return tensor.contiguous().view(sys.modules["torch"].int16).numpy().view(BFLOAT16)


def to_torch(torch: Any) -> Callable[[NDArray[np.generic]], Any]:
    """Returns what makes a tensor of an array: a copy, since the array is the server's buffer and read-only.

    Args:
        torch: the module.
    """

    def tensor(one: NDArray[np.generic]) -> Any:
        if one.dtype == BFLOAT16:
            return torch.from_numpy(one.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(one.copy())

    return tensor


def widened(one: NDArray[np.generic], dtype: np.dtype[Any] = BFLOAT16) -> NDArray[np.generic]:
    """Returns what is of a narrow type as float32, exactly; anything else as it is, without a copy.

    Args:
        one: any array.
        dtype: one of those of `WIRE`.
    """
    if one.dtype != dtype:
        return one
    if dtype != BFLOAT16:
        return one.astype(np.float32)
    wide = np.zeros((*one.shape, 2), "<u2")
    wide[..., 1] = one.view("<u2")
    return wide.view("<f4").reshape(one.shape)


def narrowed(one: NDArray[np.generic], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Returns a float as one of the narrow types, rounded to the nearest, ties to even; others as they are."""
    if one.dtype == dtype or one.dtype.kind != "f":
        return one
    if dtype != BFLOAT16:
        with np.errstate(over="ignore"):  # what is beyond float16 is infinite there
            return one.astype(dtype)
    narrow = np.empty(one.size, "<u2")
    flat = one.reshape(-1)
    for begin in range(0, one.size, BLOCK):
        _round(flat[begin : begin + BLOCK], narrow[begin : begin + BLOCK])
    return narrow.reshape(one.shape).view(BFLOAT16)


def _round(block: NDArray[np.generic], into: NDArray[np.uint16]) -> None:
    """Writes the upper halves of floats, rounded; a block at a time, so that what is between stays in the cache."""
    single = block.astype("<f4")
    bits = single.view("<u4")
    rounded = (bits >> np.uint32(16)) & np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    into[:] = rounded
    is_none = np.isnan(single)
    if is_none.any():  # rounding would carry one into the sign, or make an infinity of it
        into[is_none] = (bits[is_none] >> np.uint32(16)) | np.uint32(0x40)


def for_wire(params: Params, name: str | None) -> Params:
    """Returns the floats of a model in the type that the job asked for; what is as narrow already stays.

    Args:
        params: by name.
        name: of `WIRE`; None: as they are.
    """
    if name is None:
        return params
    return {key: narrowed(one, WIRE[name]) if one.dtype.itemsize > 2 else one for key, one in params.items()}  # noqa: PLR2004 - bytes


def params_of(model: Any, names: Iterable[str] = ESTIMATOR) -> dict[str, Any]:
    """Returns what is sent of a model: the state of a PyTorch module, or the arrays of a scikit-learn estimator.

    Args:
        model: has `state_dict()`, or was fitted.
        names: attributes of an estimator.

    Raises:
        BadParameters: the estimator has not learnt anything yet.
    """
    if hasattr(model, "state_dict"):
        return dict(model.state_dict())
    try:
        return {name: np.asarray(getattr(model, name)) for name in names}
    except AttributeError as error:
        raise BadParameters(
            f"{type(model).__name__} has no parameters to send",
            why=str(error),
            hint="fit it first, or put the received parameters into it",
        ) from error


def load(model: Any, params: Mapping[str, Any]) -> None:
    """Puts received parameters into a PyTorch module or a scikit-learn estimator.

    An estimator gets copies: what was received is read-only and gone after the answer.
    """
    if hasattr(model, "load_state_dict"):
        model.load_state_dict(dict(params))
        return
    for name, value in params.items():
        setattr(model, name, np.array(value))
