"""Connections: who only holds them keeps nobody else out, and nobody takes their time over a request."""

import json
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress

import anyio
import httpx2
import pytest
from clouddeploy_rehearsal.probe import until
from starlette.responses import PlainTextResponse

from clouddeploy.dashboard import identity
from clouddeploy.dashboard.web import addresses, connections, streaming
from clouddeploy.dashboard.web.asking import Stream
from clouddeploy.dashboard.web.connections import Bounds, Listener, Server
from clouddeploy.dashboard.web.guard import Guard
from tests.unit.dashboard.visitors import ADMIN, API, PASSWORD

STRANGER, SOMEBODY = "127.0.0.3", "127.0.0.2"
QUICK = Bounds(handshake_s=0.2, head_s=0.2, body_s=0.2)


@contextmanager
def served(world, *, bounds=None, proxies=(), known=None, app=None):
    """Yields the port at which a dashboard is served, and its listener."""
    began = threading.Event()
    with Listener(socket.AF_INET) as listener:
        listener.limit(bounds or Bounds(), addresses.networks(proxies))
        listener.bind(("127.0.0.1", 0))
        server = Server(app or world.app, began.set, bounds=bounds or Bounds(), identity=known)
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
    found = bytearray()
    try:
        while part := one.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return bytes(found)


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


LARGE, HELD = 4 << 20, 1 << 16
"""Bytes of an answer, and about as many as the system holds of it at each end."""
SLOW = Bounds(handshake_s=0.2, head_s=0.2, answer_s=0.5, answer_bytes=1 << 20)


async def large(scope, receive, send):
    await PlainTextResponse(bytes(LARGE))(scope, receive, send)


def trusting(world):
    known = identity.identity(world.desk.folder, hosts=["127.0.0.1"], now=world.clock())
    return known, ssl.create_default_context(cafile=str(known.cert))


@contextmanager
def asked(world, *, is_tls, bounds, more=b""):
    """Yields a connection over which a large answer comes, and the listener."""
    known, trusted = trusting(world) if is_tls else (None, None)
    with served(world, bounds=bounds, known=known, app=large) as (port, listener), socket.socket() as plain:
        for end, option in ((listener, socket.SO_SNDBUF), (plain, socket.SO_RCVBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, HELD)
        plain.settimeout(5)
        plain.connect(("127.0.0.1", port))
        one = trusted.wrap_socket(plain, server_hostname="127.0.0.1") if is_tls else plain
        with one:
            one.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + more + b"\r\n")
            yield one, listener


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_who_does_not_take_an_answer_is_cut_off(world, is_tls, more):
    with asked(world, is_tls=is_tls, bounds=SLOW, more=more) as (_, listener):
        until(lambda: listener._held, timeout_s=5)
        until(lambda: not listener._held, timeout_s=5)


def test_so_is_who_takes_it_in_drips(world):
    with asked(world, is_tls=False, bounds=SLOW) as (one, listener):
        until(lambda: listener._held, timeout_s=5)

        def is_over():
            with suppress(ConnectionResetError):
                one.recv(1000)
            return not listener._held

        until(is_over, timeout_s=5)


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_who_takes_longer_over_an_answer_than_over_anything_else_gets_all_of_it(world, is_tls, more):
    quick = Bounds(handshake_s=0.2, head_s=0.2)
    with asked(world, is_tls=is_tls, bounds=quick, more=more) as (one, listener):
        until(lambda: listener._open and all(each.is_behind for each in listener._open.values()), timeout_s=5)
        end = time.monotonic() + 0.8
        until(lambda: time.monotonic() > end)
        assert len(read(one).partition(b"\r\n\r\n")[2]) == LARGE


def test_connections_that_are_refused_one_after_the_other_leave_requests_their_turn(world, monkeypatch):
    monkeypatch.setattr(connections, "_REFUSED_AT_ONCE", 2)
    with Listener(socket.AF_INET) as listener, ExitStack() as open_ones:
        listener.limit(Bounds(per_address=0))
        listener.bind(("127.0.0.1", 0))
        listener.listen(10)
        for _ in range(3):
            open_ones.enter_context(connect(listener.getsockname()[1], STRANGER))
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.limit(Bounds())
        listener.accept()[0].close()


def test_tls_1_2_has_authenticated_encryption_only(world):
    known, trusted = trusting(world)
    trusted.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        served(world, known=known) as (port, _),
        connect(port, SOMEBODY) as plain,
        trusted.wrap_socket(plain, server_hostname="127.0.0.1") as one,
    ):
        assert one.cipher()[0].startswith("ECDHE-")
        assert "GCM" in one.cipher()[0] or "CHACHA20" in one.cipher()[0]


def test_requests_that_are_none_do_not_fill_the_log(world, caplog):
    with served(world) as (port, _):
        assert answer(port, STRANGER, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
        assert answer(port, STRANGER, upgrade).startswith(b"HTTP/1.1 ")
    assert not caplog.records


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
