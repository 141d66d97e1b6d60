"""What is written past the page cache is what was given, whatever its length and whatever the file system can do."""

from __future__ import annotations

import errno
import os

import pytest
from clouddeploy_runtime.job import direct
from clouddeploy_runtime.job.direct import BLOCK_BYTES, DirectFile

REAL_OPEN, REAL_WRITE = os.open, os.write


def content(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 12_345])
def test_a_file_has_what_was_written(tmp_path, size):
    whole = content(size)
    with DirectFile(tmp_path / "file") as file:
        assert file.write(whole[:7]) == len(whole[:7])
        file.write(memoryview(whole)[7:])
    assert (tmp_path / "file").read_bytes() == whole


def refuse_direct(path, flags, *mode):
    if flags & os.O_DIRECT:
        raise OSError(errno.EINVAL, "Invalid argument")
    return REAL_OPEN(path, flags, *mode)


def write_a_little(descriptor, data):
    return REAL_WRITE(descriptor, data[:1000])


def refuse_first(refused=[]):  # noqa: B006 - it remembers on purpose
    def write(descriptor, data):
        if not refused:
            refused.append(True)
            raise OSError(errno.EINVAL, "Invalid argument")
        return REAL_WRITE(descriptor, data)

    return write


@pytest.mark.parametrize(
    ("name", "instead"),
    [("open", refuse_direct), ("write", write_a_little), ("write", refuse_first())],
    ids=["a file system without it", "a disk that takes less than it is given", "a disk of other blocks"],
)
def test_where_the_disk_cannot_the_page_cache_takes_it(tmp_path, monkeypatch, name, instead):
    monkeypatch.setattr(direct.os, name, instead)
    whole = content(BLOCK_BYTES + 5000)
    with DirectFile(tmp_path / "file") as file:
        file.write(whole)
    assert (tmp_path / "file").read_bytes() == whole


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
