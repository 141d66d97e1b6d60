"""What becomes of the lines that gRPC writes to file descriptor 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
from clouddeploy_runtime.handshakes import PERIOD_S, Lines, Refusals, reason

LINE = b"I1201 01:11:34.114612   11786 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
EXPIRED = LINE + b"error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired\n"
"""As grpcio 1.85.3 has it, like the other ones."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "the other side's certificate has expired"),
        ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "is not valid yet: compare the clocks"),
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "of another project's authority"),
        ("ECDSA routines:OPENSSL_internal:BAD_SIGNATURE: certificate signature failure", "of another project's"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "has shown no certificate"),
        ("HTTP_REQUEST: Invalid certificate verification context", "does not speak TLS"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "says that this server's certificate has expired"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not know the authority of this server's certificate"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "does not accept this server's certificate"),
        ("SOMETHING_NEW", "SSL_ERROR_SSL: SOMETHING_NEW"),
    ],
)
def test_reasons_are_in_plain_words(said, plain):
    assert plain in reason(f"Handshake failed with error SSL_ERROR_SSL: {said}")


def test_a_reason_is_logged_at_once_and_then_with_its_count(caplog):
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(5):
        refusals.add("one")
    refusals.add("two")
    refusals.flush()
    clock.now += PERIOD_S
    refusals.flush()
    clock.now += PERIOD_S
    refusals.flush()
    refusals.add("one")
    assert [record.getMessage() for record in caplog.records] == [
        "A connection was refused in its TLS handshake: one",
        "A connection was refused in its TLS handshake: two",
        "4 more times within 10 s a connection was refused in its TLS handshake: one",
        "A connection was refused in its TLS handshake: one",
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_are_sorted_however_they_are_cut(caplog, size):
    passed: list[bytes] = []
    lines = Lines(Refusals(), passed.append)
    noise = b"W1201 01:11:33.798874   11781 log.cc:102] Log level INFO is not suitable for production.\n"
    error = b"E1201 01:11:33.798874   11781 server.cc:1] something is wrong\n"
    data = noise + b"a crash\n" + EXPIRED + b"Indeed\n" + error + b"Fatal"
    for begin in range(0, len(data), size):
        lines.feed(data[begin : begin + size])
    lines.close()
    assert b"".join(passed) == b"a crash\nIndeed\nFatal"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "A connection was refused in its TLS handshake: the other side's certificate has expired"),
        ("ERROR", "gRPC: something is wrong (server.cc:1)"),
    ]


def test_a_line_without_an_end_does_not_fill_the_memory():
    passed: list[bytes] = []
    lines = Lines(Refusals(), passed.append)
    for _ in range(100):
        lines.feed(b"I" * 1000)
    assert sum(map(len, passed)) > 80_000


def test_who_asks_for_grpcs_own_lines_gets_them(caplog):
    passed: list[bytes] = []
    Lines(Refusals(), passed.append, is_verbose=True).feed(EXPIRED)
    assert passed == [EXPIRED]
    assert len(caplog.records) == 1


def test_a_process_still_says_what_others_write_to_its_descriptor():
    program = (
        "import os, sys, time; from clouddeploy_runtime import handshakes; handshakes.watch();"
        "os.write(2, b'native\\n'); print('python', file=sys.stderr); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert {process.stderr.readline(), process.stderr.readline()} == {b"native\n", b"python\n"}
        process.stdin.close()
        assert process.wait(10) == 0
