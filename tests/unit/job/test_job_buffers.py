"""Shared memory is made once, and nothing of it is left."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime.job import buffers, tensors
from clouddeploy_runtime.job.buffers import PAGE, SEALS, Budget, BufferPool, BufferRefused, Mappings, NoBuffer
from clouddeploy_runtime.job.messages import Frame, Task, decode, encode

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


def test_memory_is_sealed_against_being_made_shorter_and_longer(pool):
    buffer = pool.acquire(MIB)
    for size in (0, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(buffer.fd, size)


def test_a_file_is_allocated_and_cannot_be_written_through_the_descriptor_that_travels(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = BufferPool(0)
    buffer = pool.acquire(MIB)
    assert buffer.is_file
    assert os.fstat(buffer.fd).st_blocks * 512 >= MIB
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(buffer.fd, 0)
    pool.close()


def open_files():
    return sorted(one.name for one in Path("/proc/self/fd").iterdir())


def test_a_full_disk_is_an_error_that_names_the_temporary_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    before = open_files()
    pool = BufferPool(0)
    with pytest.raises(NoBuffer) as caught:
        pool.acquire(MIB)
    assert f"the temporary folder {tmp_path} is full" in str(caught.value)
    assert "TMPDIR" in caught.value.hint
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_no_machine_has_is_an_error(pool):
    for size in (-1, 1 << 60, 1 << 64):
        with pytest.raises(NoBuffer):
            pool.acquire(size)


def test_a_closed_pool_gives_no_buffers_and_takes_them_back_all_the_same():
    pool = BufferPool(MIB)
    held = pool.acquire(10)
    pool.close()
    held.release()
    with pytest.raises(NoBuffer, match="the job has ended"):
        pool.acquire(10)


def frame(size=100, *, key=1, capacity=PAGE):
    return Frame(Task("t", "train", 0, 1, [], {}, size), key=key, capacity=capacity)


def memory(*, seals=SEALS, size=PAGE, flags=0, written=PAGE):
    fd = os.memfd_create("job", os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    os.pwrite(fd, bytes(written), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.fixture
def strict():
    return Mappings(lambda _key: None, is_strict=True)


def test_sealed_memory_of_a_job_is_taken(strict):
    assert strict.buffer_of(frame(), [memory()]).size == 100


def test_memory_that_a_job_could_take_away_is_refused_and_its_descriptor_closed(strict):
    before = open_files()
    for bad in (lambda: memory(seals=0), lambda: memory(seals=fcntl.F_SEAL_GROW)):
        with pytest.raises(BufferRefused, match="not sealed"):
            strict.buffer_of(frame(), [bad()])
    with tempfile.TemporaryFile() as file, pytest.raises(BufferRefused, match="no memory"):
        strict.buffer_of(frame(), [os.dup(file.fileno())])
    with pytest.raises(BufferRefused, match="no memory"):
        strict.buffer_of(frame(), [os.open("/dev/zero", os.O_RDWR)])
    assert open_files() == before


def test_sizes_that_do_not_fit_are_refused(strict):
    for size, capacity in ((100, PAGE * 2), (100, 0), (100, -PAGE), (100, 10), (PAGE + 1, PAGE), (-1, PAGE)):
        with pytest.raises(BufferRefused):
            Mappings(lambda _key: None, is_strict=True).buffer_of(frame(size, capacity=capacity), [memory()])


def test_a_buffer_that_never_came_or_comes_twice_is_refused(strict):
    with pytest.raises(BufferRefused, match="never came"):
        strict.buffer_of(frame(key=7), [])
    strict.buffer_of(frame(), [memory()])
    with pytest.raises(BufferRefused, match="twice"):
        strict.buffer_of(frame(), [memory()])


def test_a_job_gets_a_bounded_number_and_amount_of_its_parents_mappings(strict, monkeypatch):
    monkeypatch.setattr(buffers, "MAX_MAPPINGS", 2)
    for key in (1, 2):
        strict.buffer_of(frame(key=key), [memory()])
    with pytest.raises(BufferRefused, match="more than 2"):
        strict.buffer_of(frame(key=3), [memory()])
    bounded = Mappings(lambda _key: None, is_strict=True, limit_bytes=PAGE)
    bounded.buffer_of(frame(), [memory()])
    with pytest.raises(BufferRefused, match=f"may hold {PAGE} bytes"):
        bounded.buffer_of(frame(key=2), [memory()])


def test_memory_that_a_job_did_not_fill_is_not_read_for_it(strict):
    """A read of a hole takes a page of the reader's: a job could use up memory that it never used itself."""
    with pytest.raises(BufferRefused, match="not so many were written"):
        strict.buffer_of(frame(MIB, capacity=MIB), [memory(size=MIB)])
    assert strict.buffer_of(frame(key=2, capacity=MIB), [memory(size=MIB)]).size == 100


