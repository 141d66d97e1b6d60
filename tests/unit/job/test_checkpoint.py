"""A controller that is started again finds what the one before wrote last, whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clouddeploy_runtime.job import checkpoint
from clouddeploy_runtime.job.checkpoint import BadCheckpoint, Checkpoint


def written(folder, number):
    return checkpoint.write(folder, Checkpoint(number, {"w": np.full(3, float(number))}, {"rounds": [number]}, {}))


def test_a_new_job_has_no_checkpoint(tmp_path):
    assert checkpoint.read(tmp_path) is None


def test_what_was_written_last_is_read(tmp_path):
    written(tmp_path, 1)
    checkpoint.write(tmp_path, Checkpoint(2, {"w": np.arange(3)}, {"rounds": [{"loss": 1.5}]}, {"site-1": "it broke"}))
    found = checkpoint.read(tmp_path)
    assert (found.round, found.state, found.failures) == (2, {"rounds": [{"loss": 1.5}]}, {"site-1": "it broke"})
    np.testing.assert_array_equal(found.params["w"], np.arange(3))
    assert found.params["w"].dtype == np.arange(3).dtype
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2.safetensors", "checkpoint.json"]


def test_a_process_killed_between_model_and_index_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    written(tmp_path, 1)
    real = checkpoint.write_atomically

    def dies(path, content):
        if path.name == checkpoint.INDEX:
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, 2)
    assert checkpoint.read(tmp_path).round == 1


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
        index.write_text(json.dumps({"round": 1}))
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        checkpoint.read(tmp_path)


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
