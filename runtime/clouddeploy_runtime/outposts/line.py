"""The line between a site and an outpost of one job: two TLS connections, one for each direction, raw bytes inside.

Two, since one connection must not be read and written by two threads at the same time.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import queue
import secrets
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.errors import ConnectionFailed, RuntimeFault
from clouddeploy_runtime.job.messages import MAX_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_HEADER = struct.Struct(">BIQ")
_CHUNK_BYTES = 1 << 20
_TOKEN_BYTES = 32
_DOWN, _UP = b"d", b"u"
_VALIDITY = timedelta(days=30)
"""A batch job may wait for days until it starts; only then the certificate is looked at."""
_SKEW = timedelta(days=1)
_HELLO_S = 10.0
_WELCOME_S = 0.05
"""How soon whoever has called is let in."""
_PAUSE_S = 0.5
_GUESTS = 32
"""Who may stand at the door at one time. For one more the one who came first goes: whoever fills the port with calls
that say nothing, another job perhaps, must keep no outpost out."""
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
"""Seconds, seconds and a number, tcp(7). A node without power says no last word, and a firewall in between forgets a
line on which nothing is said for some minutes. Each end listens on one of the two, and so notices."""


class LineBroken(RuntimeFault):
    """The other end is gone, or says what makes no sense."""

    error_code = "OUTPOST_LOST"


class Kind(IntEnum):
    """What a packet is."""

    LAUNCH = 1
    """Down, once: what to run."""
    MESSAGE = 2
    """Of the job, or for it; its parameters follow."""
    OUTPUT = 3
    """Up: what the job printed."""
    STOP = 4
    """Down: end the job's process."""
    ENDED = 5
    """Up, the last one: how it ended."""


class Packet(NamedTuple):
    """What came, without the parameters that follow: `size` bytes, to be read with `Receiver.into`."""

    kind: Kind
    body: bytes
    size: int


@dataclass(frozen=True)
class Credential:
    """What an outpost needs to find its site, and to be believed; a secret.

    Attributes:
        host: where the site listens, as the outpost sees it.
        port: there.
        certificate: PEM; the site shows this one and no other.
        token: hex; good once.
    """

    host: str
    port: int
    certificate: str
    token: str

    def write(self, path: Path) -> None:
        """Write it, 0600 from birth; a file that is there is replaced."""
        path.unlink(missing_ok=True)
        keys.write_private(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> Credential:
        """Read it.

        Raises:
            LineBroken: it is none.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as exc:
            raise LineBroken(f"{path} does not say where the site of this job is", why=str(exc)) from exc


class Sender:
    """The end that speaks; safe for several threads."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: Kind, body: bytes = b"", payload: memoryview | None = None) -> None:
        """Send a packet, with the parameters that belong to it.

        Raises:
            LineBroken: the other end is gone.
        """
        size = 0 if payload is None else len(payload)
        try:
            with self._lock:
                self._connection.sendall(_HEADER.pack(kind, len(body), size) + body)
                for start in range(0, size, _CHUNK_BYTES):
                    self._connection.sendall(payload[start : start + _CHUNK_BYTES])  # type: ignore[index]
        except OSError as exc:
            raise LineBroken("The line to a job elsewhere broke", why=str(exc)) from exc

    def finish(self, timeout_s: int) -> None:
        """Close this way once the other end's system has all that was sent, or after so many seconds.

        A container's network goes with its last process, and what was sent and is still on the way goes with it.
        """
        with self._lock, contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, timeout_s))
            self._connection.close()


