"""A host over SSH: pinned key, key-only login, one deadline per operation."""

from __future__ import annotations

import shlex
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paramiko

from clouddeploy.errors import (
    DeployError,
    HostKeyChanged,
    HostUnreachable,
    Interrupted,
    RemoteCommandFailed,
    RemoteTimeout,
    UploadFailed,
)
from clouddeploy.remote import commands
from clouddeploy.remote.host import TAIL_BYTES, Completed
from clouddeploy.remote.known_hosts import fingerprint
from clouddeploy.remote.upload import send

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from threading import Event

    from clouddeploy.remote.known_hosts import HostKeys

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
"""GCM first: a fifth to two fifths faster than the library's default on the machines measured."""
BANNER_S = 10.0
KEEPALIVE_S = 15
RETRY_S = 0.1
LOGIN_RETRY_S = 2.0
"""After a refused login: many in a short time look like an attack, and get an address banned."""
CHUNK_BYTES = 32 * 1024
UPLOAD_TRIES = 2
LOST_LINK_S = 45
"""A peer that acknowledges nothing for so long is gone. TCP alone would go on for a quarter of an hour."""
KEY_TYPES = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
"""One kind of host key after the other: a pin may be of any key that the host holds, not of the one it likes best."""


@dataclass(frozen=True)
class Target:
    """Where and as whom to log in; `name` is what the host's key is pinned under."""

    name: str
    address: str
    port: int
    user: str
    identity_file: Path
    answer_s: float = 60.0
    """How long one step of a file transfer may take; a machine that hangs keeps its connections open."""
    jump: Target | None = None
    """The jump host from which it is reached; its key is pinned like any other."""
    retries_login: bool = False
    """Whether a refused login is tried again: a new machine answers before it knows our key."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.address}:{self.port}" + (f" through {self.jump.name}" if self.jump else "")


def connect(target: Target, host_keys: HostKeys, *, timeout_s: float, cancel: Event) -> SshHost:
    """Logs in as soon as the host answers.

    Args:
        target: where and as whom.
        host_keys: the pins; a host without one is refused.
        timeout_s: how long to wait for the host to answer and to know our key.
        cancel: ends the wait.

    Raises:
        HostKeyUnknown: nothing is pinned.
        HostKeyChanged: another key is shown; nothing was sent.
        HostUnreachable: no answer in time, or our key is not accepted; see `Target.retries_login`.
        Interrupted: cancelled.
    """
    deadline = time.monotonic() + timeout_s
    way = _Way(target, host_keys)
    try:
        while True:
            try:
                return SshHost(target, way.log_in(deadline), way)
            except (OSError, EOFError, paramiko.SSHException) as error:
                is_refused = isinstance(error, paramiko.AuthenticationException)
                is_final = isinstance(error, _JumpRefused) or (is_refused and not target.retries_login)
                pause_s = LOGIN_RETRY_S if is_refused else RETRY_S
                if is_final or time.monotonic() + pause_s > deadline:
                    raise HostUnreachable(
                        f"cannot log in to {target.name} as {target.user} at {target.place}",
                        why=str(error) or type(error).__name__,
                        hint="check address, user, key and the firewalls in between; is the machine up?",
                    ) from error
            if cancel.wait(pause_s):
                raise Interrupted(f"waiting for {target.name} was stopped", hint="run the same command again")
    except BaseException:
        way.close()
        raise


def _load_key(target: Target) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(str(target.identity_file))
    except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
        raise HostUnreachable(
            f"the SSH key {target.identity_file} for {target.name} cannot be used",
            why=str(error) or type(error).__name__,
            hint="name an existing private key without a passphrase: identity_file",
        ) from error


class _JumpRefused(ConnectionError):
    """A jump host does not accept our key, and will not: it is nobody's new machine."""


class _Way:
    """How a host is reached: by TCP, or over a connection to its jump host that is made once and kept."""

    def __init__(self, target: Target, host_keys: HostKeys) -> None:
        self._target = target
        self._host_keys = host_keys
        self._key = _load_key(target)
        self._before = _Way(target.jump, host_keys) if target.jump else None
        self._through: paramiko.Transport | None = None

    def log_in(self, deadline: float) -> paramiko.Transport:
        """Logs in, whichever of its keys the host's pin is of."""
        changed: HostKeyChanged | None = None
        for kinds in KEY_TYPES:
            try:
                return self._log_in_by(kinds, deadline)
            except HostKeyChanged as error:
                changed = changed or error
            except paramiko.ssh_exception.IncompatiblePeer:
                continue  # it holds no key of this kind
        raise changed or paramiko.SSHException("it shows no kind of host key that is known here")

    def close(self) -> None:
        """Ends the connection to the jump host, if there is one."""
        if self._through is not None:
            self._through.close()
        if self._before is not None:
            self._before.close()

    def _log_in_by(self, kinds: Sequence[str], deadline: float) -> paramiko.Transport:
        transport = paramiko.Transport(self._connection(deadline))
        try:
            options = transport.get_security_options()
            options.ciphers = [cipher for cipher in CIPHERS if cipher in options.ciphers]
            options.key_types = [kind for kind in kinds if kind in options.key_types]
            transport.banner_timeout = _rest(deadline)
            transport.start_client(timeout=_rest(deadline))
            if not transport.initial_kex_done:  # start_client returns silently at its timeout
                raise TimeoutError("it accepted the connection but did not answer")
            shown = transport.get_remote_server_key()
            self._host_keys.check(self._target.name, f"{shown.get_name()} {shown.get_base64()}")
            transport.auth_timeout = _rest(deadline)
            transport.auth_publickey(self._target.user, self._key)
            transport.set_keepalive(KEEPALIVE_S)
        except BaseException:
            transport.close()
            raise
        return transport

    def _connection(self, deadline: float) -> socket.socket | paramiko.Channel:
        target, jump = self._target, self._target.jump
        if self._before is None or jump is None:
            sock = socket.create_connection((target.address, target.port), timeout=_rest(deadline))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_LINK_S * 1000)
            return sock
        try:
            if self._through is None or not self._through.is_active():
                self._through = self._before.log_in(deadline)
        except (OSError, EOFError, paramiko.SSHException) as error:
            is_refused = isinstance(error, (paramiko.AuthenticationException, _JumpRefused))
            kind = _JumpRefused if is_refused else ConnectionError
            raise kind(f"no login to {jump.name} as {jump.user}: {error or type(error).__name__}") from error
        place = (target.address, target.port)
        try:
            return self._through.open_channel("direct-tcpip", place, ("127.0.0.1", 0), timeout=_rest(deadline))
        except paramiko.SSHException as error:
            raise ConnectionError(f"{jump.name} does not connect to {place[0]}:{place[1]}: {error}") from error


