"""Where tensors may go that memory has no room for: a folder that is there, is written, lies on a disk, has room."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest
from clouddeploy_runtime import temporary_folder
from clouddeploy_runtime.job.buffers import BufferPool, NoBuffer
from clouddeploy_runtime.temporary_folder import TemporaryFolderRefused

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own takes root")


@pytest.fixture
def use(monkeypatch):
    """A function that makes this process use a folder, as TMPDIR at its start would."""

    def one(folder, *, asked=None):
        for name in temporary_folder.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        if asked is not None:
            monkeypatch.setenv("TMPDIR", str(asked))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))

    return one


@pytest.fixture
def in_memory():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


@contextlib.contextmanager
def disk(folder: Path, *, mib: int):
    """An ext4 of its own."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mounts(tmp_path, *lines):
    file = tmp_path / "mounts"
    file.write_text("".join(f"device {line} rw 0 0\n" for line in lines))
    return file


def test_a_folder_on_a_disk_with_room_is_as_it_should_be_and_stays_empty(tmp_path, use):
    folder = tmp_path / "folder"
    folder.mkdir()
    use(folder, asked=folder)
    found = temporary_folder.look(mounts=mounts(tmp_path, "/ ext4"))
    assert (found.path, found.kind, found.problem) == (str(folder), "ext4", "")
    assert found.free_bytes > 0
    assert list(folder.iterdir()) == []


def test_a_folder_in_memory_is_named_with_its_file_system(in_memory, use):
    use(in_memory)
    found = temporary_folder.look()
    assert found.problem == f"the temporary folder {in_memory} is in memory (tmpfs) and not on a disk"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["/ ext4", "{} tmpfs"], "tmpfs"),
        (["{} tmpfs", "/ ext4"], "tmpfs"),
        (["{} tmpfs", "{} xfs"], "xfs"),
        (["/ rootfs", "/ ext4"], "ext4"),
        (["/ ext4", "{}-other tmpfs"], "ext4"),
        (["/ ext4", "{}/below tmpfs"], "ext4"),
        (["/ ramfs", "garbage"], "ramfs"),
        ([], ""),
    ],
)
def test_the_file_system_is_that_of_the_longest_mount_point_and_of_those_the_last(tmp_path, use, lines, kind):
    folder = tmp_path / "a b"
    folder.mkdir()
    use(folder)
    place = str(folder).replace(" ", "\\040")
    assert temporary_folder.look(mounts=mounts(tmp_path, *(line.format(place) for line in lines))).kind == kind


def test_a_link_to_a_folder_in_memory_is_in_memory(tmp_path, in_memory, use):
    (tmp_path / "link").symlink_to(in_memory)
    use(tmp_path / "link")
    assert temporary_folder.look().kind == "tmpfs"


def test_a_kernel_that_does_not_say_what_is_mounted_is_no_problem(tmp_path, use):
    use(tmp_path)
    assert temporary_folder.look(mounts=tmp_path / "none").problem == ""


def test_a_folder_that_python_passes_over_without_a_word_is_named(tmp_path, use):
    use(tmp_path, asked=tmp_path / "missing")
    expected = (
        f"the temporary folder {tmp_path / 'missing'} cannot be used (No such file or directory), "
        f"and {tmp_path} is used instead"
    )
    assert temporary_folder.look().problem == expected


def test_a_folder_that_went_away_is_named(tmp_path, use):
    use(tmp_path / "gone")
    problem = f"the temporary folder {tmp_path / 'gone'} cannot be written: No such file or directory"
    assert temporary_folder.look().problem == problem


def test_no_folder_at_all_is_said(use, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    use("")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert temporary_folder.look().problem == "there is no temporary folder: No usable temporary directory found"


def test_a_folder_with_too_little_room_says_how_much_there_is(tmp_path, use):
    use(tmp_path)
    found = temporary_folder.look(1 << 60, mounts=mounts(tmp_path, "/ ext4"))
    assert found.problem == (
        f"the temporary folder {tmp_path} has {found.free_bytes // MIB} MiB free, and {(1 << 60) // MIB} MiB are needed"
    )


def test_a_job_whose_tensors_go_to_files_is_refused_where_they_cannot_and_others_are_not(in_memory, use):
    use(in_memory)
    temporary_folder.check(BufferPool(MIB))
    temporary_folder.check(BufferPool(MIB), 1 << 60)
    with pytest.raises(TemporaryFolderRefused, match=r"tensors cannot be kept on disk: .* in memory") as refused:
        temporary_folder.check(BufferPool(0))
    assert "TMPDIR" in refused.value.hint


def test_a_job_goes_on_as_long_as_one_answer_has_room(tmp_path, use):
    use(tmp_path)
    pool = BufferPool(0)
    temporary_folder.check(pool, MIB)
    with pytest.raises(TemporaryFolderRefused, match="MiB are needed"):
        temporary_folder.check(pool, 1 << 60)
    pool.close()


@pytest.mark.parametrize(
    ("is_needed", "said"), [(True, "Jobs are refused here"), (False, "Tensors that memory has no room for")]
)
def test_a_start_warns_of_the_folder(in_memory, use, caplog, is_needed, said):
    use(in_memory)
    temporary_folder.warn(is_needed=is_needed)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(said)
    assert in_memory in line


@needs_root
@pytest.mark.root
def test_a_disk_that_is_full_is_named_and_its_buffers_are_gone_when_there_is_room_again(tmp_path, use):
    with disk(tmp_path / "disk", mib=80) as folder:
        use(folder)
        temporary_folder.check(BufferPool(0))
        before = temporary_folder.look().free_bytes
        with pytest.raises(NoBuffer, match=f"the temporary folder {folder} is full"):
            BufferPool(0).acquire(100 * MIB)
        pool = BufferPool(0)
        held = pool.acquire(before - MIB)
        with pytest.raises(TemporaryFolderRefused, match=rf"{folder} has \d MiB free, and 64 MiB are needed"):
            temporary_folder.check(BufferPool(0))
        held.release()
        assert pool.missing(before - MIB) == 0, "the next answer goes where this one was"
        temporary_folder.check(pool, before - MIB)
        del held
        pool.close()
        assert temporary_folder.look().free_bytes == before
        assert [one.name for one in folder.iterdir()] == ["lost+found"]


@needs_root
@pytest.mark.root
def test_a_disk_that_can_only_be_read_is_named(tmp_path, use):
    with disk(tmp_path / "disk", mib=16) as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        use(folder)
        problem = f"the temporary folder {folder} cannot be written: Read-only file system"
        assert temporary_folder.look().problem == problem
