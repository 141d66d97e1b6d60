"""A controller that is started again finds what the one before wrote last, whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime.job import checkpoint
from clouddeploy_runtime.job.checkpoint import BadCheckpoint, Checkpoint, Checkpoints


def written(folder, number):
    job = Checkpoints(folder)
    model = job.write(Checkpoint(number, {"w": np.full(3, float(number))}, {"rounds": [number]}, {}))
    job.finish()
    return model


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
    assert names(tmp_path) == ["checkpoint-2.safetensors", "checkpoint-spare", "checkpoint.json"]


def test_the_file_of_an_old_checkpoint_is_written_over_by_the_next(tmp_path):
    job = Checkpoints(tmp_path)
    files = []
    for number in range(1, 6):
        files.append(job.write(Checkpoint(number, {"w": np.arange(6 - number)}, {}, {})).stat().st_ino)
        job.finish()
    assert len(set(files)) == 2
    np.testing.assert_array_equal(read(tmp_path).params["w"], np.arange(1))


@pytest.mark.parametrize("held", ["by another name", "by a reader"])
def test_a_checkpoint_that_somebody_still_has_is_not_written_over(tmp_path, held):
    job = Checkpoints(tmp_path)
    first = job.write(Checkpoint(1, {"w": np.zeros(3)}, {}, {}))
    whole = first.read_bytes()
    checkpoint.publish(first, tmp_path / "best.safetensors")
    with first.open("rb") as reader:
        if held == "by a reader":
            (tmp_path / "best.safetensors").unlink()
        for number in (2, 3, 4):
            job.write(Checkpoint(number, {"w": np.full(3, float(number))}, {}, {}))
            job.finish()
        assert reader.read() == whole
    if held == "by another name":
        assert (tmp_path / "best.safetensors").read_bytes() == whole


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
        checkpoint.publish(written(tmp_path, number), tmp_path / "model.safetensors")
    content = (tmp_path / "checkpoint-2.safetensors").read_bytes()
    checkpoint.remove(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_a_model_is_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    model = written(tmp_path, 1)
    checkpoint.publish(model, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == model.read_bytes()
