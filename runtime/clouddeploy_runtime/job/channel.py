"""The job process's end of the socket to its parent. Blocking; one thread."""

from __future__ import annotations

import math
import select
import socket
import time
from typing import TYPE_CHECKING

from clouddeploy_runtime.job.buffers import BufferPool, Mappings
from clouddeploy_runtime.job.messages import MAX_FRAME, Frame, Message, MessageTooLarge, Release, decode, encode

if TYPE_CHECKING:
    from clouddeploy_runtime.job.buffers import Buffer

BUDGET = 1 << 62
"""The parent's budget bounds the job; here every buffer is wanted at once."""


class Channel:
    """Sends and receives messages with their buffers."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.pool = BufferPool(BUDGET)
        self._sent: set[int] = set()
        self._mappings = Mappings(lambda key: self.send(Release(key)))

    def send(self, message: Message, buffer: Buffer | None = None) -> None:
        """Sends a message; the parent gives the buffer back when it has finished with it.

        A buffer that the parent has lent goes back to it with the message.

        Raises:
            MessageTooLarge: its metrics, say, are more than one packet holds.
            OSError: the parent is gone.
        """
        if buffer is None:
            self._socket.send(encode(Frame(message)))
            return
        frame = encode(Frame(message, key=buffer.key, capacity=buffer.capacity, is_yours=buffer.is_lent))
        if buffer.is_lent:
            buffer.hand_back()
            self._socket.send(frame)
        elif buffer.key in self._sent:
            self._socket.send(frame)
        else:
            socket.send_fds(self._socket, [frame], [buffer.fd])
            self._sent.add(buffer.key)

    def receive(self, *, until: float = math.inf) -> tuple[Message, Buffer | None] | None:
        """Returns the next message and its buffer; None when the parent is gone.

        Args:
            until: on the monotonic clock.

        Raises:
            TimeoutError: no message came until then.
            MessageTooLarge: one was cut off.
        """
        while True:
            wait_s = None if math.isinf(until) else max(0.0, until - time.monotonic())
            if not select.select([self._socket], [], [], wait_s)[0]:
                raise TimeoutError
            data, descriptors, flags, _address = socket.recv_fds(self._socket, MAX_FRAME, 1)
            if not data:
                return None
            if flags & socket.MSG_TRUNC:
                raise MessageTooLarge("a message of the parent was cut off", why=f"the limit is {MAX_FRAME} bytes")
            frame = decode(data)
            if isinstance(frame.message, Release):
                self.pool.release(frame.message.key)
                continue
            return frame.message, self._mappings.buffer_of(frame, descriptors)
