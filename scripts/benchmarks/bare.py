"""One process of a transfer without a federation: `bare.py PROTOCOL KIT PORT BYTES`; `limits.py` starts three.

The kit says whether it is the server or a client, and its certificates are used as in a federation. A client reads a
line, takes the model, sends it back, and writes a line; for ever. All buffers are made once, of shared memory, and
filled before the first line is written, so that no page is new in a round.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clouddeploy_runtime.kit import Kit

DOWN, UP = "/bare.Blobs/Down", "/bare.Blobs/Up"
PIECE_BYTES = 1 << 20
CLIENTS = 2
LISTENS, READY, GO = "listens", "ready", "go"


def shared_memory(size: int, *, fill: int) -> memoryview:
    """Return memory as it is shared between processes, every page of it there."""
    view = memoryview(mmap.mmap(-1, size))
    for start in range(0, size, PIECE_BYTES):
        view[start : start + PIECE_BYTES] = bytes([fill]) * len(view[start : start + PIECE_BYTES])
    return view


def pieces(view: memoryview) -> Iterator[memoryview]:
    """Yield a blob in pieces of 1 MiB."""
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def say(word: str) -> None:
    """Tell whoever started this process."""
    print(word, flush=True)


def check(view: memoryview, *, received: int, fill: int) -> None:
    """Refuse a blob that is not whole; a time of one would be none.

    Raises:
        SystemExit: it is shorter than it has to be, or not what was sent.
    """
    if received != len(view) or {view[0], view[received // 2], view[-1]} != {fill}:
        sys.exit(f"{received} of {len(view)} bytes came, or others than were sent")


# gRPC: generic handlers without serialisers, so that bytes stay bytes


async def send(view: memoryview) -> AsyncIterator[bytes]:
    """Yield a blob as messages."""
    for piece in pieces(view):
        yield bytes(piece)


async def receive(messages: Any, view: memoryview) -> int:
    """Write messages into a buffer; return how many bytes came."""
    position = 0
    async for message in messages:
        view[position : position + len(message)] = message
        position += len(message)
    return position


async def serve_grpc(kit: Kit, port: int, size: int) -> None:
    """Give the model to whoever asks, and take one back into the buffer of this client."""
    import grpc  # noqa: PLC0415 - the other protocol does without
    from clouddeploy_runtime import tls  # noqa: PLC0415
    from clouddeploy_runtime.wire.rpc import SERVER_OPTIONS  # noqa: PLC0415

    model = shared_memory(size, fill=7)
    answers = [shared_memory(size, fill=1) for _ in range(CLIENTS)]
    free = list(answers)

    async def down(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        async for message in send(model):
            yield message

    async def up(messages: Any, _context: Any) -> bytes:
        answer = free.pop()
        check(answer, received=await receive(messages, answer), fill=7)
        free.append(answer)
        return b""

    handlers = {
        DOWN.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(down),
        UP.rpartition("/")[2]: grpc.stream_unary_rpc_method_handler(up),
    }
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(DOWN.split("/")[1], handlers),))
    server.add_secure_port(f"127.0.0.1:{port}", tls.server_credentials(kit))
    await server.start()
    say(LISTENS)
    await server.wait_for_termination()


async def take_grpc(kit: Kit, port: int, size: int) -> None:
    """Take the model and send it back, once for each line."""
    import grpc  # noqa: PLC0415 - the other protocol does without
    from clouddeploy_runtime import tls  # noqa: PLC0415

    own = shared_memory(size, fill=2)
    credentials, options = tls.channel_credentials(kit), tls.channel_options(kit)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        await channel.channel_ready()
        down, up = channel.unary_stream(DOWN), channel.stream_unary(UP)
        say(READY)
        while await asyncio.to_thread(sys.stdin.readline):
            check(own, received=await receive(down(b""), own), fill=7)
            await up(send(own))
            say(READY)


# TLS alone: a stream of bytes, and both ends know how many


def context(kit: Kit, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return what both sides need to trust each other by the certificates of their kits."""
    made = ssl.create_default_context(purpose, cafile=str(kit.root_cert_file))
    made.load_cert_chain(kit.cert_file, kit.key_file)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def fill_from(line: ssl.SSLSocket, view: memoryview) -> int:
    """Read until a buffer is full or the line ends; return how many bytes came."""
    position = 0
    while position < len(view):
        count = line.recv_into(view[position : position + PIECE_BYTES])
        if count == 0:
            break
        position += count
    return position


def serve_tls(kit: Kit, port: int, size: int) -> None:
    """Send the model and take one back, once for each byte of a client; a thread for each."""
    secure = context(kit, ssl.Purpose.CLIENT_AUTH)
    model = shared_memory(size, fill=7)
    answers = [shared_memory(size, fill=1) for _ in range(CLIENTS)]

    def attend(raw: socket.socket, answer: memoryview) -> None:
        with secure.wrap_socket(raw, server_side=True) as line:
            while line.recv(1):
                for piece in pieces(model):
                    line.sendall(piece)
                check(answer, received=fill_from(line, answer), fill=7)
                line.sendall(b".")

    with socket.create_server(("127.0.0.1", port)) as listener:
        say(LISTENS)
        for answer in answers:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=attend, args=(raw, answer)).start()


def take_tls(kit: Kit, port: int, size: int) -> None:
    """Take the model and send it back, once for each line."""
    own = shared_memory(size, fill=2)
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context(kit, ssl.Purpose.SERVER_AUTH).wrap_socket(raw, server_hostname=kit.server_name) as line,
    ):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        say(READY)
        while sys.stdin.readline():
            line.sendall(b".")
            check(own, received=fill_from(line, own), fill=7)
            for piece in pieces(own):
                line.sendall(piece)
            line.recv(1)
            say(READY)


def main() -> None:
    """Run until ended."""
    from clouddeploy_runtime import kit as kits  # noqa: PLC0415

    protocol, folder, port, size = sys.argv[1:]
    kit = kits.load(Path(folder))
    is_server = kit.kind is kits.Kind.SERVER
    if protocol == "grpc":
        asyncio.run((serve_grpc if is_server else take_grpc)(kit, int(port), int(size)))
    else:
        (serve_tls if is_server else take_tls)(kit, int(port), int(size))


if __name__ == "__main__":
    main()
