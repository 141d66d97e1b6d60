"""What a parent and its job process say to each other: one msgpack frame per packet of a Unix socket.

A tensor never stands in a message. The message names a shared buffer, whose file descriptor travels beside the frame
the first time and never again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from clouddeploy_runtime.errors import RuntimeFault


class MessageTooLarge(RuntimeFault):
    """A message does not fit into one packet."""

    error_code = "MESSAGE_TOO_LARGE"


Size = Annotated[int, msgspec.Meta(ge=0)]


class Task(msgspec.Struct, tag=True):
    """Controller → parent, and parent → trainer: do this with the parameters in the buffer."""

    task_id: str
    name: str
    round: int
    total_rounds: int
    targets: list[str]
    meta: dict[str, Any]
    size: Size
    """Bytes used in the buffer, in safetensors layout."""


class Result(msgspec.Struct, tag=True):
    """Trainer → parent, and parent → controller: a site's answer to a task."""

    task_id: str
    site: str
    name: str
    round: int
    meta: dict[str, Any]
    """`samples`: a number above 0, what it weighs; `metrics`: dict of floats."""
    size: Size
    """Bytes used in the buffer; 0: there is none."""


class Delivery(msgspec.Struct):
    """First message of an upload, before the bytes of the result's tensors."""

    result: Result
    checksum: str
    """Of the bytes that follow."""
    task_checksum: str
    """Of the parameters that the result is an answer to: a task that was asked again may have others."""
    offset: int = 0
    """Where the bytes that follow belong: those before are at the server."""


class Receipt(StrEnum):
    """The server's answer to a whole upload."""

    TAKEN = "taken"
    """It counts, once; or nobody waits for it any more. The site may forget it."""
    NOT_OPEN = "not open"
    """The server has not asked for it yet since it was started again; the site keeps it until it does."""
    STALE = "stale"
    """The task was asked again with other parameters."""


class SiteFailed(msgspec.Struct, tag=True):
    """Parent → controller: this site will not answer the task."""

    task_id: str
    site: str
    reason: str


class Progress(msgspec.Struct, tag=True):
    """Controller → parent: a round has ended."""

    round: int
    total_rounds: int
    metrics: dict[str, Any]


class Done(msgspec.Struct, tag=True):
    """Job process → parent: the last message."""

    status: str
    reason: str
    metrics: dict[str, Any]


class Abort(msgspec.Struct, tag=True):
    """Parent → job process: stop."""

    reason: str


class Release(msgspec.Struct, tag=True):
    """Either way: the sender needs the buffer of that key no longer; its owner may use it again."""

    key: int


Message = Task | Result | SiteFailed | Progress | Done | Abort | Release


class Frame(msgspec.Struct):
    """One packet: a message, and which buffer belongs to it."""

    message: Message
    key: int | None = None
    capacity: int = 0
    is_yours: bool = False
    """The buffer is the receiver's own, lent with an earlier message, and comes back with what it holds now."""


MAX_FRAME = 160 * 1024
"""Below the kernel's default limit for a packet of a Unix socket (net.core.wmem_default, 208 KiB)."""

decode = msgspec.msgpack.Decoder(Frame).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(frame: Frame) -> bytes:
    """Returns the packet of a frame.

    Raises:
        MessageTooLarge: it would be cut off; names the limit.
    """
    packet = _encode(frame)
    if len(packet) > MAX_FRAME:
        kind = type(frame.message).__name__
        raise MessageTooLarge(
            f"a message {kind} of {len(packet)} bytes cannot be sent",
            why=f"the limit is {MAX_FRAME} bytes, and parameters are not counted",
            hint="Send fewer or shorter metrics; what is large belongs into the parameters.",
        )
    return packet