def _rest(deadline: float) -> float:
    return max(0.1, min(BANNER_S, deadline - time.monotonic()))


class SshHost:
    """One logged-in host; `shown` is the fingerprint of the key it proved to hold."""

    def __init__(self, target: Target, transport: paramiko.Transport, way: _Way) -> None:
        self.name = target.name
        self._answer_s = target.answer_s
        key = transport.get_remote_server_key()
        self.shown = fingerprint(f"{key.get_name()} {key.get_base64()}")
        self._transport = transport
        self._way = way
        self._sftp: paramiko.SFTPClient | None = None

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        sudo: bool = False,
        input: bytes = b"",
        check: bool = True,
    ) -> Completed:
        """Runs a command to its end; see `Host.run`."""
        deadline = time.monotonic() + timeout_s
        channel: paramiko.Channel | None = None
        watchdog: threading.Timer | None = None
        try:
            channel = self._transport.open_session(timeout=timeout_s)
            # Some of paramiko's waits know no timeout; a closed channel ends all of them.
            watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), channel.close)
            watchdog.daemon = True
            watchdog.start()
            channel.set_combine_stderr(True)  # one stream: reading two after each other deadlocks on large outputs
            channel.exec_command(shlex.join(commands.with_sudo(argv) if sudo else list(argv)))
            threading.Thread(target=_feed, args=(channel, input), daemon=True).start()
            tail = self._drain(channel, deadline)
            channel.status_event.wait(max(0.0, deadline - time.monotonic()))
            status = channel.exit_status
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken(argv[0], timeout_s, deadline, str(error)) from error
        finally:
            if watchdog is not None:
                watchdog.cancel()
            if channel is not None:
                channel.close()
        if status < 0 and (time.monotonic() >= deadline or not self._transport.is_active()):
            raise self._broken(argv[0], timeout_s, deadline, "it ended before the command did")
        if check and status != 0:
            raise RemoteCommandFailed(f"{argv[0]} failed on {self.name}", status=status, tail=tail)
        return Completed(status=status, output=tail)

    def upload(self, source: Path, target: str, *, mode: int) -> str:
        """Copies a file, once more when it failed while the connection holds; see `Host.upload`."""
        for tries_left in reversed(range(UPLOAD_TRIES)):
            try:
                return send(
                    self._transport,
                    source,
                    target,
                    mode=mode,
                    to=self.name,
                    answer_s=self._answer_s,
                    cut=self.close,
                )
            except UploadFailed:
                if not tries_left or not self._transport.is_active():
                    raise
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Returns the beginning of a file; see `Host.read`."""
        try:
            with self._open_sftp().open(path, "r") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, paramiko.SSHException) as error:
            self._close_sftp()
            raise HostUnreachable(
                f"cannot read {path} on {self.name}",
                why=str(error) or type(error).__name__,
                hint="run the same command again",
            ) from error

    def _broken(self, command: str, timeout_s: float, deadline: float, why: str) -> DeployError:
        if time.monotonic() >= deadline:
            return RemoteTimeout(
                f"{command} on {self.name} did not end within {timeout_s:.0f} s",
                hint="look at the machine, then repeat",
            )
        return HostUnreachable(f"the connection to {self.name} broke", why=why, hint="run the same command again")

    def close(self) -> None:
        """Ends the connection."""
        self._way.close()  # the outer one first: the end of the inner one would wait for a jump host that is silent
        self._transport.close()

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            channel = self._transport.open_session(timeout=self._answer_s)
            watchdog = threading.Timer(self._answer_s, channel.close)  # the wait for the subsystem knows no timeout
            watchdog.daemon = True
            watchdog.start()
            try:
                channel.settimeout(self._answer_s)
                channel.invoke_subsystem("sftp")
                self._sftp = paramiko.SFTPClient(channel)
            except BaseException:
                channel.close()
                raise
            finally:
                watchdog.cancel()
        return self._sftp

    def _close_sftp(self) -> None:
        """Gives a transfer that failed no second use of its channel."""
        if self._sftp is not None:
            self._sftp.close()
            self._sftp = None

    @staticmethod
    def _drain(channel: paramiko.Channel, deadline: float) -> str:
        tail = b""
        while True:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            chunk = channel.recv(CHUNK_BYTES)
            if not chunk:
                return tail.decode(errors="replace")
            tail = (tail + chunk)[-TAIL_BYTES:]


def _feed(channel: paramiko.Channel, content: bytes) -> None:
    try:
        channel.sendall(content)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        return  # the command or the connection ended before all was read; the reader of its output says how
