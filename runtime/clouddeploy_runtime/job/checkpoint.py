"""What a controller writes after each round, so that another process can go on where it was when it was killed.

A checkpoint is a model, `checkpoint-<round>.safetensors`, and an entry in `checkpoint.json`, which is replaced last:
whoever is killed in between leaves the checkpoint before. A small model is written at once; what a killed process has
written the kernel still has, so it reaches the disk beside the next round. A large one takes a disk seconds: it is
written beside the next round as a whole, where the workflow says that it leaves the model as it is meanwhile. Until a
model is on the disk the one before is kept, for a machine that loses its power: after another boot only what had
reached the disk counts.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.direct import DirectFile
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

INDEX = "checkpoint.json"
_MODELS = "checkpoint-*"
AT_ONCE_BYTES = 16 << 20
"""A model up to here is small."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another text after each boot: random(4)."""


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


class Checkpoints:
    """The checkpoints of one job.

    Args:
        folder: where they are; one process at a time writes there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: list[dict[str, Any]] = []
        self._beside: threading.Thread | None = None

    def write(self, checkpoint: Checkpoint, *, names: Sequence[str] = (), beside: bool = False) -> None:
        """Adds a checkpoint, the newest.

        Args:
            checkpoint: it.
            names: of results that its model becomes, in the same folder.
            beside: a large model is written while the caller goes on: its parameters must stay as they are until
                `finish`. What keeps it from being written is a warning then.

        Raises:
            OSError: it could not be written; the one before is still there.
        """
        self.finish()  # a disk that is slower than the rounds sets their pace
        if beside and _is_large(checkpoint.params):
            run = partial(self._write_large, checkpoint, names)
        else:
            entry = self._write(checkpoint, names)
            run = partial(self._sync, entry)
        self._beside = threading.Thread(target=run, daemon=True)
        self._beside.start()

    def finish(self) -> None:
        """Waits until what was written has reached the disk."""
        if self._beside is not None:
            self._beside.join()
            self._beside = None

    def read(self) -> Checkpoint | None:
        """Returns the newest checkpoint; None when there is none, so the job is a new one.

        Raises:
            BadCheckpoint: there is one, and it is damaged.
        """
        try:
            entries = json.loads((self._folder / INDEX).read_bytes())["checkpoints"]
            # Empty: it reached the disk, so it is whole whatever happened to the machine.
            entry = next(one for one in reversed(entries) if one["boot"] in {"", _boot()})
            params = tensors.read(memoryview((self._folder / entry["model"]).read_bytes()))
            found = Checkpoint(int(entry["round"]), params, dict(entry["state"]), dict(entry["failures"]))
        except FileNotFoundError as error:
            if error.filename == str(self._folder / INDEX):
                return None
            raise self._bad(error) from error
        except StopIteration:
            return None  # the power went before the first one was on the disk
        except (OSError, ValueError, KeyError, TypeError, ClouddeployError) as error:
            raise self._bad(error) from error
        self._entries = [entry]
        return found

    def _write(self, checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Any]:
        """Writes the model, then its entry, which is returned."""
        model = self._folder / f"checkpoint-{checkpoint.round}.safetensors"
        write_model(checkpoint.params, model)
        entry = {
            "round": checkpoint.round,
            "model": model.name,
            "state": checkpoint.state,
            "failures": dict(checkpoint.failures),
            "boot": _boot(),
        }
        self._entries = [*self._entries[-1:], entry]
        index = self._folder / f"{INDEX}.new"
        index.write_bytes(json.dumps({"checkpoints": self._entries}).encode())
        index.replace(self._folder / INDEX)
        for name in names:
            _publish(model, self._folder / name)
        return entry

    def _write_large(self, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        try:
            entry = self._write(checkpoint, names)
        except OSError as error:
            log.warning("round %d is not kept: %s", checkpoint.round, error)
        else:
            self._sync(entry)

    def _sync(self, entry: dict[str, Any]) -> None:
        """Brings the newest model to the disk; then the one before is not needed any more."""
        try:
            descriptor = os.open(self._folder / entry["model"], os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._entries = [{**entry, "boot": ""}]
            write_atomically(self._folder / INDEX, json.dumps({"checkpoints": self._entries}).encode())
        except OSError as error:
            log.warning("the checkpoint of round %s is not on the disk: %s", entry["round"], error)
            return
        for old in self._folder.glob(_MODELS):
            if old.name != entry["model"]:
                old.unlink(missing_ok=True)

    def _bad(self, error: Exception) -> BadCheckpoint:
        return BadCheckpoint(
            f"the checkpoint in {self._folder} cannot be read",
            why=str(error),
            hint="Submit the job again; its last model is beside it.",
        )


def remove(folder: Path) -> None:
    """Takes a folder's checkpoints away, as is done with a job that came to its end."""
    for pattern in (f"{INDEX}*", f".{INDEX}*", _MODELS):
        for one in folder.glob(pattern):
            one.unlink(missing_ok=True)


def write_model(params: Mapping[str, NDArray[np.generic]], target: Path) -> None:
    """Writes a model as a file that is complete, or as it was before.

    Raises:
        OSError: it could not be written.
    """
    aside = target.with_name(f"{target.name}.new")
    aside.unlink(missing_ok=True)
    try:
        with DirectFile(aside) if _is_large(params) else aside.open("xb") as file:
            tensors.write_file(params, file)
        aside.replace(target)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _is_large(params: Mapping[str, NDArray[np.generic]]) -> bool:
    return sum(one.nbytes for one in params.values()) > AT_ONCE_BYTES


def _publish(model: Path, target: Path) -> None:
    """Makes a checkpoint's model a result under another name; without a copy where the file system can."""
    aside = target.with_name(f"{target.name}.new")
    aside.unlink(missing_ok=True)
    try:
        os.link(model, aside)
    except OSError:  # a mounted share may know no hard links
        shutil.copyfile(model, aside)
    aside.replace(target)


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"  # then every boot looks the same, and a power failure may cost the job
