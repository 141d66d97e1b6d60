"""Cables pulled, processes killed and frozen, proxies in between: a site comes back by itself, or is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest
from clouddeploy_rehearsal.isolation import isolated
from clouddeploy_runtime import kit, tls
from clouddeploy_runtime.wire import rpc

from tests.integration.federation import Federation, tiny_job, until
from tests.integration.rounds import Jobs, check_completed, job, once

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network cables need root")


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    one.environment["CLOUDDEPLOY_HEARTBEAT_S"] = "1"
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture
def jobs(tmp_path):
    one = Jobs(tmp_path)
    one.environment["CLOUDDEPLOY_HEARTBEAT_S"] = "1"
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def start(one):
    one.start("server")
    one.wait_for("server", "serving")
    one.start("site-1")
    one.wait_for("site-1", "registered")


def joined(one):
    return one.log("server").count("Client: New client site-1@")


class Cable:
    """A network namespace with the address 10.77.0.2, at the end of a cable from this one, 10.77.0.1."""

    def __init__(self):
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = Path("/proc/self/ns/net").readlink()
        until(lambda: Path(f"/proc/{self._holder.pid}/ns/net").readlink() != own, what="the namespace")
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        ip("link", "add", "cable0", "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        ip("addr", "add", "10.77.0.1/24", "dev", "cable0")
        ip("link", "set", "cable0", "up")
        ip("addr", "add", "fd77::1/64", "dev", "cable0", "nodad")
        for words in (
            ("addr", "add", "10.77.0.2/24", "dev", "eth0"),
            ("addr", "add", "fd77::2/64", "dev", "eth0", "nodad"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),  # gRPC believes in IPv6 only where ::1 is
        ):
            subprocess.run([*self.enter, "ip", *words], check=True)

    def sent(self):
        """Return how many bytes went from here to the far end."""
        # Not from /sys, which is of another namespace.
        return int(Path("/proc/thread-self/net/dev").read_text().split("cable0:")[1].split()[8])

    def plug(self, state):
        ip("link", "set", "cable0", state)

    def close(self):
        self._holder.kill()
        self._holder.wait()


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@needs_root
@pytest.mark.xdist_group("world")
@pytest.mark.root
@pytest.mark.fault("cable pulled", "noticed on both sides, site comes back")
def test_a_pulled_cable_is_noticed_on_both_sides_and_the_site_is_back_after_it(federation):
    with isolated(), contextlib.closing(Cable()) as cable:
        federation.authority.host = "10.77.0.2"
        federation.prefixes["server"] = cable.enter
        federation.environment["CLOUDDEPLOY_BIND"] = ""  # every address, IPv4 and IPv6
        start(federation)
        assert "site-1@10.77.0.1 joined" in federation.log("server")
        federation.authority.host = "[fd77::2]"
        federation.start("site-2")
        until(lambda: "site-2@fd77::1 joined" in federation.log("server"), what="a client over IPv6")
        federation.stop("site-2")
        cable.plug("down")
        federation.wait_for("site-1", "connecting")
        until(lambda: "Client site-1 was silent for 3 s" in federation.log("server"), what=federation.log("server"))
        gone = "Client site-1 is gone. Total clients: 0"
        until(lambda: gone in federation.log("server"), what=federation.log("server"))
        until(lambda: "There is no way to the server" in federation.log("site-1"), what=federation.log("site-1"))
        cable.plug("up")
        federation.wait_for("site-1", "registered")
        until(lambda: joined(federation) == 2, what="a second registration")
        assert "Traceback" not in federation.log("server") + federation.log("site-1")
        for name in ("site-1", "server"):
            federation.stop(name)


@pytest.mark.nightly
@needs_root
@pytest.mark.xdist_group("world")
@pytest.mark.root
@pytest.mark.fault("cable pulled in the middle of uploads", "the rest is sent, each counts once, exact mean")
def test_uploads_whose_cable_was_pulled_go_on_where_they_stopped_and_count_once(jobs, tmp_path):
    with isolated(), contextlib.closing(Cable()) as cable:
        jobs.authority.host = "10.77.0.2"
        jobs.prefixes["server"] = cable.enter
        jobs.environment["CLOUDDEPLOY_BIND"] = ""
        for site in ("site-1", "site-2"):
            jobs.hold(site, 0)
        jobs.begin("site-1", "site-2")
        job_id = jobs.submit(job(tmp_path / "job", size=8 << 20))
        for site in ("site-1", "site-2"):
            jobs.wait_until_noted(site, "begins 0")
        before = cable.sent()
        for site in ("site-1", "site-2"):
            jobs.release(site, 0)
        until(lambda: cable.sent() > before + (4 << 20), what="the uploads")
        cable.plug("down")
        assert cable.sent() < before + (120 << 20)  # two of 64 MiB
        for site in ("site-1", "site-2"):
            jobs.wait_for(site, "connecting")
        cable.plug("up")
        check_completed(jobs, job_id, rounds=2)
        for site in ("site-1", "site-2"):
            assert jobs.noted(site) == once(2)
        assert any("goes on at byte" in jobs.log(site) for site in ("site-1", "site-2"))
        for name in list(jobs.processes):
            jobs.stop(name)


@pytest.mark.fault("server killed while idle", "sites come back")
def test_a_killed_server_is_found_again_once_it_is_back(federation):
    start(federation)
    federation.stop("server", signal.SIGKILL)
    federation.wait_for("site-1", "connecting")
    before = federation.log("server")
    federation.start("server")
    until(lambda: "Client: New client site-1@" in federation.log("server")[len(before) :], what="the site")
    federation.wait_for("site-1", "registered")


@pytest.mark.fault("client killed while idle", "gone at once, may come back")
def test_a_killed_client_is_gone_at_once_and_may_come_back(federation):
    start(federation)
    federation.stop("site-1", signal.SIGKILL)
    until(lambda: "Client site-1 is gone. Total clients: 0" in federation.log("server"), what="its end")
    federation.start("site-1")
    until(lambda: joined(federation) == 2, what="the new process")


@pytest.mark.nightly
@pytest.mark.fault("client stands still while idle", "gone soon, registers again")
def test_a_frozen_client_is_gone_soon_and_registers_again_when_it_thaws(federation):
    start(federation)
    federation.processes["site-1"].send_signal(signal.SIGSTOP)
    until(lambda: "Client site-1 was silent for 3 s" in federation.log("server"), what=federation.log("server"))
    federation.processes["site-1"].send_signal(signal.SIGCONT)
    until(lambda: joined(federation) == 2, what="the same process")
    federation.wait_for("site-1", "registered")


class Forwarder:
    """Passes connections on to a port of 127.0.0.1, after a CONNECT or not, and cuts those on which nothing comes.

    Args:
        port: where they go.
        is_proxy: wait for CONNECT first.
        idle_s: cut after so long without a byte.
        bytes_per_s: each way, after a delay of 50 ms; None: as fast as it goes.
    """

    def __init__(self, port, *, is_proxy=False, idle_s=60.0, bytes_per_s=None):
        self._port, self._is_proxy, self._idle_s, self._bytes_per_s = port, is_proxy, idle_s, bytes_per_s
        self.passed = 0
        self.asked = []
        self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(5)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        ends = [writer]
        try:
            await self._join(reader, writer, ends)
        except (OSError, asyncio.IncompleteReadError):
            return  # whom it was for, or who called, is gone
        finally:
            for one in ends:
                one.transport.abort()

    async def _join(self, reader, writer, ends):
        if self._is_proxy:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b" ")[1].decode())
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        ends.append(inner_writer)
        self._heard = time.monotonic()
        ways = [self._pass(reader, inner_writer), self._pass(inner_reader, writer), self._cut()]
        _, left = await asyncio.wait([asyncio.create_task(one) for one in ways], return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self._heard = time.monotonic()
                if self._bytes_per_s is not None:
                    self.passed += len(data)
                    await asyncio.sleep(0.05 + len(data) / self._bytes_per_s)
                writer.write(data)

    async def _cut(self):
        while (left := self._heard + self._idle_s - time.monotonic()) > 0:  # noqa: ASYNC110 - nothing happens: that is what is waited for
            await asyncio.sleep(left)
        self.cuts += 1

    def close(self):
        async def end():
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def test_a_site_goes_through_an_http_proxy_that_alone_can_resolve_the_server(federation):
    with contextlib.closing(Forwarder(federation.port, is_proxy=True)) as proxy:
        federation.authority.host = "server.invalid"
        root = federation.client_kit("site-1")
        federation.environment |= {"https_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": ""}
        start(federation)
        assert set(proxy.asked) == {f"server.invalid:{federation.port}"}
        federation.stop("site-1")
        (root / "local" / "comm_config.json").write_text('{"proxy": false}')
        federation.start("site-1")
        said = "The name server.invalid of the server cannot be resolved"
        until(lambda: said in federation.log("site-1"), what=federation.log("site-1"))


@pytest.mark.nightly
@pytest.mark.fault("link of one MB/s with 50 ms of delay", "job completes, exact mean")
def test_a_job_completes_over_a_slow_line(jobs, tmp_path):
    with contextlib.closing(Forwarder(jobs.port, bytes_per_s=1 << 20)) as line:
        jobs.authority.port = line.port
        jobs.client_kit("site-1")
        jobs.authority.port = jobs.port
        jobs.begin("site-1", "site-2")
        check_completed(jobs, jobs.submit(job(tmp_path / "job", size=1 << 17)), rounds=2)
        assert line.passed > 4 << 20  # the model, both ways, twice
        jobs.stop("site-1")


@pytest.mark.fault("HTTP proxy refuses", "named with its answer")
def test_a_proxy_that_refuses_is_named(federation):
    federation.authority.host = "server.invalid"
    root = federation.client_kit("site-1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def refuse():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        (root / "local" / "comm_config.json").write_text(json.dumps({"proxy": f"http://127.0.0.1:{port}"}))
        federation.start("site-1")
        said = f"The HTTP proxy 127.0.0.1:{port} does not lead to server.invalid:{federation.port}: it answers"
        until(lambda: said in federation.log("site-1"), what=federation.log("site-1"))
        assert "403 Forbidden" in federation.log("site-1")
        federation.stop("site-1")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


KEEPALIVE = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 1000}
WELCOME = {"grpc.http2.min_ping_interval_without_data_ms", "grpc.http2.min_recv_ping_interval_without_data_ms"}


def shortened(options):
    """The options as they are, with their times divided by sixty."""
    return [(key, KEEPALIVE.get(key, 500 if key in WELCOME else value)) for key, value in options]


@pytest.mark.fault("balancer cuts idle connections", "keepalive holds them")
def test_keepalive_brings_a_silent_connection_over_a_balancer_that_cuts_idle_ones(federation):
    server = kit.load(federation.kits["server"])
    site = kit.load(federation.client_kit("site-1"))

    async def last_word(client_options, server_options):
        ending = asyncio.Event()

        async def wait(_request, _context):
            await ending.wait()
            return b"still here"

        handler = grpc.method_handlers_generic_handler(
            rpc.FEDERATION, {"Prove": grpc.unary_unary_rpc_method_handler(wait)}
        )
        listening = grpc.aio.server(options=server_options)
        listening.add_generic_rpc_handlers((handler,))
        port = listening.add_secure_port("127.0.0.1:0", tls.server_credentials(server))
        await listening.start()
        with contextlib.closing(Forwarder(port, idle_s=2.0)) as balancer:
            options = [*client_options, *(one for one in tls.channel_options(site) if one[0].startswith("grpc.ssl"))]
            async with grpc.aio.secure_channel(
                f"127.0.0.1:{balancer.port}", tls.channel_credentials(site), options=options
            ) as channel:
                asyncio.get_running_loop().call_later(3.5, ending.set)
                try:
                    return await channel.unary_unary(rpc.PROVE)(b"", timeout=8), balancer.cuts
                except grpc.aio.AioRpcError as exc:
                    return exc.code(), balancer.cuts
                finally:
                    ending.set()
                    await listening.stop(0)

    ours = [shortened(options) for options in (rpc.CLIENT_OPTIONS, rpc.SERVER_OPTIONS)]
    assert asyncio.run(last_word(*ours)) == (b"still here", 0)
    without = [[one for one in options if "keepalive" not in one[0]] for options in ours]
    assert asyncio.run(last_word(*without)) == (grpc.StatusCode.UNAVAILABLE, 1)


@pytest.mark.fault("server's disk lost", "trainers are stopped")
def test_a_trainer_whose_job_the_server_does_not_know_any_more_is_stopped(federation, tmp_path):
    """The server's disk was lost: nothing runs on at the sites for a job that nobody can end."""
    script = "import pathlib\nimport time\n\npathlib.Path('began').touch()\nwhile True:\n    time.sleep(0.1)\n"
    start(federation)
    with federation.admin() as session:
        session.submit(tiny_job(tmp_path / "job", client=script))
    site = federation.workspace("site-1")
    until(lambda: list(site.rglob("began")), what=federation.log("site-1") + federation.log("server"))
    federation.stop("server", signal.SIGKILL)
    shutil.rmtree(federation.workspace("server") / "jobs")
    federation.start("server")
    until(lambda: "still runs what has ended here" in federation.log("server"), what=federation.log("server"))
    until(lambda: "does not run job" in federation.log("site-1"), what=federation.log("site-1"))
    until(lambda: not trainers(site), what="the trainer's end")
    assert federation.status("site-1") == "registered"


def trainers(workspace):
    """Processes that work in a folder of this workspace."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if entry.readlink().is_relative_to(workspace / "jobs"):
                found.append(entry)
    return found
