"""What is asked of a service before it counts as ready, over real sockets."""

import contextlib
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clouddeploy_providers.errors import DeadlineExceeded
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clouddeploy import readiness
from clouddeploy.readiness import Question, Supervised

SERVES = Supervised(is_serving=True)


def issued(folder, name, *, issuer=None):
    """Makes key and certificate; by itself, or by another that is no authority and is not known to anybody."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    parent, parent_key = issuer or (subject, key)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(parent_key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{name}.pem"
    file.write_bytes(pem + private)
    return file, pem.decode(), (subject, key)


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def serving(file=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.handle_error = lambda *_: None  # a client that leaves is the point of some of these tests
    if file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Question("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(question):
    """Asks once; returns what was wrong."""
    try:
        why = readiness.wait_service(question, lambda: SERVES, timeout_s=0, cancel=threading.Event())
    except DeadlineExceeded as error:
        return error.why
    assert why == ""
    return ""


def test_one_that_accepts_connections_and_one_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        question = Question("127.0.0.1", listening.getsockname()[1])
        assert asked(question) == ""
    assert "refused" in asked(question)


def test_over_http_a_page_counts_and_an_error_does_not():
    with serving() as there:
        assert asked(replace(there, path="/healthz")) == ""
        assert asked(replace(there, path="/other")) == "GET /other is answered with 503"


def test_its_own_certificate_proves_it_and_no_other_does(tmp_path):
    file, mine, _ = issued(tmp_path, "mine")
    _, other, _ = issued(tmp_path, "other")
    with serving(file) as there:
        assert asked(replace(there, certificate=mine)) == ""
        assert asked(replace(there, certificate=mine, path="/healthz")) == ""
        assert asked(replace(there, certificate=mine, path="/x")) == "GET /x is answered with 503"
        assert "CERTIFICATE_VERIFY_FAILED" in asked(replace(there, certificate=other, path="/healthz"))


def test_what_its_certificate_has_issued_is_not_its_certificate(tmp_path):
    _, mine, identity = issued(tmp_path, "mine")
    file, _, _ = issued(tmp_path, "below", issuer=identity)
    with serving(file) as there:
        assert asked(replace(there, certificate=mine)) != ""


def test_one_that_somebody_else_has_issued_counts_by_itself(tmp_path):
    _, _, identity = issued(tmp_path, "authority")
    file, mine, _ = issued(tmp_path, "mine", issuer=identity)
    with serving(file) as there:
        assert asked(replace(there, certificate=mine, path="/healthz")) == ""


def test_one_without_tls_does_not_prove_itself(tmp_path):
    _, mine, _ = issued(tmp_path, "mine")
    with serving() as there:
        assert asked(replace(there, certificate=mine)) != ""


@pytest.mark.parametrize("is_taken", [False, True], ids=["nobody answers", "another one does"])
def test_one_that_has_given_up_is_not_waited_for(is_taken):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        question = Question("127.0.0.1", listening.getsockname()[1])
        if not is_taken:
            listening.close()
        given_up = Supervised(is_serving=False, failed="it was given up")
        why = readiness.wait_service(question, lambda: given_up, timeout_s=60, cancel=threading.Event())
    assert why == "it was given up"


def test_another_program_that_answers_on_its_port_is_not_the_service():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        question = Question("127.0.0.1", listening.getsockname()[1])
        starting = Supervised(is_serving=False, detail="it does not listen on port 80")
        with pytest.raises(DeadlineExceeded) as late:
            readiness.wait_service(question, lambda: starting, timeout_s=0, cancel=threading.Event())
    assert late.value.why == "what answers is not the service: it does not listen on port 80"
