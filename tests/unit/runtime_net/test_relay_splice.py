"""A relay's splice: bytes through, either end's end, and nothing kept of who is gone."""

import asyncio
import contextlib
import os

from clouddeploy_runtime.relay.splice import Splice

PIECE = os.urandom(3 << 20)


@contextlib.asynccontextmanager
async def echo():
    """Serves what comes back as it came."""

    async def answer(reader, writer):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def spliced(port, **options):
    splice = Splice("127.0.0.1", port, **options)
    await splice.listen("127.0.0.1", 0)
    try:
        yield splice
    finally:
        await splice.close()


@contextlib.asynccontextmanager
async def connected(splice):
    reader, writer = await asyncio.open_connection("127.0.0.1", splice.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_turned_away(reader):
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(1) == b""


def run(work):
    return asyncio.run(asyncio.wait_for(work(), 10))


async def gone(splice):
    while splice.connections:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)


def test_what_one_end_says_the_other_hears():
    async def work():
        async with echo() as port, spliced(port) as splice:
            async with connected(splice) as (reader, writer):
                writer.write(PIECE)
                writer.write_eof()
                assert await reader.read(-1) == PIECE
            await gone(splice)

    run(work)


def test_whoever_comes_while_the_other_end_is_down_is_turned_away_and_may_come_again():
    async def work():
        async with echo() as port:
            pass  # it has a port, and does not listen any more
        async with spliced(port) as splice:
            async with connected(splice) as (reader, _):
                await is_turned_away(reader)
            await gone(splice)

    run(work)


def test_no_more_than_so_many_are_passed_on():
    async def work():
        async with (
            echo() as port,
            spliced(port, max_connections=1) as splice,
            connected(splice) as (reader, writer),
        ):
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            async with connected(splice) as (second, _):
                await is_turned_away(second)
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"

    run(work)


def test_the_end_of_the_relay_is_the_end_of_its_connections():
    async def work():
        async with echo() as port, contextlib.AsyncExitStack() as client:
            async with spliced(port) as splice:
                reader, writer = await client.enter_async_context(connected(splice))
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            await is_turned_away(reader)

    run(work)
