"""A controller that is started again finds what the one before wrote last, whole."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime.job import checkpoint, direct
from clouddeploy_runtime.job.checkpoint import BadCheckpoint, Checkpoint, Checkpoints

RESULT = "model.safetensors"
LARGE = np.arange(checkpoint.AT_ONCE_BYTES // 4 + 1001, dtype=np.float32)


def written(folder, number):
    job = Checkpoints(folder)
    job.write(Checkpoint(number, {"w": np.full(3, float(number))}, {"rounds": [number]}, {}), names=[RESULT])
    job.finish()
    return folder / f"checkpoint-{number}.safetensors"


def read(folder):
    return Checkpoints(folder).read()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_job_has_no_checkpoint(tmp_path):
    assert read(tmp_path) is None


def test_what_was_written_last_is_read_and_what_was_before_goes(tmp_path):
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    job.write(Checkpoint(2, {"w": np.arange(3)}, {"rounds": [{"loss": 1.5}]}, {"site-1": "it broke"}))
    found = read(tmp_path)
    assert (found.round, found.state, found.failures) == (2, {"rounds": [{"loss": 1.5}]}, {"site-1": "it broke"})
    np.testing.assert_array_equal(found.params["w"], np.arange(3))
    assert found.params["w"].dtype == np.arange(3).dtype
    job.finish()
    assert names(tmp_path) == ["checkpoint-2.safetensors", "checkpoint.json"]


def test_a_large_model_is_written_while_its_round_goes_on(tmp_path, monkeypatch):
    may_write = threading.Event()
    real = checkpoint.write_model

    def waits(*given):
        assert may_write.wait(10)
        real(*given)

    monkeypatch.setattr(checkpoint, "write_model", waits)
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": LARGE}, {}, {}), names=[RESULT], beside=True)
    assert read(tmp_path) is None
    may_write.set()
    job.finish()
    found = read(tmp_path)
    assert found.round == 1
    np.testing.assert_array_equal(found.params["w"], LARGE)
    assert names(tmp_path) == ["checkpoint-1.safetensors", "checkpoint.json", RESULT]


def test_a_small_model_and_one_that_may_change_are_there_at_once(tmp_path):
    for number, (model, beside) in enumerate([(np.zeros(3), True), (LARGE, False)]):
        job = Checkpoints(tmp_path)
        job.write(Checkpoint(number, {"w": model}, {}, {}), beside=beside)
        assert read(tmp_path).round == number
        job.finish()


def test_a_large_model_that_the_disk_does_not_take_is_a_warning_and_leaves_the_one_before(
    tmp_path, monkeypatch, caplog
):
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    job.finish()
    monkeypatch.setattr(direct.DirectFile, "write", full)
    job.write(Checkpoint(2, {"w": LARGE}, {}, {}), beside=True)
    job.finish()
    assert "round 2 is not kept: [Errno 28] No space left" in caplog.text
    assert read(tmp_path).round == 1
    assert names(tmp_path) == ["checkpoint-1.safetensors", "checkpoint.json"]
    with pytest.raises(OSError, match="No space left"):
        job.write(Checkpoint(2, {"w": LARGE}, {}, {}))


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_process_killed_between_model_and_index_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    job.finish()
    real = Path.replace

    def dies(path, target):
        if path.name.startswith(checkpoint.INDEX):
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        job.write(Checkpoint(2, {"w": np.ones(3)}, {}, {}))
    assert read(tmp_path).round == 1


def test_after_a_power_failure_only_what_had_reached_the_disk_counts(tmp_path, monkeypatch):
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    job.finish()
    monkeypatch.setattr(checkpoint.os, "fsync", fails)
    job.write(Checkpoint(2, {"w": np.ones(3)}, {}, {}))
    job.finish()
    assert read(tmp_path).round == 2
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(checkpoint, "_BOOT", tmp_path / "boot")
    assert read(tmp_path).round == 1


def test_a_job_whose_first_checkpoint_never_reached_the_disk_begins_anew_after_a_power_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "fsync", fails)
    job = Checkpoints(tmp_path)
    job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    job.finish()
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(checkpoint, "_BOOT", tmp_path / "boot")
    assert read(tmp_path) is None


def fails(_):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("damage", ["index", "model", "no model", "another model"])
def test_a_damaged_checkpoint_is_an_error_and_not_a_new_beginning(tmp_path, damage):
    model = written(tmp_path, 1)
    index = tmp_path / checkpoint.INDEX
    if damage == "index":
        index.write_text("{")
    elif damage == "model":
        model.write_bytes(b"x")
    elif damage == "no model":
        model.unlink()
    else:
        index.write_text(json.dumps({"checkpoints": [{"boot": ""}]}))
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        read(tmp_path)


def test_a_published_model_outlives_its_checkpoint(tmp_path):
    for number in (1, 2):
        written(tmp_path, number)
    content = (tmp_path / "checkpoint-2.safetensors").read_bytes()
    checkpoint.remove(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_a_model_is_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    model = written(tmp_path, 1)
    assert (tmp_path / RESULT).read_bytes() == model.read_bytes()