def test_a_parent_cannot_write_to_a_jobs_memory_and_a_job_can_to_what_is_lent_to_it(pool, tmp_path, monkeypatch):
    sent = pool.acquire(MIB)
    sent.view[:] = bytes(MIB)
    received = Mappings(lambda _key: None).buffer_of(frame(capacity=sent.capacity), [os.dup(sent.fd)])
    received.view[0] = 1
    assert sent.view[0] == 1
    strict = Mappings(lambda _key: None, is_strict=True).buffer_of(frame(capacity=sent.capacity), [os.dup(sent.fd)])
    with pytest.raises(TypeError, match="read-only"):
        strict.view[0] = 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = BufferPool(0).acquire(MIB)
    lent = Mappings(lambda _key: None).buffer_of(frame(capacity=file.capacity), [os.dup(file.fd)])
    with pytest.raises(TypeError, match="read-only"):
        lent.view[0] = 1


def test_a_file_is_made_beside_the_event_loop_and_comes_back_when_nobody_waits_any_more(monkeypatch):
    pool, making, go_on = BufferPool(0), threading.Event(), threading.Event()
    real = buffers._file

    def slow(capacity):
        making.set()
        go_on.wait(2)
        return real(capacity)

    monkeypatch.setattr(buffers, "_file", slow)

    async def scenario():
        waiting = asyncio.create_task(pool.obtain(10))
        await asyncio.to_thread(making.wait, 2)
        assert pool.in_use == 0, "the pool answers meanwhile"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go_on.set()
        buffer = await pool.obtain(10)
        while len(pool._free) != len(pool._buffers) - 1:  # noqa: ASYNC110 - the thread's moment
            await asyncio.sleep(0)
        buffer.release()
        assert pool.in_use == 0

    asyncio.run(asyncio.wait_for(scenario(), 5))
    pool.close()


def test_a_file_that_is_ready_after_the_jobs_end_is_refused(monkeypatch):
    pool, real = BufferPool(0), buffers._file

    def late(capacity):
        pool.close()
        return real(capacity)

    monkeypatch.setattr(buffers, "_file", late)
    with pytest.raises(NoBuffer, match="the job has ended"):
        pool.acquire(10)


def test_pools_of_one_process_share_a_budget_and_give_it_back_at_their_end():
    shared = Budget(4 * MIB)
    first, second = BufferPool(3 * MIB, shared=shared), BufferPool(3 * MIB, shared=shared)
    kept = [first.acquire(2 * MIB), second.acquire(2 * MIB), second.acquire(PAGE), first.acquire(MIB)]
    assert [one.is_file for one in kept] == [False, False, True, True]
    kept[0].release()
    assert second.acquire(MIB).is_file, "what the other one keeps for itself is still memory"
    first.close()
    assert not second.acquire(MIB).is_file
    second.close()
    assert shared.take(4 * MIB)
    assert not shared.take(1)


