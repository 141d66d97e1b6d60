"""What a site fetches is what its server announced, whatever happened between two parts of it."""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile

import grpc
import msgspec
import pytest
from clouddeploy_runtime.client import transfer
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.wire import blobs, rpc


class Cut(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "the line is cut"


class Server:
    """A channel to one that sends what it is told to; an exception cuts the line."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.offsets = []

    def unary_stream(self, _method):
        return self._call

    async def _call(self, request, *, metadata):
        del metadata
        offset = msgspec.json.decode(request)["offset"]
        self.offsets.append(offset)
        for piece in self.answers.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece


def fetched(server, monkeypatch):
    monkeypatch.setattr(transfer, "_RETRY_S", 0)

    async def run():
        one = Transfer()
        one.connected(server, "token")
        return await one.fetch_bytes("job", "job:app", size=6, checksum=blobs.checksum(b"abcdef"))

    return asyncio.run(run())


def test_a_cut_download_goes_on_where_it_was(monkeypatch):
    server = Server([b"abc", Cut()], [b"def"])
    assert fetched(server, monkeypatch) == b"abcdef"
    assert server.offsets == [0, 3]


@pytest.mark.parametrize("rest", [b"xyz", b"xyz and more"])
def test_parts_that_do_not_fit_together_are_fetched_from_the_beginning(monkeypatch, rest):
    server = Server([b"abc", Cut()], [rest], [b"abcdef"])
    assert fetched(server, monkeypatch) == b"abcdef"
    assert server.offsets == [0, 3, 0]


def test_what_is_corrupt_in_one_piece_is_refused(monkeypatch):
    with pytest.raises(BlobCorrupt):
        fetched(Server([b"abcxyz"]), monkeypatch)
    with pytest.raises(BlobCorrupt):
        fetched(Server([b"abc", Cut()], [b"xyz"], [b"abcxyz"]), monkeypatch)


BEYOND = (2 << 30) + 3
"""Bytes that a 32-bit number with a sign does not count."""


class Long:
    """In the place of memory, or of a message, of so many bytes: where something is written is noted."""

    def __init__(self, size):
        self.size = size
        self.written = []

    def __len__(self):
        return self.size

    def __setitem__(self, place, chunk):
        self.written.append((place.start, place.stop, len(chunk)))


class NoSum:
    """A checksum of bytes that are not there."""

    def authenticate_additional_data(self, chunk):
        pass


def test_a_download_that_is_cut_beyond_two_gib_goes_on_there(monkeypatch):
    checked = []
    monkeypatch.setattr(transfer, "_RETRY_S", 0)
    monkeypatch.setattr(blobs, "_mac", NoSum)
    monkeypatch.setattr(blobs.Landing, "check", lambda one, expected: checked.append((one.position, expected)))
    server, into = Server([Long(BEYOND), Cut()], [Long(BEYOND), Cut()], [b"end"]), Long(2 * BEYOND + 3)

    async def run():
        one = Transfer()
        one.connected(server, "token")
        await one.fetch("job", "task:1", into=into, checksum="sum")

    asyncio.run(run())
    assert server.offsets == [0, BEYOND, 2 * BEYOND]
    assert into.written == [
        (0, BEYOND, BEYOND),
        (BEYOND, 2 * BEYOND, BEYOND),
        (2 * BEYOND, 2 * BEYOND + 3, 3),
    ]
    assert checked == [(2 * BEYOND + 3, "sum")]


def test_a_server_sends_what_is_left_beyond_four_gib():
    """Of a sparse file: the kernel gives pages to what is read alone."""
    size, offset = (5 << 30) + 3, (5 << 30) - rpc.CHUNK_BYTES
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"end", size - 3)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as memory, memoryview(memory) as view:
            chunks = list(blobs.chunks(view, offset=offset))
    assert [len(one) for one in chunks] == [rpc.CHUNK_BYTES, 3]
    assert chunks[1] == b"end"
