"""Blobs arrive whole, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.tokens import fingerprint
from clouddeploy_runtime.tls import address_of
from clouddeploy_runtime.wire import blobs
from clouddeploy_runtime.wire.rpc import CHUNK_BYTES

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 128) + b"tail"


@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES, len(CONTENT)])
def test_a_blob_arrives_from_any_offset(offset):
    target = bytearray(len(CONTENT))
    landing = blobs.Landing(memoryview(target))
    asyncio.run(blobs.receive(blobs.send(CONTENT[:offset]), landing))
    asyncio.run(blobs.receive(blobs.send(CONTENT, offset=offset), landing))
    landing.check(blobs.checksum(CONTENT))
    assert bytes(target) == CONTENT


def test_a_blob_that_begins_anew_is_checked_from_its_first_byte():
    target = bytearray(len(CONTENT))
    landing = blobs.Landing(memoryview(target))
    landing.add(b"something else")
    landing.restart()
    asyncio.run(blobs.receive(blobs.send(CONTENT), landing))
    landing.check(blobs.checksum(CONTENT))
    assert bytes(target) == CONTENT


def test_messages_are_one_mebibyte():
    assert [len(chunk) for chunk in blobs.chunks(CONTENT)] == [CHUNK_BYTES, CHUNK_BYTES, 4]


def test_a_longer_blob_than_announced_is_refused():
    with pytest.raises(BlobCorrupt, match="longer"):
        asyncio.run(blobs.receive(blobs.send(CONTENT), blobs.Landing(memoryview(bytearray(10)))))


def test_a_shorter_or_changed_blob_is_refused():
    landing = blobs.Landing(memoryview(bytearray(3)))
    landing.add(b"ab")
    with pytest.raises(BlobCorrupt, match="shorter"):
        landing.check(blobs.checksum(b"abc"))
    landing.add(b"c")
    with pytest.raises(BlobCorrupt, match="changed"):
        landing.check(blobs.checksum(b"abd"))


@pytest.mark.parametrize(
    ("peer", "address"), [("ipv4:10.0.0.4:53012", "10.0.0.4"), ("ipv6:%5Bfe80::1%5D:53012", "fe80::1")]
)
def test_a_peers_address_is_read(peer, address):
    assert address_of(peer) == address


def test_a_token_is_good_for_its_own_certificate_and_until_the_next_registration():
    async def scenario():
        registry = Registry()
        first = registry.register(name="site-1", address="::1", active_jobs=set())
        assert registry.authorise(first.token, name="site-2") is None
        assert registry.authorise(first.token, name="site-1") is first
        second = registry.register(name="site-1", address="::1", active_jobs=set())
        assert registry.authorise(first.token, name="site-1") is None
        assert registry.authorise(second.token, name="site-1") is second
        registry.opened(second)
        registry.closed(first)
        assert registry.connected() == [second]
        assert second.token not in repr(second)
        assert len(fingerprint(second.token)) == 8

    asyncio.run(scenario())