class Receiver:
    """The end that listens; one thread."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection

    def receive(self) -> Packet | None:
        """Return the next packet; None when the other end has left.

        Raises:
            LineBroken: it left in the middle, or it sent no packet.
        """
        header = bytearray(_HEADER.size)
        if not self._fill(memoryview(header), may_end=True):
            return None
        kind, length, size = _HEADER.unpack(header)
        if length > MAX_FRAME or kind not in Kind.__members__.values():
            raise LineBroken("The line to a job elsewhere broke", why=f"a packet of kind {kind} and {length} bytes")
        body = bytearray(length)
        self._fill(memoryview(body))
        return Packet(Kind(kind), bytes(body), size)

    def into(self, view: memoryview) -> None:
        """Read the parameters of the last packet.

        Raises:
            LineBroken: the other end left before they were complete.
        """
        self._fill(view)

    def _fill(self, view: memoryview, *, may_end: bool = False) -> bool:
        position = 0
        while position < len(view):
            try:
                count = self._connection.recv_into(view[position : position + _CHUNK_BYTES])
            except OSError as exc:
                if may_end and not position:
                    return False
                raise LineBroken("The line to a job elsewhere broke", why=str(exc)) from exc
            if not count:
                if may_end and not position:
                    return False
                raise LineBroken("The line to a job elsewhere broke", why="it ended in the middle of a packet")
            position += count
        return True


class Listening:
    """A site's end before its outpost is there; use it in a `with` statement, which closes the port.

    Args:
        host: the outpost's way to here.
        bind: the address to listen on.
        ports: to choose from; 0: any.
    """

    def __init__(self, host: str, *, bind: str = "", ports: Sequence[int] = (0,)) -> None:
        key = keys.generate()
        certificate = _certificate(key)
        token = secrets.token_bytes(_TOKEN_BYTES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Nobody comes back; and one that leaves with a ticket unread resets the line, and its last words are lost.
        context.num_tickets = 0
        with os.fdopen(os.memfd_create("line", os.MFD_CLOEXEC), "wb") as file:  # `ssl` reads keys from files alone
            file.write(certificate.encode() + keys.to_pem(key))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        self._listener = _bound(bind, ports)
        port = self._listener.getsockname()[1]
        self._door = _Door(context, token)
        self.credential = Credential(host, port, certificate, token.hex())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the port; who has called in vain goes."""
        self._listener.close()
        self._door.clear(keep_s=0)

    def wait(
        self, problem: Callable[[], str], *, timeout_s: float, poll_s: float = _PAUSE_S
    ) -> tuple[Sender, Receiver]:
        """Return the line once the outpost is there; whoever does not know the token is turned away.

        Args:
            problem: asked again and again: why the outpost will not come; empty while it may.
            timeout_s: how long to wait for it.
            poll_s: how often `problem` is asked.

        Raises:
            LineBroken: it will not come, or has not in time.
        """
        deadline = time.monotonic() + timeout_s
        ends: dict[bytes, ssl.SSLSocket] = {}
        asked = 0.0
        self._listener.settimeout(min(_WELCOME_S, poll_s))
        while len(ends) < len((_DOWN, _UP)):
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self._door.knock(connection)
            self._door.clear(keep_s=_HELLO_S)
            for direction, end in self._door.let_in():
                if ends.setdefault(direction, end) is not end:
                    end.close()
            now, why = time.monotonic(), ""
            if now - asked >= poll_s:
                asked, why = now, problem()
            if now > deadline:
                why = why or f"it has not called within {timeout_s:g} s"
            if why and len(ends) < len((_DOWN, _UP)):
                raise LineBroken("The process of the job did not start", why=why)
        return Sender(ends[_DOWN]), Receiver(ends[_UP])


