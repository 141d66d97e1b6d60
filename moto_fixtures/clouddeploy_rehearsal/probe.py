"""How a test reaches the machines of a world: paramiko with one pinned host key, sockets, polls with a deadline."""

from __future__ import annotations

import base64
import io
import socket
import time
from typing import TYPE_CHECKING, TypeVar

import paramiko

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
SSH_PORT = 22
CONNECT_S = 10.0
POLL_S = 0.05


def connect(address: str, *, port: int = SSH_PORT, user: str, private: str, host_key: str) -> paramiko.SSHClient:
    """Logs in with one key; the host must show exactly `host_key`.

    Raises:
        paramiko.SSHException: another host key, or the login was refused.
    """
    kind, blob = host_key.split()[:2]
    client = paramiko.SSHClient()
    name = address if port == SSH_PORT else f"[{address}]:{port}"
    client.get_host_keys().add(name, kind, paramiko.Ed25519Key(data=base64.b64decode(blob)))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
    client.connect(
        address, port=port, username=user, pkey=key, timeout=CONNECT_S, allow_agent=False, look_for_keys=False
    )
    return client


def run(client: paramiko.SSHClient, command: str) -> tuple[int, str]:
    """Returns exit status and standard output."""
    _, out, _ = client.exec_command(command)
    text = out.read().decode().strip()
    return out.channel.recv_exit_status(), text


def answers(address: str, port: int, *, timeout_s: float = 0.3) -> bool:
    """Whether a TCP connection is accepted; the emulated network is fast, so a short time tells."""
    try:
        socket.create_connection((address, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], T], *, timeout_s: float = 20.0, what: str = "the condition") -> T:
    """Polls until a condition holds and returns what it came to.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(POLL_S)
    return found
