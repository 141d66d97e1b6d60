"""The way from a client's machine to the server, tried from there; this machine stands in for it."""

import json
import socket
import threading

import pytest

from clouddeploy.errors import RemoteCommandFailed, ServerNotReached
from clouddeploy.remote import egress
from clouddeploy.remote.bootstrap import Release
from clouddeploy.remote.local import LocalHost


@pytest.fixture
def host(tmp_path):
    return LocalHost(tmp_path)


@pytest.fixture
def release_to(tmp_path):
    """Returns a function that installs a kit whose server is there."""

    def release_to(**endpoint) -> Release:
        folder = tmp_path / "current/kit/local"
        folder.mkdir(parents=True)
        (folder / "endpoint.json").write_text(json.dumps(endpoint))
        return Release("digest", str(tmp_path), "python3")

    return release_to


@pytest.fixture
def unused():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock  # bound, and not listening: it stays refused


def test_a_server_that_answers_is_reached(host, release_to):
    with socket.create_server(("127.0.0.1", 0)) as server:
        egress.check(host, "site-1", release_to(host="127.0.0.1", port=server.getsockname()[1]))


def test_a_server_that_is_not_reached_is_named_with_its_port(host, release_to, unused):
    port = unused.getsockname()[1]
    with pytest.raises(ServerNotReached) as refused:
        egress.check(host, "site-1", release_to(host="127.0.0.1", port=port), timeout_s=0.1)
    error = refused.value
    assert f"site-1 cannot reach the server at 127.0.0.1:{port}" in error.what
    assert "Connection refused" in error.why
    assert f"let TCP out to 127.0.0.1:{port}" in error.hint


def test_a_place_that_is_known_here_needs_no_kit_that_says_it(host, tmp_path, unused):
    port = unused.getsockname()[1]
    with pytest.raises(ServerNotReached, match=f"127.0.0.1:{port}"):
        egress.check(host, "site-1", Release("", str(tmp_path), ""), place=("127.0.0.1", port), timeout_s=0.1)


def test_a_name_that_leads_nowhere_from_there_is_said(host, release_to):
    with pytest.raises(ServerNotReached, match=r"server\.invalid:8002"):
        egress.check(host, "site-1", release_to(host="server.invalid", port=8002), timeout_s=0.1)


def test_an_opening_that_comes_a_moment_later_is_waited_for(host, release_to, unused):
    threading.Timer(0.5, unused.listen).start()
    egress.check(host, "site-1", release_to(host="127.0.0.1", port=unused.getsockname()[1]), timeout_s=10)


def test_a_kit_that_names_no_other_place_is_not_tried(host, tmp_path, release_to):
    egress.check(host, "site-1", Release("digest", str(tmp_path), "python3"))
    egress.check(host, "site-1", release_to())


def test_a_kit_that_cannot_be_read_is_no_statement_about_the_network(host, tmp_path, release_to):
    release = release_to()
    (tmp_path / "current/kit/local/endpoint.json").write_text("{")
    with pytest.raises(RemoteCommandFailed, match="was not tried"):
        egress.check(host, "site-1", release)
