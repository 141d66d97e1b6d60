"""Why there is no connection, in one line for each cause."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from clouddeploy_runtime import kit, tls
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.client import diagnosis
from clouddeploy_runtime.client.diagnosis import Diagnosis, cause
from clouddeploy_runtime.errors import ConnectionFailed

from tests.integration.federation import SERVER, Authority

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


def test_a_server_hears_what_a_site_has_against_its_certificate(authority, tmp_path):
    """By an alert; gRPC would only hang up, and the server's log would say nothing."""
    stranger = Authority(tmp_path / "theirs", port=authority.port)
    stranger.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = stranger.folder / SERVER / "startup"
    context.load_cert_chain(own / "server.crt", own / "server.key")
    heard = []

    def listen(listener):
        for _ in range(2):
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except ssl.SSLError as exc:
                    heard.append(exc.reason)

    with socket.create_server(("127.0.0.1", authority.port)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        assert "another authority" in cause(of(authority))
        thread.join(5)
    assert len(heard) == 1
    assert "ALERT" in heard[0]


def answering(listener, heard, answer):
    """Take one connection: keep what it says, then answer a piece at a time for as long as it is there."""
    with contextlib.suppress(OSError):
        link, _ = listener.accept()
        with link:
            heard.append(link.recv(4096))
            for piece in answer:
                link.sendall(piece)
                time.sleep(0.02)


@contextlib.contextmanager
def a_proxy(site, answer, user=""):
    """A proxy on this machine that says the same to everybody; yields what it hears."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"{user}127.0.0.1:{listener.getsockname()[1]}"
        (site.local / "comm_config.json").write_text(f'{{"proxy": "http://{address}"}}')
        thread = threading.Thread(target=answering, args=(listener, heard, answer))
        thread.start()
        yield heard
        thread.join(5)


def test_a_proxy_gets_the_name_and_password_in_its_url(authority):
    authority.host = "server.invalid"
    site = of(authority)
    with a_proxy(site, [b"HTTP/1.1 403 No\r\n\r\n"], user="ann:p%40ss@") as heard:
        assert "it answers 'HTTP/1.1 403 No'" in cause(site)
    assert b"\r\nProxy-Authorization: Basic YW5uOnBAc3M=\r\n" in heard[0]


def test_a_look_ends_however_slowly_somebody_answers(authority):
    authority.host = "server.invalid"
    site, began = of(authority), time.monotonic()
    with a_proxy(site, [b"x"] * 1000):
        assert "does not answer: timed out" in cause(site, whole_s=0.3)
        assert time.monotonic() - began < 2


def test_an_admin_is_told_the_cause_within_the_timeout(authority, tmp_path):
    stranger = Authority(tmp_path / "theirs", port=authority.port)
    admin = kit.load(stranger.admin("ann", "lead"))
    began = time.monotonic()
    with running(authority):
        other = pytest.raises(ConnectionFailed, match=r"issued by another authority .* than this kit's rootCA\.pem")
        with other, AdminSession(admin, timeout_s=1):
            pass
    assert time.monotonic() - began < 3
