"""The parameters that a job begins with, from wherever its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job import frameworks, tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Params = dict[str, NDArray[np.generic]]

NUMPY_KEY = "numpy_key"
"""What the reference calls the one array of its numpy persistor."""
NUMPY_DEFAULT = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
"""The reference's model when none is given; its examples count on it."""


class BadModel(RuntimeFault):
    """The initial model cannot be made."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_MODEL"


def from_function(name: str) -> Params:
    """Calls `module:function`, which returns arrays by name.

    Raises:
        BadModel: names it and the cause.
    """
    module, _, function = name.partition(":")
    try:
        made = getattr(import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise BadModel(
            f"the initial model {name!r} cannot be made", why=str(error), hint="name module:function in custom/"
        ) from error
    return of(made, name)


def from_class(path: str, args: Mapping[str, Any]) -> Params:
    """Makes an object of a class in custom/ and takes its `state_dict()`, as of a PyTorch module.

    Raises:
        BadModel: names the class and the cause; an error in the class itself passes.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadModel(
            f"the initial model {path!r} cannot be made", why=str(error), hint="put the class into custom/"
        ) from error
    made = kind(**args)
    return of(made.state_dict() if hasattr(made, "state_dict") else made, path)


def from_file(file: Path, *, app: Path) -> Params:
    """Reads a .npy, .npz or .safetensors file of the app.

    Raises:
        BadModel: it is elsewhere, missing, damaged or of a kind that can hold code.
    """
    if not file.resolve().is_relative_to(app.resolve()):
        raise BadModel(f"the initial model {file} is not read", why="it lies outside of the job's app")
    try:
        if file.suffix == ".safetensors":
            return tensors.read(memoryview(file.read_bytes()))
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if file.suffix == ".npy":
            return {NUMPY_KEY: np.load(file, allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
        raise BadModel(f"the initial model {file.name} cannot be read", why=str(error)) from error
    raise BadModel(
        f"the initial model {file.name} is not read",
        why="such a file can hold code (pickle)",
        hint="save it as .safetensors or .npz",
    )


def of(made: Any, name: str) -> Params:
    """Returns anything array-like by name as arrays; numbers in lists become float32, as in the reference.

    Raises:
        BadModel: it is no mapping, is empty or has something that is no array.
    """
    if not isinstance(made, Mapping) or not made:
        raise BadModel(
            f"the initial model {name!r} is no set of parameters",
            why=f"it is {'empty' if isinstance(made, Mapping) else f'a {type(made).__name__}'}",
            hint="make it a dict of arrays by name",
        )
    return {str(key): array(value, str(key)) for key, value in made.items()}


def array(value: Any, name: str) -> NDArray[np.generic]:
    """Returns one parameter as an array, be it a list of numbers, an array or a PyTorch tensor on any device.

    Raises:
        BadModel: it is none of these.
    """
    try:
        return frameworks.array(value)
    except (ValueError, TypeError) as error:
        raise BadModel(f"the parameter {name!r} is no array", why=str(error)) from error
