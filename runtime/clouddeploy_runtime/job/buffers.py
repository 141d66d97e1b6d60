"""Shared memory for tensors: made once, passed as a file descriptor, used again and again.

Fresh pages cost more than TLS and gRPC together, so a buffer that was released is preferred over a new one.

Memory that another process can make shorter is a trap: whoever touches what is gone is killed by SIGBUS. So memory is
sealed against it, a parent takes no other from a job, and files are allocated before they are mapped.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import mmap
import os
import tempfile
import threading
from typing import TYPE_CHECKING

from clouddeploy_runtime import heap
from clouddeploy_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.job.messages import Frame

PAGE = mmap.PAGESIZE
PREFIX = "clouddeploy-buffer-"
"""Of a file's name, on a file system that makes none without."""
WASTE = 4
"""A free buffer up to so many times too large is reused; beyond that a small one would pin a large one's memory."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Its size stays as it is, for everybody and for ever."""
MAX_MAPPINGS = 256
"""Buffers that a parent takes from one job. A job needs one or two; the kernel allows a process 65,530 mappings."""
RECLAIM_S = 1.0
"""So long after a job's end calls that were cut off have ended as well."""
OFFLOAD = "enable_tensor_disk_offload"
"""What a workflow says to have the server keep all answers in files, and a site of its own buffers."""
_BLOCK = 512
"""Unit of `st_blocks`: stat(2)."""


class NoBuffer(RuntimeFault):
    """A buffer for tensors cannot be had."""

    error_code = "NO_BUFFER"


class BufferRefused(RuntimeFault):
    """What another process calls a buffer is none that can be used without danger."""

    error_code = "BUFFER_REFUSED"


class Buffer:
    """One piece of shared memory.

    Attributes:
        key: its number at its owner.
        size: bytes in use.
        view: at least `size` bytes long; writable at its owner, and at a job for memory that its parent lends it.
        fd: its file descriptor; −1 at the receiver, which keeps the mapping alone.
    """

    def __init__(
        self,
        key: int,
        fd: int,
        memory: mmap.mmap,
        *,
        size: int,
        on_release: Callable[[Buffer], None],
        is_file: bool = False,
    ) -> None:
        self.key = key
        self.fd = fd
        self.size = size
        self.is_file = is_file
        self.capacity = len(memory)
        self.view = memoryview(memory)
        self._on_release = on_release
        self._is_held = True

    @property
    def is_lent(self) -> bool:
        """Whether another process made it."""
        return self.fd < 0

    def hand_back(self) -> None:
        """Notes that it goes back to its owner with a message, which does what `release` would."""
        self._is_held = False

    def release(self) -> None:
        """Gives the buffer back to its owner; the second call does nothing."""
        if self._is_held:
            self._is_held = False
            self._on_release(self)

    def take(self, size: int) -> None:
        """Marks a free buffer as used for `size` bytes."""
        self._is_held = True
        self.size = size


