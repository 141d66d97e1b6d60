"""What a parent and its job process say to each other: one msgpack frame per packet of a Unix socket.

A tensor never stands in a message. The message names a shared buffer, whose file descriptor travels beside the frame
the first time and never again.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Task(msgspec.Struct, tag=True):
    """Controller → parent, and parent → trainer: do this with the parameters in the buffer."""

    task_id: str
    name: str
    round: int
    total_rounds: int
    targets: list[str]
    meta: dict[str, Any]
    size: int
    """Bytes used in the buffer, in safetensors layout."""


class Result(msgspec.Struct, tag=True):
    """Trainer → parent, and parent → controller: a site's answer to a task."""

    task_id: str
    site: str
    name: str
    round: int
    meta: dict[str, Any]
    """`samples`: int, `metrics`: dict of floats."""
    size: int


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


MAX_FRAME = 160 * 1024
"""Below the kernel's default limit for a packet of a Unix socket (net.core.wmem_default, 208 KiB)."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Frame).decode
