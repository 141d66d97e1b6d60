import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from clouddeploy_providers.azure.transport import Session
from clouddeploy_rehearsal.azure.certificate import make_context

URL = "https://management.azure.com/subscriptions"


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Sets variables; those of the machine that the tests run on are gone."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch.setenv


def settings(session, *, url=URL, proxies=None, verify=True):
    return session.settings(url, proxies=proxies, verify=verify)


def test_the_environment_names_the_proxy_and_what_needs_none(environment):
    environment("HTTPS_PROXY", "http://proxy:3128")
    environment("NO_PROXY", "login.example")
    session = Session()
    assert settings(session)["proxies"]["https"] == "http://proxy:3128"
    assert "https" not in settings(session, url="https://login.example/token")["proxies"]


def test_the_environment_is_read_once_per_host(environment):
    session = Session()
    settings(session)
    environment("HTTPS_PROXY", "http://proxy:3128")
    assert "https" not in settings(session)["proxies"]
    assert "https" in settings(session, url="https://elsewhere.example/")["proxies"]


def test_a_proxy_that_was_given_comes_first(environment):
    environment("HTTPS_PROXY", "http://proxy:3128")
    assert settings(Session(), proxies={"https": "http://other:1"})["proxies"]["https"] == "http://other:1"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environment_may_name_the_authorities_unless_a_file_was_given(environment, name):
    environment(name, "/ca.pem")
    assert settings(Session())["verify"] == "/ca.pem"
    assert settings(Session(), verify="/mine.pem")["verify"] == "/mine.pem"


class Echo(BaseHTTPRequestHandler):
    """Answers with what was asked, as JSON."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = {"headers": dict(self.headers), "body": body.decode(), "method": self.command}
        answer = gzip.compress(json.dumps(seen).encode())
        self.send_response(200)
        for name, value in (("Content-Encoding", "gzip"), ("Set-Cookie", "a=b"), ("Content-Length", len(answer))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_DELETE = do_GET  # noqa: N815 - as the server calls them

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def echo(environment):
    """A server; the session sends to it as to Azure, without TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    session = Session()
    session.mount("http://", session.get_adapter("https://"))
    yield lambda method, **given: session.request(method, f"http://127.0.0.1:{server.server_port}/a?b=c", **given)
    session.close()
    server.shutdown()
    server.server_close()


def test_what_the_sdk_wrote_is_sent_as_it_is(echo):
    sent = echo("PUT", data='{"name": "ü"}', headers={"Authorization": "Bearer token"}).json()
    assert sent["method"] == "PUT"
    assert sent["body"] == '{"name": "ü"}'
    assert sent["headers"]["Authorization"] == "Bearer token"


@pytest.mark.parametrize(("method", "length"), [("GET", None), ("DELETE", "0"), ("PUT", "0")])
def test_a_request_without_a_body_says_so_where_it_might_have_one(echo, method, length):
    assert echo(method).json()["headers"].get("Content-Length") == length


def test_one_connection_serves_request_after_request_and_no_cookie_is_kept(echo):
    answers = [echo("GET").json()["headers"] for _ in range(3)]
    assert all("Cookie" not in headers for headers in answers)


def test_a_stream_is_read_by_whoever_asked_for_it(echo):
    assert echo("GET", stream=True).raw.read(1)


def test_redirects_and_files_are_refused(echo):
    with pytest.raises(TypeError):
        echo("PUT", files={"a": b"b"})


def test_a_password_in_netrc_does_not_replace_the_token(environment, echo, tmp_path):
    environment("NETRC", str(tmp_path / ".netrc"))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    sent = echo("GET", headers={"Authorization": "Bearer token"})
    assert sent.json()["headers"]["Authorization"] == "Bearer token"


@pytest.fixture
def trusted(environment, tmp_path):
    """A TLS server of an authority that nobody else knows, at `localhost`."""
    context, ca_file = make_context(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    session = Session()
    yield session, server.server_port, str(ca_file)
    session.close()
    server.shutdown()
    server.server_close()


def test_only_a_server_of_the_authority_that_was_named_is_spoken_to(trusted):
    session, port, ca_file = trusted
    assert session.request("GET", f"https://localhost:{port}/", verify=ca_file).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        session.request("GET", f"https://localhost:{port}/", verify=True)


def test_a_server_of_another_name_is_not_spoken_to(trusted):
    session, port, ca_file = trusted
    with pytest.raises(requests.exceptions.SSLError):
        session.request("GET", f"https://127.0.0.1:{port}/", verify=ca_file)


def test_nobody_switches_the_verification_off(trusted):
    session, port, _ca_file = trusted
    with pytest.raises(ValueError, match="always verified"):
        session.request("GET", f"https://localhost:{port}/", verify=False)
