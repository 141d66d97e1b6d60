"""SSH opens to the address that this machine is seen from, and when that is not certain, to nobody."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import caller_address
from clouddeploy.errors import ConfigError


@pytest.fixture
def source():
    """Starts a service that answers with a text, and returns its address."""
    servers = []

    def source(text):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield source
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(*sources):
    with pytest.raises(ConfigError) as caught:
        caller_address.detect(sources)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "ssh_sources" in caught.value.hint
    return str(caught.value)


def test_two_services_that_agree(source):
    assert caller_address.detect((source("203.0.113.7\n"), source("203.0.113.7"))) == "203.0.113.7"


def test_two_services_that_see_different_addresses(source):
    assert "203.0.113.7 and 203.0.113.8" in refusal(source("203.0.113.7"), source("203.0.113.8"))


def test_a_service_that_does_not_answer(source):
    assert "cannot find out" in refusal(source("203.0.113.7"), "http://127.0.0.1:9/")


@pytest.mark.parametrize("text", ["", "<html>sign in to the hotel</html>", "0.0.0.0/0", "203.0.113.7, 203.0.113.8"])
def test_an_answer_that_is_no_address(source, text):
    """A captive portal answers anything; the whole internet is never the consequence."""
    assert "cannot find out" in refusal(source("203.0.113.7"), source(text))


def test_the_services_that_are_asked_are_two_and_use_https():
    assert len(set(caller_address.SOURCES)) == 2
    assert all(one.startswith("https://") for one in caller_address.SOURCES)
