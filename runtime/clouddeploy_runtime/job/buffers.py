"""Shared memory for tensors: made once, passed as a file descriptor, used again and again.

Fresh pages cost more than TLS and gRPC together, so a buffer that was released is preferred over a new one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.job.messages import Frame

PAGE = mmap.PAGESIZE
WASTE = 4
"""A free buffer up to so many times too large is reused; beyond that a small one would pin a large one's memory."""


class Buffer:
    """One piece of shared memory.

    Attributes:
        key: its number at its owner.
        size: bytes in use.
        view: writable, at least `size` bytes long.
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

    def release(self) -> None:
        """Gives the buffer back to its owner; the second call does nothing."""
        if self._is_held:
            self._is_held = False
            self._on_release(self)

    def take(self, size: int) -> None:
        """Marks a free buffer as used for `size` bytes."""
        self._is_held = True
        self.size = size


class BufferPool:
    """Makes buffers and gives released ones again; safe for several threads.

    Args:
        budget_bytes: how much shared memory may exist at once; beyond it buffers are unlinked files in the temporary
            directory, which costs speed and no memory.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._buffers: dict[int, Buffer] = {}
        self._free: set[int] = set()
        self._lock = threading.Lock()
        self._next = 1

    def acquire(self, size: int) -> Buffer:
        """Returns a buffer of at least `size` bytes; whoever holds it releases it."""
        with self._lock:
            fitting = [
                self._buffers[key]
                for key in self._free
                if size <= self._buffers[key].capacity <= max(PAGE, size * WASTE)
            ]
            if fitting:
                buffer = min(fitting, key=lambda one: one.capacity)
                self._free.discard(buffer.key)
                buffer.take(size)
                return buffer
            return self._make(size)

    def release(self, key: int) -> None:
        """Takes back the buffer of that key, which another process has finished with."""
        buffer = self._buffers.get(key)
        if buffer is not None:
            buffer.release()

    def close(self) -> None:
        """Gives all memory back; buffers must not be used afterwards."""
        with self._lock:
            for buffer in self._buffers.values():
                os.close(buffer.fd)
            self._buffers.clear()
            self._free.clear()

    def _make(self, size: int) -> Buffer:
        capacity = max(PAGE, -(-size // PAGE) * PAGE)
        in_memory = sum(one.capacity for one in self._buffers.values() if not one.is_file)
        is_file = in_memory + capacity > self._budget
        if is_file:
            descriptor, path = tempfile.mkstemp(prefix="clouddeploy-buffer-")
            os.unlink(path)  # noqa: PTH108 - it must vanish with the last process that maps it
        else:
            descriptor = os.memfd_create("clouddeploy-buffer", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, capacity)
        memory = mmap.mmap(descriptor, capacity)
        buffer = Buffer(self._next, descriptor, memory, size=size, on_release=self._take_back, is_file=is_file)
        self._buffers[self._next] = buffer
        self._next += 1
        return buffer

    def _take_back(self, buffer: Buffer) -> None:
        with self._lock:
            if buffer.key in self._buffers:
                self._free.add(buffer.key)


class Mappings:
    """The receiver's side: maps each of the other's buffers once."""

    def __init__(self, on_release: Callable[[int], None]) -> None:
        self._memory: dict[int, mmap.mmap] = {}
        self._on_release = on_release

    def buffer_of(self, frame: Frame, descriptors: list[int]) -> Buffer | None:
        """Returns the buffer that belongs to a frame's message, if any; a descriptor comes with its first use."""
        if frame.key is None:
            return None
        key = frame.key
        if descriptors:
            self._memory[key] = mmap.mmap(descriptors[0], frame.capacity)
            os.close(descriptors[0])
        size = getattr(frame.message, "size", 0)
        return Buffer(key, -1, self._memory[key], size=size, on_release=lambda one: self._on_release(one.key))