def test_memory_that_could_not_be_made_is_not_counted():
    shared = Budget(1 << 62)
    pool = BufferPool(1 << 62, shared=shared)
    with pytest.raises(NoBuffer):
        pool.acquire(1 << 61)
    pool.close()
    with pytest.raises(NoBuffer, match="the job has ended"):
        pool.acquire(PAGE)
    assert shared.take(1 << 62)


def test_a_pool_without_a_budget_knows_what_disk_its_next_buffer_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = BufferPool(0)
    assert (pool.is_on_disk, pool.missing(MIB)) == (True, MIB)
    held = pool.acquire(MIB)
    assert pool.missing(MIB) == MIB
    held.release()
    assert pool.missing(MIB) == 0
    assert (BufferPool(MIB).is_on_disk, BufferPool(MIB).missing(MIB), BufferPool(MIB).missing(MIB + 1)) == (
        False,
        0,
        MIB + PAGE,
    )
    pool.close()


def test_a_file_system_that_makes_no_file_without_a_name_gets_one_with_a_name_for_a_moment(tmp_path, monkeypatch):
    real = os.open

    def without(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "open", without)
    pool = BufferPool(0)
    buffer = pool.acquire(MIB)
    buffer.view[:3] = b"abc"
    assert os.pread(buffer.fd, 3, 0) == b"abc"
    assert list(tmp_path.iterdir()) == []
    pool.close()


HUGE = (5 << 30) + 12345
"""Beyond what 32 bits count; the kernel gives pages to what is touched alone."""


def test_a_model_of_five_gib_is_handed_over_by_its_descriptor():
    pool, told = BufferPool(1 << 40), []
    sent = pool.acquire(HUGE)
    sent.view[HUGE - 4 : HUGE] = b"last"
    sent.view[(3 << 30) : (3 << 30) + 4] = b"over"
    packet = encode(Frame(Task("t", "train", 0, 1, [], {}, HUGE), key=sent.key, capacity=sent.capacity))
    received = Mappings(told.append).buffer_of(decode(packet), [os.dup(sent.fd)])
    assert (received.size, received.capacity, len(received.view)) == (HUGE, sent.capacity, sent.capacity)
    assert bytes(received.view[HUGE - 4 : HUGE]) == b"last"
    assert bytes(received.view[(3 << 30) : (3 << 30) + 4]) == b"over"
    received.release()
    assert told == [sent.key]
    assert pool.in_use == sent.capacity
    pool.close()


def test_offsets_in_a_model_of_five_gib_are_found():
    pool = BufferPool(1 << 40)
    first = np.broadcast_to(np.float32(0), (1 << 30) + 7)
    header = tensors.header_of({"first": first, "last": np.arange(3.0)})
    size = tensors.size_of({"first": first, "last": np.arange(3.0)})
    assert size == len(header) + first.nbytes + 24
    buffer = pool.acquire(size)
    buffer.view[: len(header)] = header
    buffer.view[size - 24 : size] = np.arange(3.0).tobytes()
    found = tensors.read(buffer.view[:size])
    assert found["last"].tolist() == [0.0, 1.0, 2.0]
    assert found["first"].shape == ((1 << 30) + 7,)
    del found
    pool.close()


def test_a_file_of_more_than_two_gib_is_a_buffer_like_any_other(tmp_path, monkeypatch):
    """Allocated, and not written: file systems note that it is empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool, size = BufferPool(0), (2 << 30) + 5
    buffer = pool.acquire(size)
    buffer.view[size - 1] = 7
    assert os.pread(buffer.fd, 1, size - 1) == b"\x07"
    assert os.fstat(buffer.fd).st_size == buffer.capacity
    pool.close()


def test_what_an_exception_holds_after_the_end_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = BufferPool(0)

    def cut_off(buffer, error):
        try:
            raise error  # whose traceback knows this frame, which knows it
        except OSError:
            return weakref.ref(buffer.view.obj)

    memory = cut_off(pool.acquire(MIB), OSError())
    pool.close()
    assert memory() is not None
    pool.reclaim()
    assert memory() is None
