"""Why there is no connection, in one line for each cause."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from clouddeploy_runtime import kit, tls
from clouddeploy_runtime.client import diagnosis
from clouddeploy_runtime.client.diagnosis import Diagnosis, cause

from tests.integration.federation import Authority

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Authority(tmp_path / "ours", port=probe.getsockname()[1])


@contextlib.contextmanager
def running(authority):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    tls.listen(server, f"127.0.0.1:{authority.port}", kit.load(authority.server()))
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def of(authority, name="site-1"):
    return kit.load(authority.client(name))


def test_there_is_no_cause_when_all_is_well(authority):
    site = of(authority)
    with running(authority):
        assert cause(site) == ""


def test_nobody_listens(authority):
    assert cause(of(authority)) == f"Nobody listens at 127.0.0.1:{authority.port}: the server does not run"


def test_a_name_that_nobody_knows(authority):
    authority.host = "server.invalid"
    assert "The name server.invalid of the server cannot be resolved" in cause(of(authority))


def test_this_sites_certificate_has_expired_or_is_not_valid_yet(authority):
    site = of(authority)
    now = datetime.now(UTC)
    assert f"The server refuses this site's certificate: it expired on {now + DAY:%Y-%m-%d}" in cause(
        site, now=now + 2 * DAY
    )
    early = cause(site, now=now - DAY)
    assert "it is not valid yet: its time begins" in early
    assert "set the clock" in early


def test_the_servers_certificate_has_expired_or_is_not_valid_yet(authority):
    authority.validity = 10 * DAY
    site = of(authority)
    authority.validity = DAY
    with running(authority):
        assert "The server's certificate is refused: it expired on" in cause(site, now=datetime.now(UTC) + 2 * DAY)


def test_the_server_is_of_another_authority(authority, tmp_path):
    stranger = Authority(tmp_path / "theirs", port=authority.port)
    with running(authority):
        said = "The server's certificate was issued by another authority (CN=example) than this kit's rootCA.pem"
        assert cause(of(stranger)) == said


def test_the_server_trusts_another_authority_or_its_clock_is_wrong(authority, tmp_path):
    """The site's own root is the server's, its certificate is not: gRPC only hangs up."""
    stranger = Authority(tmp_path / "theirs", port=authority.port)
    site = of(stranger)
    site.root_cert_file.write_bytes(of(authority, "site-2").root_cert_file.read_bytes())
    with running(authority):
        assert cause(site) == (
            "The server refused this site's certificate: it was issued by another authority than rootCA.pem"
        )


def test_a_good_certificate_that_is_refused_hints_at_the_clocks(authority):
    authority.validity = -timedelta(minutes=1)
    site = of(authority)
    with_server_time = datetime.now(UTC) - timedelta(minutes=2)
    authority.validity = DAY
    with running(authority):
        said = cause(site, now=with_server_time)
    assert "The server refused this site's certificate, which is valid here until" in said
    assert "the clock of one of the two machines is wrong" in said


def test_another_server_of_the_project_answers(authority):
    site = of(authority)
    object.__setattr__(site, "server_name", "server2")
    with running(authority):
        assert cause(site) == "The server's certificate is for server1, not for server2"


@pytest.mark.parametrize(
    ("server", "client", "said"),
    [
        ("mtls", "tls", "The server demands a certificate in TLS (mtls)"),
        ("mtls", "clear", "The server speaks TLS, and this site's kit has connection_security clear"),
        ("clear", "mtls", "does not speak TLS"),
        ("clear", "tls", "does not speak TLS"),
        ("tls", "tls", ""),
        ("clear", "clear", ""),
    ],
)
def test_both_kits_must_have_the_same_security(authority, monkeypatch, server, client, said):
    monkeypatch.setenv("CLOUDDEPLOY_ALLOW_CLEAR", "1")
    authority.security = client
    site = of(authority)
    authority.security = server
    with running(authority):
        found = cause(site)
    assert said in found
    assert bool(said) == bool(found)


def test_a_proxy_that_hangs_up_is_named(authority):
    authority.host = "server.invalid"
    site = of(authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (site.local / "comm_config.json").write_text(f'{{"proxy": "http://127.0.0.1:{port}"}}')

        def hang_up():
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        said = cause(site)
        thread.join(5)
    assert f"The HTTP proxy 127.0.0.1:{port} does not" in said


def test_the_cause_is_news_once_and_looked_for_again_when_the_symptom_changes(authority):
    now = [0.0]
    diagnosis = Diagnosis(of(authority), clock=lambda: now[0])
    said = f"Nobody listens at 127.0.0.1:{authority.port}: the server does not run"
    assert diagnosis.find("refused") == (said, True)
    assert diagnosis.find("refused") == (said, False)
    with running(authority):
        assert diagnosis.find("refused") == (said, False)
        assert diagnosis.find("closed") == ("", True)
        now[0] += 31
        assert diagnosis.find("closed") == ("", False)
    diagnosis.reset()
    assert diagnosis.find("closed") == (said, True)


def test_a_site_that_stops_does_not_wait_for_a_cause(authority, monkeypatch):
    entered, hold = threading.Event(), threading.Event()

    def slow(*_):
        entered.set()
        hold.wait(10)
        return ""

    monkeypatch.setattr(diagnosis, "cause", slow)

    async def stopped():
        looking = asyncio.create_task(Diagnosis(kit.load(authority.client("site-9"))).look("down"))
        await asyncio.to_thread(entered.wait, 5)
        looking.cancel()

    began = time.monotonic()
    try:
        asyncio.run(stopped())
        assert time.monotonic() - began < 5
    finally:
        hold.set()
