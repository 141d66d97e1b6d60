from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import Kind

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = {"host": "127.0.0.1", "port": 8002}
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), **ADDRESS),
        Participant(Kind.CLIENT, "site-1", "org_a", **ADDRESS),
        Participant(Kind.CLIENT, "site-2", "org_b", **ADDRESS),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", **ADDRESS),
    ),
)


@pytest.fixture(scope="session")
def project() -> Project:
    return PROJECT


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="session")
def openssl():
    """Run the `openssl` command; returns its status and everything it said."""

    def run(*words: str | Path) -> tuple[int, str]:
        done = subprocess.run(
            ["openssl", *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def context(side: int, *, trusted: Path, cert: Path, key: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.load_verify_locations(trusted)
    made.load_cert_chain(cert, key)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def connect(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """Connect with mutual TLS; returns the common name that the server saw, or raises what the client saw."""
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)
    seen: list[str] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as tls:
                seen.extend(v for part in tls.getpeercert()["subject"] for k, v in part if k == "commonName")
                tls.sendall(b"x")
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as tls:
            # TLS 1.3: a refused client certificate shows on the first read only.
            if tls.recv(1) != b"x":
                raise ssl.SSLError("closed")
    finally:
        near.close()
        thread.join()
    return seen[0]


@pytest.fixture(scope="session")
def handshake():
    """One TLS handshake between two (trusted roots, certificate, key) triples of files."""

    def run(server: tuple[Path, Path, Path], client: tuple[Path, Path, Path], name: str) -> str:
        def made(side: int, files: tuple[Path, Path, Path]) -> ssl.SSLContext:
            return context(side, trusted=files[0], cert=files[1], key=files[2])

        return connect(made(ssl.PROTOCOL_TLS_SERVER, server), made(ssl.PROTOCOL_TLS_CLIENT, client), name)

    return run


@pytest.fixture(scope="session")
def meet(handshake):
    """One TLS handshake between two kits, by the server's logical name."""

    def run(server: Path, client: Path) -> str:
        def files(root: Path) -> tuple[Path, Path, Path]:
            read = kits.load(root)
            return read.root_cert_file, read.cert_file, read.key_file

        return handshake(files(server), files(client), kits.load(server).name)

    return run
