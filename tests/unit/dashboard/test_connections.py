"""Connections: who only holds them keeps nobody else out, and nobody takes their time over a request."""

import json
import socket
import ssl
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager

import anyio
import httpx2
import pytest
from clouddeploy_rehearsal.probe import until
from starlette.responses import PlainTextResponse

from clouddeploy.dashboard import identity
from clouddeploy.dashboard.web import addresses, streaming
from clouddeploy.dashboard.web.asking import Stream
from clouddeploy.dashboard.web.connections import Bounds, Listener, Server
from clouddeploy.dashboard.web.guard import Guard
from tests.unit.dashboard.visitors import ADMIN, API, PASSWORD

STRANGER, SOMEBODY = "127.0.0.3", "127.0.0.2"
QUICK = Bounds(handshake_s=0.2, head_s=0.2, body_s=0.2)


@contextmanager
def served(world, *, bounds=None, proxies=(), known=None):
    """Yields the port at which a dashboard is served, and its listener."""
    began = threading.Event()
    with Listener(socket.AF_INET) as listener:
        listener.limit(bounds or Bounds(), addresses.networks(proxies))
        listener.bind(("127.0.0.1", 0))
        server = Server(world.app, began.set, bounds=bounds or Bounds(), identity=known)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert began.wait(10)
            yield listener.getsockname()[1], listener
        finally:
            server.should_exit = True
            thread.join()


def connect(port, address):
    return socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(address, 0))


def answer(port, address, request):
    """What comes back until the other end closes."""
    with connect(port, address) as one:
        one.sendall(request)
        return read(one)


def read(one):
    found = b""
    try:
        while part := one.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def logs_in(port, address):
    body = json.dumps({"email": ADMIN, "password": PASSWORD}).encode()
    head = f"POST {API}/login HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    return answer(port, address, request).startswith(b"HTTP/1.1 200")


def test_hundreds_of_idle_connections_of_one_address_keep_no_login_of_another_out(world):
    with served(world) as (port, _), ExitStack() as open_ones:
        for _ in range(300):
            open_ones.enter_context(connect(port, STRANGER))
        assert logs_in(port, SOMEBODY)
        assert answer(port, STRANGER, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") == b""


def test_so_do_hundreds_of_many_addresses_together(world):
    with served(world, bounds=Bounds(per_address=20, in_all=60)) as (port, listener), ExitStack() as open_ones:
        for number in range(200):
            open_ones.enter_context(connect(port, f"127.0.1.{number % 5 + 1}"))
        until(lambda: listener._held.total() >= 50, timeout_s=5)
        assert logs_in(port, SOMEBODY)


def test_a_connection_that_ends_makes_room_for_another(world):
    with served(world, bounds=Bounds(per_address=2)) as (port, listener):
        for _ in range(6):
            assert logs_in(port, SOMEBODY)
        until(lambda: not listener._held, timeout_s=5)


def test_connections_of_a_trusted_proxy_are_not_counted_as_one_persons(world):
    with served(world, bounds=Bounds(per_address=2), proxies=[STRANGER]) as (port, _), ExitStack() as open_ones:
        for _ in range(10):
            open_ones.enter_context(connect(port, STRANGER))
        assert logs_in(port, STRANGER)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: 127.0", b"G"])
def test_a_head_that_does_not_end_is_cut_off(world, sent):
    with served(world, bounds=QUICK) as (port, _):
        assert answer(port, SOMEBODY, sent).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips_in_is_cut_off_all_the_same(world):
    with served(world, bounds=QUICK) as (port, _), connect(port, SOMEBODY) as one:
        one.settimeout(0.02)
        found = b""
        for byte in b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100:
            try:
                one.sendall(bytes([byte]))
                found = one.recv(100)
                break
            except TimeoutError:
                continue
        assert found.startswith(b"HTTP/1.1 408 ")


def test_who_says_nothing_is_cut_off_without_a_word(world):
    with served(world, bounds=QUICK) as (port, _):
        assert answer(port, SOMEBODY, b"") == b""


def test_the_head_of_a_second_request_has_a_deadline_too(world):
    with served(world, bounds=QUICK) as (port, _):
        found = answer(port, SOMEBODY, b"GET /static/style.css HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET / HT")
        assert found.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in found


def test_a_body_that_does_not_come_is_cut_off_and_is_no_defect(world, caplog):
    head = f"POST {API}/login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += "content-length: 50\r\n\r\n{"
    with served(world, bounds=QUICK) as (port, _):
        assert answer(port, SOMEBODY, head.encode()).startswith(b"HTTP/1.1 408 ")
        with connect(port, SOMEBODY) as gone:
            gone.sendall(head.encode())
        assert answer(port, SOMEBODY, b"") == b""
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_who_never_speaks_tls_is_cut_off(world):
    known = identity.identity(world.desk.folder, hosts=["127.0.0.1"], now=world.clock())
    with served(world, bounds=QUICK, known=known) as (port, listener):
        assert answer(port, STRANGER, b"") == b""
        trusted = ssl.create_default_context(cafile=str(known.cert))
        assert httpx2.get(f"https://127.0.0.1:{port}/", verify=trusted).status_code == 200
        until(lambda: not listener._held, timeout_s=5)


def test_of_one_address_behind_a_proxy_so_many_requests_may_be_under_way():
    """The guard counts what the proxy says; the next one is told when to come again."""
    told = []

    async def scenario():
        held, begun = anyio.Event(), anyio.Event()

        async def slow(scope, receive, send):
            begun.set()
            await held.wait()
            await PlainTextResponse("done")(scope, receive, send)

        async def refused(_request, error):
            return PlainTextResponse(str(error), int(error.status), {"retry-after": str(error.retry_after_s)})

        guard = Guard(slow, is_tls=False, refused=refused, per_address=1, proxies=addresses.networks(["10.0.0.1"]))

        async def ask(address):
            scope = {"type": "http", "path": "/", "client": ("10.0.0.1", 1)}
            scope["headers"] = [(b"x-forwarded-for", address.encode())]

            async def send(message):
                if message["type"] == "http.response.start":
                    told.append((address, message["status"]))

            await guard(scope, None, send)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "192.0.2.1")
            await begun.wait()
            await ask("192.0.2.1")
            group.start_soon(ask, "192.0.2.2")
            held.set()
        await ask("192.0.2.1")

    anyio.run(scenario)
    assert told[0] == ("192.0.2.1", 429)
    assert sorted(told[1:]) == [("192.0.2.1", 200), ("192.0.2.1", 200), ("192.0.2.2", 200)]


def test_one_person_has_so_many_pages_that_keep_themselves_up_to_date():
    stream = Stream("none", revision=lambda: 1, values=dict)
    told, open_ones = [], Counter()

    async def scenario():
        left = anyio.Event()

        async def ask(person):
            async def receive():
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                if message["type"] == "http.response.start":
                    told.append((person, message["status"], dict(message["headers"]).get(b"retry-after")))

            scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
            await streaming.EventStream(stream, str, open_ones=open_ones, person=person)(scope, receive, send)

        async with anyio.create_task_group() as group:
            for _ in range(streaming.MOST):
                group.start_soon(ask, 1)
            while len(told) < streaming.MOST:
                await anyio.lowlevel.checkpoint()
            await ask(1)
            group.start_soon(ask, 2)
            while len(told) < streaming.MOST + 2:
                await anyio.lowlevel.checkpoint()
            left.set()

    anyio.run(scenario)
    assert told == [(1, 200, None)] * streaming.MOST + [(1, 429, b"10"), (2, 200, None)]
    assert not open_ones, "who has gone is not counted"