class Budget:
    """Bounds the shared memory of all pools of a process together; safe for several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def has(self, size: int) -> bool:
        """Tells whether there is room, just now."""
        return self._taken + size <= self.limit_bytes

    def take(self, size: int) -> bool:
        """Takes so many bytes, or none; tells which."""
        with self._lock:
            if not self.has(size):
                return False
            self._taken += size
            return True

    def give(self, size: int) -> None:
        """Gives bytes back that were taken."""
        with self._lock:
            self._taken -= size


class BufferPool:
    """Makes buffers and gives released ones again; safe for several threads.

    Args:
        budget_bytes: how much shared memory may exist at once; beyond it buffers are files without a name in the
            temporary directory, which costs speed and no memory. 0: all are.
        shared: what the pools of this process have together; None: only `budget_bytes` counts.
    """

    def __init__(self, budget_bytes: int, *, shared: Budget | None = None) -> None:
        self.budget_bytes = budget_bytes
        self._shared = shared or Budget(budget_bytes)
        self._buffers: dict[int, Buffer] = {}
        self._free: set[int] = set()
        self._lock = threading.Lock()
        self._next = 1
        self._making_bytes = 0
        """Of memory that is being made."""
        self._is_closed = False
        self.on_free: Callable[[], None] | None = None
        """Called when a buffer has come back."""

    @property
    def is_on_disk(self) -> bool:
        """Whether every buffer is a file."""
        return self.budget_bytes == 0

    def missing(self, size: int) -> int:
        """Returns how many bytes of disk a buffer of this size would take that are not allocated yet."""
        with self._lock:
            return 0 if self._fitting(size) is not None or not self._is_beyond(size) else _pages(size)

    @property
    def in_use(self) -> int:
        """Bytes of the buffers that somebody holds."""
        with self._lock:
            return sum(one.capacity for key, one in self._buffers.items() if key not in self._free)

    def acquire(self, size: int) -> Buffer:
        """Returns a buffer of at least `size` bytes; whoever holds it releases it.

        Raises:
            NoBuffer: the disk or the memory is full, the size is none, or the pool was closed.
        """
        if size < 0:
            raise NoBuffer(f"a buffer of {size} bytes cannot be made", why="a size is at least 0")
        with self._lock:
            if self._is_closed:
                raise NoBuffer(f"a buffer of {size} bytes cannot be made", why="the job has ended")
            buffer = self._fitting(size)
            if buffer is not None:
                self._free.discard(buffer.key)
                buffer.take(size)
                return buffer
            capacity = _pages(size)
            is_file = self._is_beyond(size) or not self._shared.take(capacity)
            own_bytes = 0 if is_file else capacity
            self._making_bytes += own_bytes
        try:  # without the lock: a file takes as long as the disk does, and others ask for `in_use` meanwhile
            descriptor, memory = _file(capacity) if is_file else _memory(capacity)
        except BaseException:
            self._shared.give(own_bytes)
            raise
        finally:
            with self._lock:
                self._making_bytes -= own_bytes
        return self._add(size, descriptor, memory, is_file=is_file)

    async def obtain(self, size: int) -> Buffer:
        """Does what `acquire` does, and in a thread what takes long, so that an event loop does not wait for the disk.

        Raises:
            NoBuffer: as `acquire`.
        """
        with self._lock:
            is_quick = self._fitting(size) is not None or not self._is_beyond(size)
        if is_quick:
            return self.acquire(size)
        making = asyncio.get_running_loop().run_in_executor(None, self.acquire, size)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_give_back)
            raise

    def held(self, key: int) -> Buffer | None:
        """Returns the buffer of that key; None when there is none."""
        return self._buffers.get(key)

    def release(self, key: int) -> None:
        """Takes back the buffer of that key, which another process has finished with."""
        buffer = self._buffers.get(key)
        if buffer is not None:
            buffer.release()

    def close(self) -> None:
        """Gives all memory back; buffers must not be used afterwards, and no more can be had."""
        with self._lock:
            self._is_closed = True
            for buffer in self._buffers.values():
                os.close(buffer.fd)
                if not buffer.is_file:
                    self._shared.give(buffer.capacity)
            self._buffers.clear()
            self._free.clear()

    def reclaim(self) -> None:
        """Frees what is held after `close` by exceptions and their frames alone, which know each other.

        Python does so itself once a quarter as many objects were made as there are, which takes a parent hundreds of
        jobs; of what was cut off in the middle of a transfer this may be gigabytes.
        """
        gc.collect()
        heap.give_back()  # what gRPC has freed of transfers

    def _fitting(self, size: int) -> Buffer | None:
        free = (self._buffers[key] for key in self._free)
        fitting = (one for one in free if size <= one.capacity <= max(PAGE, size * WASTE))
        return min(fitting, key=lambda one: one.capacity, default=None)

    def _is_beyond(self, size: int) -> bool:
        """Tell whether a new buffer of this size would have to be a file."""
        in_memory = sum(one.capacity for one in self._buffers.values() if not one.is_file)
        is_own = in_memory + self._making_bytes + _pages(size) <= self.budget_bytes
        return not (is_own and self._shared.has(_pages(size)))

    def _add(self, size: int, descriptor: int, memory: mmap.mmap, *, is_file: bool) -> Buffer:
        with self._lock:
            if self._is_closed:
                memory.close()
                os.close(descriptor)
                if not is_file:
                    self._shared.give(_pages(size))
                raise NoBuffer(f"a buffer of {size} bytes cannot be made", why="the job has ended")
            buffer = Buffer(self._next, descriptor, memory, size=size, on_release=self._take_back, is_file=is_file)
            self._buffers[self._next] = buffer
            self._next += 1
            return buffer

    def _take_back(self, buffer: Buffer) -> None:
        with self._lock:
            if buffer.key in self._buffers:
                self._free.add(buffer.key)
        if self.on_free is not None:
            self.on_free()


def _pages(size: int) -> int:
    return max(PAGE, -(-size // PAGE) * PAGE)


def _give_back(making: asyncio.Future[Buffer]) -> None:
    """Release a buffer that nobody waits for any more."""
    if not making.cancelled() and making.exception() is None:
        making.result().release()


def _memory(capacity: int) -> tuple[int, mmap.mmap]:
    try:
        descriptor = os.memfd_create("clouddeploy-buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, capacity)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            return descriptor, mmap.mmap(descriptor, capacity)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, OverflowError, ValueError) as exc:
        raise NoBuffer(f"a buffer of {capacity} bytes cannot be made", why=f"no memory: {exc}") from exc


def _file(capacity: int) -> tuple[int, mmap.mmap]:
    """Makes a file without a name; its descriptor is for reading only: a file cannot be sealed as memory can."""
    folder = ""
    try:
        folder = tempfile.gettempdir()
        writable = _unnamed(folder)
        try:
            descriptor = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fallocate(writable, 0, capacity)  # a hole in a full disk's file would be a SIGBUS later
                return descriptor, mmap.mmap(writable, capacity)
            except BaseException:
                os.close(descriptor)
                raise
        finally:
            os.close(writable)
    except (OSError, OverflowError, ValueError) as exc:
        raise NoBuffer(
            f"the temporary folder {folder} is full or cannot be used",
            why=f"{capacity} bytes for tensors: {exc}",
            hint="Make room there, or set TMPDIR to a folder on a larger disk.",
        ) from exc


def _unnamed(folder: str) -> int:
    """Opens a new file that vanishes with the last process that maps it, a killed one too."""
    try:  # O_EXCL: who gets its descriptor cannot give it a name
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:  # of a file system that has no O_TMPFILE, such as NFS; others fail once more
        descriptor, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        os.unlink(path)  # noqa: PTH108 - as above
        return descriptor


class Mappings:
    """The receiver's side: maps each of the other's buffers once.

    Args:
        on_release: told the key of each buffer that is done with.
        is_strict: the sender is not trusted: only memory is taken that it can neither take away nor make up.
        limit_bytes: what a sender that is not trusted may have mapped: whoever reads memory that it has not filled is
            given the pages, so a job that uses little of its own could use up its parent's.
    """

    def __init__(
        self, on_release: Callable[[int], None], *, is_strict: bool = False, limit_bytes: int = 1 << 62
    ) -> None:
        self._memory: dict[int, mmap.mmap] = {}
        self._on_release = on_release
        self._is_strict = is_strict
        self._limit_bytes = limit_bytes

    def buffer_of(self, frame: Frame, descriptors: list[int]) -> Buffer | None:
        """Returns the buffer that belongs to a frame's message, if any; a descriptor comes with its first use.

        Args:
            frame: the frame that came.
            descriptors: what came beside it; they are closed here.

        Raises:
            BufferRefused: there is no such buffer, it is smaller than the message says, or it is not safe to touch.
        """
        try:
            if frame.key is None:
                return None
            if descriptors:
                self._map(frame.key, descriptors[0], frame.capacity, size=getattr(frame.message, "size", 0))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        memory = self._memory.get(frame.key)
        size = getattr(frame.message, "size", 0)
        if memory is None:
            raise _refused(f"number {frame.key} never came")
        if not 0 <= size <= len(memory):
            raise _refused(f"{size} bytes in one of {len(memory)}")
        return Buffer(frame.key, -1, memory, size=size, on_release=lambda one: self._on_release(one.key))

    def close(self) -> None:
        """Lets go of the memory: it is gone once nobody holds a buffer in it."""
        self._memory.clear()

    def _map(self, key: int, descriptor: int, capacity: int, *, size: int) -> None:
        if self._is_strict:
            self._check(key, descriptor, capacity, size=size)
        try:
            self._memory[key] = mmap.mmap(descriptor, capacity, access=self._access(descriptor))
        except (OSError, OverflowError, ValueError) as exc:
            raise _refused(str(exc)) from exc

    def _access(self, descriptor: int) -> int:
        """Returns how to map: a job may write its answer into what its parent lends it; a parent only reads."""
        is_writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        return mmap.ACCESS_WRITE if is_writable and not self._is_strict else mmap.ACCESS_READ

    def _check(self, key: int, descriptor: int, capacity: int, *, size: int) -> None:
        if key in self._memory:
            raise _refused(f"number {key} came twice")
        if len(self._memory) >= MAX_MAPPINGS:
            raise _refused(f"more than {MAX_MAPPINGS}")
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            page = os.fstatvfs(descriptor).f_bsize
        except OSError:
            raise _refused("it is no memory") from None  # of a file or a socket
        if not seals & fcntl.F_SEAL_SHRINK:
            raise _refused("its size is not sealed, so the job could take it away while it is read")
        if page != PAGE:
            raise _refused("it is of huge pages, of which a read may find none")
        status = os.fstat(descriptor)
        if capacity <= 0 or capacity % PAGE or capacity != status.st_size:
            raise _refused(f"{capacity} bytes are not its size")
        if capacity + sum(len(one) for one in self._memory.values()) > self._limit_bytes:
            raise _refused(f"a job's may hold {self._limit_bytes} bytes here, and these are more")
        if status.st_blocks * _BLOCK < min(size, capacity):
            raise _refused(f"{size} bytes are in it, it says, and not so many were written")


def _refused(why: str) -> BufferRefused:
    return BufferRefused("a buffer cannot be used", why=why)
