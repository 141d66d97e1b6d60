"""One real TLS handshake for each question that the certificates must answer."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from clouddeploy_runtime import kit

if TYPE_CHECKING:
    from pathlib import Path


def context(root: Path, side: int) -> ssl.SSLContext:
    read = kit.load(root)
    made = ssl.SSLContext(side)
    made.load_verify_locations(read.root_cert_file)
    made.load_cert_chain(read.cert_file, read.key_file)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def handshake(server: Path, client: Path, name: str) -> str:
    """Connect with mutual TLS; return the common name that the server saw."""
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)
    seen: list[str] = []

    def serve() -> None:
        try:
            with context(server, ssl.PROTOCOL_TLS_SERVER).wrap_socket(far, server_side=True) as tls:
                seen.extend(v for part in tls.getpeercert()["subject"] for k, v in part if k == "commonName")
                tls.sendall(b"x")
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context(client, ssl.PROTOCOL_TLS_CLIENT).wrap_socket(near, server_hostname=name) as tls:
            # TLS 1.3: a refused client certificate shows on the first read only.
            if tls.recv(1) != b"x":
                raise ssl.SSLError("closed")
    finally:
        near.close()
        thread.join()
    return seen[0]


@pytest.mark.parametrize("name", ["server1", "127.0.0.1"])
def test_right_names(made, name):
    assert handshake(made / "server1", made / "site-1", name) == "site-1"


def test_admin_connects(made):
    assert handshake(made / "server1", made / "admin@example.com", "server1") == "admin@example.com"


@pytest.mark.parametrize("name", ["server2", "127.0.0.2"])
def test_wrong_name(made, name):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made / "server1", made / "site-1", name)


def test_client_does_not_trust_another_authority(made, foreign):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(foreign / "server1", made / "site-1", "server1")


def test_client_cannot_play_server(made):
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(made / "site-2", made / "site-1", "site-2")
