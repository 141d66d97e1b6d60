"""What a controller writes after each round, so that another process can go on where it was when it was killed.

A checkpoint is a model, `checkpoint-<round>.safetensors`, and `checkpoint.json`, which names it and is replaced last:
whoever is killed in between leaves the checkpoint before. Both are on the disk, not only on their way to it, before
the next round begins.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

INDEX = "checkpoint.json"
_MODELS = "checkpoint-*.safetensors"


class BadCheckpoint(RuntimeFault):
    """A checkpoint cannot be read, so the job cannot go on from it."""

    error_code = "BAD_CHECKPOINT"


@dataclass(frozen=True)
class Checkpoint:
    """Where a job was.

    Attributes:
        round: the one to go on with; those before it are in `params`.
        params: the model after them.
        state: what the workflow wants back; JSON.
        failures: the sites that failed so far, with their causes.
    """

    round: int
    params: Mapping[str, NDArray[np.generic]]
    state: Mapping[str, Any]
    failures: Mapping[str, str]


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Replaces the checkpoint of a folder; returns the model's file.

    Raises:
        OSError: it could not be written; the one before is still there.
    """
    model = folder / f"checkpoint-{checkpoint.round}.safetensors"
    content = bytearray(tensors.size_of(checkpoint.params))
    tensors.write(checkpoint.params, memoryview(content))
    write_atomically(model, bytes(content))
    document = {
        "round": checkpoint.round,
        "model": model.name,
        "state": checkpoint.state,
        "failures": checkpoint.failures,
    }
    write_atomically(folder / INDEX, json.dumps(document).encode())
    for old in folder.glob(_MODELS):
        if old != model:
            old.unlink(missing_ok=True)
    return model


def read(folder: Path) -> Checkpoint | None:
    """Returns the checkpoint of a folder; None when there is none, so the job is a new one.

    Raises:
        BadCheckpoint: there is one, and it is damaged.
    """
    try:
        document = json.loads((folder / INDEX).read_bytes())
        params = tensors.read(memoryview((folder / document["model"]).read_bytes()))
        return Checkpoint(int(document["round"]), params, dict(document["state"]), dict(document["failures"]))
    except FileNotFoundError as error:
        if error.filename == str(folder / INDEX):
            return None
        raise _bad(folder, error) from error
    except (OSError, ValueError, KeyError, TypeError, ClouddeployError) as error:
        raise _bad(folder, error) from error


def remove(folder: Path) -> None:
    """Takes the checkpoint away, as a job does that came to its end."""
    (folder / INDEX).unlink(missing_ok=True)
    for model in folder.glob(_MODELS):
        model.unlink(missing_ok=True)


def publish(model: Path, target: Path) -> None:
    """Makes a checkpoint's model a result under another name; without a copy where the file system can."""
    aside = target.with_name(f"{target.name}.new")
    aside.unlink(missing_ok=True)
    try:
        os.link(model, aside)
    except OSError:  # a mounted share may know no hard links
        shutil.copyfile(model, aside)
    aside.replace(target)


def _bad(folder: Path, error: Exception) -> BadCheckpoint:
    return BadCheckpoint(
        f"the checkpoint in {folder} cannot be read",
        why=str(error),
        hint="Submit the job again; its last model is beside it.",
    )
