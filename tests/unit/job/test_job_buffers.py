"""Shared memory is made once, and nothing of it is left."""

from __future__ import annotations

import os
import tempfile

import pytest
from clouddeploy_runtime.job.buffers import BufferPool, Mappings
from clouddeploy_runtime.job.messages import Frame, Task

MIB = 1 << 20


@pytest.fixture
def pool():
    one = BufferPool(4 * MIB)
    yield one
    one.close()


def test_a_released_buffer_is_used_again(pool):
    first = pool.acquire(MIB)
    first.view[:5] = b"hello"
    inode, fd = os.fstat(first.fd).st_ino, first.fd
    first.release()
    second = pool.acquire(MIB - 100)
    assert (os.fstat(second.fd).st_ino, second.fd) == (inode, fd)
    assert second.size == MIB - 100


def test_a_buffer_in_use_is_not_lent_twice(pool):
    assert pool.acquire(MIB).fd != pool.acquire(MIB).fd


def test_releasing_twice_frees_once(pool):
    first = pool.acquire(MIB)
    first.release()
    first.release()
    assert pool.acquire(MIB).fd != pool.acquire(MIB).fd


def test_a_small_buffer_does_not_pin_a_large_one(pool):
    large = pool.acquire(2 * MIB)
    large.release()
    small = pool.acquire(10)
    assert small.fd != large.fd
    assert pool.acquire(2 * MIB).fd == large.fd


def test_above_the_budget_buffers_are_files_without_a_name(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = [pool.acquire(2 * MIB) for _ in range(3)]
    assert [buffer.is_file for buffer in kept] == [False, False, True]
    assert os.fstat(kept[2].fd).st_dev == tmp_path.stat().st_dev
    kept[2].view[:3] = b"abc"
    assert os.pread(kept[2].fd, 3, 0) == b"abc"
    assert list(tmp_path.iterdir()) == []
    fds = [buffer.fd for buffer in kept]
    pool.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_the_receiver_sees_the_senders_bytes_and_tells_it_when_done(pool):
    told = []
    mappings = Mappings(told.append)
    sent = pool.acquire(MIB)
    sent.view[:4] = b"once"
    frame = Frame(Task("t", "train", 0, 1, [], {}, MIB), key=sent.key, capacity=sent.capacity)
    received = mappings.buffer_of(frame, [os.dup(sent.fd)])
    assert bytes(received.view[:4]) == b"once"
    received.release()
    received.release()
    assert told == [sent.key]
    sent.view[:4] = b"more"
    again = mappings.buffer_of(frame, [])
    assert bytes(again.view[:4]) == b"more"