class _Door:
    """Those who have called, until they have shown the token; each is seen to in a thread of its own.

    Args:
        context: with the site's key.
        token: of the one outpost that is waited for.
    """

    def __init__(self, context: ssl.SSLContext, token: bytes) -> None:
        self._context = context
        self._token = token
        self._guests: deque[tuple[float, socket.socket]] = deque()
        self._known: queue.SimpleQueue[tuple[bytes, ssl.SSLSocket]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def knock(self, connection: socket.socket) -> None:
        """Look at one who has called."""
        guest = (time.monotonic(), connection.dup())  # `ssl` takes the other one
        with self._lock:
            self._guests.append(guest)
            first = self._guests.popleft() if len(self._guests) > _GUESTS else None
        if first is not None:
            _send_away(first[1])
        threading.Thread(target=self._welcome, args=(connection, guest), daemon=True).start()

    def let_in(self) -> list[tuple[bytes, ssl.SSLSocket]]:
        """Return those who have shown the token since the last time, with the direction that they want."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._known.get_nowait())
        return found

    def clear(self, *, keep_s: float) -> None:
        """Send those away who have stood there for so long."""
        before = time.monotonic() - keep_s
        with self._lock:
            late = [guest for guest in self._guests if guest[0] <= before]
            for guest in late:
                self._guests.remove(guest)
        for _, connection in late:
            _send_away(connection)

    def _welcome(self, connection: socket.socket, guest: tuple[float, socket.socket]) -> None:
        end: ssl.SSLSocket | None = None
        try:
            connection.settimeout(_HELLO_S)
            _keep_alive(connection)
            end = self._context.wrap_socket(connection, server_side=True)
            hello = memoryview(bytearray(_TOKEN_BYTES + 1))
            Receiver(end).into(hello)
            if not hmac.compare_digest(bytes(hello[:_TOKEN_BYTES]), self._token):
                raise LineBroken("A stranger calls", why="its token is not this job's")
            end.settimeout(None)
        except (OSError, RuntimeFault):
            (end or connection).close()
            self._leaves(guest)
        else:
            if self._leaves(guest):
                self._known.put((bytes(hello[_TOKEN_BYTES:]), end))
            else:
                end.close()

    def _leaves(self, guest: tuple[float, socket.socket]) -> bool:
        """Take one off the list; return whether it was there, which one that was sent away is not."""
        with self._lock:
            is_there = guest in self._guests
            if is_there:
                self._guests.remove(guest)
        if is_there:
            guest[1].close()
        return is_there


def _send_away(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has left
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def call(credential: Credential, *, timeout_s: float) -> tuple[Sender, Receiver]:
    """Return the outpost's line to its site.

    Raises:
        ConnectionFailed: nobody answers there, or somebody else does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # this one certificate, whatever the address is called here
    context.load_verify_locations(cadata=credential.certificate)
    deadline = time.monotonic() + timeout_s
    ends = [_called(credential, context, direction, deadline) for direction in (_DOWN, _UP)]
    return Sender(ends[1]), Receiver(ends[0])


def _called(credential: Credential, context: ssl.SSLContext, direction: bytes, deadline: float) -> ssl.SSLSocket:
    while True:
        try:
            connection = socket.create_connection((credential.host, credential.port), timeout=_HELLO_S)
            _keep_alive(connection)
            end = context.wrap_socket(connection)
            end.sendall(bytes.fromhex(credential.token) + direction)
        except OSError as exc:
            if time.monotonic() > deadline or isinstance(exc, ssl.SSLCertVerificationError):
                raise ConnectionFailed(
                    f"The site of this job is not at {credential.host}:{credential.port}",
                    why=str(exc),
                    hint="Look at the launcher's parent_host in local/resources.json, and at firewalls in between.",
                ) from exc
            time.sleep(_PAUSE_S)
        else:
            end.settimeout(None)
            return end


def _bound(bind: str, ports: Sequence[int]) -> socket.socket:
    problem: OSError | None = None
    for port in ports:
        try:
            family = socket.AF_INET6 if ":" in bind else socket.AF_INET
            return socket.create_server((bind, port), family=family)
        except OSError as exc:
            problem = exc
    raise LineBroken(
        "The site cannot listen for the process of a job",
        why=f"ports {ports[0]} to {ports[-1]}: {problem}",
        hint="Free one of them, or name others with internal_port in local/resources.json.",
    )


def _certificate(key: keys.PrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a job's site")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
