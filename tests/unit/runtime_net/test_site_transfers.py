"""What a site fetches is what its server announced, whatever happened between two parts of it."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest
from clouddeploy_runtime.client import transfer
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.wire import blobs


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
