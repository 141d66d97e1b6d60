"""What a controller writes after each round, so that another process can go on where it was when it was killed.

A checkpoint is a model, `checkpoint-<round>.safetensors`, and an entry in `checkpoint.json`, which is replaced last:
whoever is killed in between leaves the checkpoint before. What a killed process has written the kernel still has, so
the next round begins at once, and the model reaches the disk beside it. Until it is there the one before is kept, for
a machine that loses its power: after another boot only what had reached the disk counts. A file that is not needed
any more is written over by the next model: new pages of the page cache cost ten times what copying into them does.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

INDEX = "checkpoint.json"
_MODELS = "checkpoint-*"
_SPARE = "checkpoint-spare"
"""A model's file that is not needed any more."""
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
        self._syncing: threading.Thread | None = None

    def write(self, checkpoint: Checkpoint) -> Path:
        """Adds a checkpoint, the newest; returns the model's file.

        Raises:
            OSError: it could not be written; the one before is still there.
        """
        self.finish()  # a disk that is slower than the rounds sets their pace
        model = self._folder / f"checkpoint-{checkpoint.round}.safetensors"
        aside = self._folder / _SPARE
        try:
            if not _is_spare(aside):
                aside.unlink(missing_ok=True)
                aside.touch()
            with aside.open("r+b") as file:
                tensors.write_file(checkpoint.params, file)
                file.truncate()
            aside.replace(model)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
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
        self._syncing = threading.Thread(target=self._sync, args=(entry,), daemon=True)
        self._syncing.start()
        return model

    def finish(self) -> None:
        """Waits until what was written has reached the disk."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None

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
            if old.name not in {entry["model"], _SPARE}:
                old.replace(self._folder / _SPARE)

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


def publish(model: Path, target: Path) -> None:
    """Makes a checkpoint's model a result under another name; without a copy where the file system can."""
    aside = target.with_name(f"{target.name}.new")
    aside.unlink(missing_ok=True)
    try:
        os.link(model, aside)
    except OSError:  # a mounted share may know no hard links
        shutil.copyfile(model, aside)
    aside.replace(target)


def _is_spare(file: Path) -> bool:
    """Tells whether a file can be written over: it has no other name, and nobody reads what it was."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_nlink > 1:
            return False
        # Nobody gets this lease while the file is open elsewhere: fcntl(2). File systems without leases refuse it too.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"  # then every boot looks the same, and a power failure may cost the job
