"""What a job leaves in its folders, however it was meant, harms nobody who removes, lists or reads it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from clouddeploy_runtime import job_folders
from clouddeploy_runtime.job import confine

DEEP = 1100


@pytest.fixture
def nested():
    """A folder with others in it, each in the one before, and a file in each; on a disk it would take seconds."""
    root = Path(tempfile.mkdtemp(dir=confine.SHARED_MEMORY))
    inside = os.open(root, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=inside)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
        inside, before = os.open("d", os.O_RDONLY, dir_fd=inside), inside
        os.close(before)
    os.close(inside)
    yield root
    job_folders.remove(root)


def opened():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_folders_nested_deeper_than_python_calls_are_removed(nested):
    with pytest.raises((RecursionError, OSError)):
        shutil.rmtree(nested)
    before = opened()
    assert job_folders.remove(nested)
    assert not nested.exists()
    assert opened() == before


def test_a_removal_takes_links_and_closed_folders_and_nothing_that_they_lead_to(tmp_path):
    kept, root = tmp_path / "kept", tmp_path / "left"
    (kept / "deep").mkdir(parents=True)
    (root / "closed" / "deep").mkdir(parents=True)
    (root / "closed" / "link").symlink_to(kept)
    (root / "link").symlink_to(kept / "deep")
    os.mkfifo(root / "pipe")
    for folder in ("closed/deep", "closed"):
        (root / folder).chmod(0)
    assert job_folders.remove(root)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["kept", "kept/deep"]
    root.symlink_to(kept)
    assert job_folders.remove(root)
    assert not root.is_symlink()
    assert job_folders.remove(root)  # there is none
    assert (kept / "deep").is_dir()


def test_a_removal_that_takes_too_long_is_given_up_and_said(tmp_path, caplog):
    (tmp_path / "left" / "deep").mkdir(parents=True)
    assert not job_folders.remove(tmp_path / "left", limit_s=-1)
    assert "holds too much" in caplog.text
    assert job_folders.remove(tmp_path / "left")


def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path, monkeypatch, caplog):
    for name in ("bad", "good"):
        (tmp_path / "left" / name).mkdir(parents=True)
    rmdir = os.rmdir

    def careful(name, **where):
        if name == "bad":
            raise PermissionError(13, "Operation not permitted")
        rmdir(name, **where)

    monkeypatch.setattr(os, "rmdir", careful)
    assert not job_folders.remove(tmp_path / "left")
    assert "Operation not permitted" in caplog.text
    assert [path.name for path in (tmp_path / "left").iterdir()] == ["bad"]


def test_plain_files_are_listed_and_nothing_else(tmp_path, nested):
    for name in ("b", "a/x", "a/y"):
        (nested / name).parent.mkdir(exist_ok=True)
        (nested / name).write_text("")
    (nested / "link").symlink_to(tmp_path)
    (nested / "strange\n").write_text("")
    (nested / os.fsdecode(b"\xff")).write_text("")
    os.mkfifo(nested / "pipe")
    found = list(job_folders.files(nested))
    assert found[:2] == ["b", "f"]
    assert found[2:4] == ["a/x", "a/y"]
    assert max(name.count("/") for name in found) == job_folders.MAX_DEPTH
    assert list(job_folders.files(nested, limit=2)) == ["b", "f"]


@pytest.mark.parametrize("name", ["link", "pipe", "folder", "there/secret", "none"])
def test_a_link_a_pipe_or_a_folder_is_not_read(tmp_path, name):
    (tmp_path / "secret").write_text("key")
    root = tmp_path / "run"
    (root / "folder").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "there").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    before = opened()
    with pytest.raises(OSError, match=r"."):
        job_folders.opened(root, name)
    assert opened() <= before


def test_the_end_of_a_file_is_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("one two")
    assert job_folders.end_of(tmp_path, "run/log.txt", 3) == "two"
    assert job_folders.end_of(tmp_path, "run/log.txt", 300) == "one two"
