"""A machine for users without root: an SSH server on a loopback address whose world is one folder.

Real: keys, host key, commands, SFTP, a process tree that ends with the machine. Not real: the account (commands run as
the caller), the file system outside the home folder (the caller's own), the firewall (rules are accepted and not
enforced), `runcmd` and `write_files` (never run: they are meant for the root of a machine that is not this one).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal.hosts import watchdog

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from clouddeploy_rehearsal.user_data import UserData

PATH = "/usr/local/bin:/usr/bin:/bin"
CHUNK_BYTES = 1 << 16
START_S = 30.0


class Yard:
    """The event loop that serves every machine of one world, and the watchdog that outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.port = _free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="ssh-hosts")
        self._thread.start()
        command = [sys.executable, watchdog.__file__, str(self.directory)]
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine in the loop and returns when it is done."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def close(self) -> None:
        """Ends the loop, then the watchdog, which ends what is left."""
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._watchdog.communicate()


class UnprivilegedHost:
    """One machine; see `RunningHost`.

    Args:
        name: its host name.
        directory: a new folder for everything it has.
        user_data: account and keys.
        yard: where it runs.
    """

    def __init__(self, name: str, *, directory: Path, user_data: UserData, yard: Yard) -> None:
        self.name = name
        self.addresses: list[str] = []
        self._directory = directory.resolve()
        self._user_data = user_data
        self._yard = yard
        self._acceptors: dict[str, Any] = {}
        self._connections: set[Any] = set()
        self._home = self._directory / "home"
        self._etc_ssh = self._directory / "etc-ssh"
        self._crontabs = self._directory / "crontabs"
        self._lay_out()
        self._shown = self._key_file.read_bytes()

    def add_address(self, address: str) -> None:
        """Answers at one more address; a cloud's private addresses do not exist here and are noted only."""
        if ip_address(address).is_loopback:
            self._yard.run(self._listen(address))
        self.addresses.insert(0, address)

    def remove_address(self, address: str) -> None:
        """Stops answering at an address; connections through it go on, as they would not on a real machine."""
        if address in self.addresses:
            self.addresses.remove(address)
            if address in self._acceptors:
                self._yard.run(self._close(self._acceptors.pop(address)))

    def set_rules(self, rules: Sequence[tuple[int, int, str]]) -> None:
        """Accepts rules and enforces none: without root there is no firewall."""

    def reboot(self) -> None:
        """Ends every process that the machine has started and runs what its crontab says for a boot."""
        watchdog.end(self._directory)
        self._yard.run(self._disconnect())
        for table in self._crontabs.glob("*"):
            for line in table.read_text().splitlines():
                if line.startswith("@reboot "):
                    self._start_at_boot(line.removeprefix("@reboot "))

    def _start_at_boot(self, command: str) -> None:
        """Starts a command as cron does; it ends when what it has started in the background goes on."""
        log = self._directory / "cron.log"
        with log.open("ab") as out:
            subprocess.run(
                ["sh", "-c", command],
                cwd=self._home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                check=False,
                timeout=START_S,
            )

    def kill(self) -> None:
        """Ends the machine and every process that it has started."""
        for address in list(self._acceptors):
            self._yard.run(self._close(self._acceptors.pop(address)))
        watchdog.end(self._directory)
        self._yard.run(self._disconnect())
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _key_file(self) -> Path:
        return self._etc_ssh / "ssh_host_ed25519_key"

    def _lay_out(self) -> None:
        for folder in (self._home, self._etc_ssh, self._crontabs, self._directory / "bin"):
            folder.mkdir(parents=True, mode=0o700)
        descriptor = os.open(self._key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self._user_data.host_private_key)
        (self._etc_ssh / "ssh_host_ed25519_key.pub").write_text(self._user_data.host_public_key + "\n")
        for name in ("sudo", "crontab"):
            program = self._directory / "bin" / name
            program.write_bytes(resources.files("clouddeploy_rehearsal.hosts").joinpath(f"{name}.sh").read_bytes())
            program.chmod(stat.S_IRWXU)

    async def _listen(self, address: str) -> None:
        import asyncssh  # noqa: PLC0415 - an extra, and takes long to import

        user = self._user_data.user
        keys = {asyncssh.import_public_key(line).public_data for line in self._user_data.authorized_keys}
        home = self._home

        connections = self._connections

        class Login(asyncssh.SSHServer):  # type: ignore[misc, unused-ignore]
            def connection_made(self, connection: Any) -> None:
                """Notes a connection, so that it can end with the machine."""
                connections.add(connection)

            def public_key_auth_supported(self) -> bool:
                """Says that keys are the way in; there is no other."""
                return True

            def validate_public_key(self, username: str, key: Any) -> bool:
                """Lets in the one account with one of its keys."""
                return username == user and key.public_data in keys

        class Files(asyncssh.SFTPServer):  # type: ignore[misc, unused-ignore]
            def map_path(self, path: bytes) -> bytes:
                """Finds relative names in the home folder and refuses what is outside of it."""
                wanted = Path(os.path.normpath(home / os.fsdecode(path)))
                if not wanted.is_relative_to(home):
                    raise asyncssh.SFTPPermissionDenied(f"{wanted} is outside of this machine")
                return os.fsencode(wanted)

        self._acceptors[address] = await asyncssh.listen(
            address,
            self._yard.port,
            server_factory=Login,
            server_host_keys=[asyncssh.import_private_key(self._shown)],
            process_factory=self._serve,
            sftp_factory=Files,
            allow_scp=False,
            encoding=None,
            config=None,
        )

    @staticmethod
    async def _close(acceptor: Any) -> None:
        acceptor.close()
        await acceptor.wait_closed()

    async def _disconnect(self) -> None:
        """Ends every connection as a machine does that vanishes."""
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in self._connections))
        self._connections.clear()

    async def _serve(self, process: Any) -> None:
        """Runs one command, or a shell, with the session's streams."""
        words = ["bash", "-c", process.command] if process.command else ["bash", "--login"]
        child = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._home,
            env=self._environment(),
            start_new_session=True,
        )
        feeder = asyncio.create_task(_feed(process.stdin, child.stdin))
        try:
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            status = await child.wait()
            self._read_host_key()
            if status < 0:
                process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
            else:
                process.exit(status)
        finally:
            feeder.cancel()
            if child.returncode is None:  # nobody reads what it writes; sshd's sessions get SIGPIPE then
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()

    def _read_host_key(self) -> None:
        """Shows a host key that a command has put in place, from the next connection on."""
        import asyncssh  # noqa: PLC0415

        there = self._key_file.read_bytes()
        if there != self._shown:
            self._shown = there
            for acceptor in self._acceptors.values():
                acceptor.update(server_host_keys=[asyncssh.import_private_key(there)])

    def _environment(self) -> dict[str, str]:
        user = self._user_data.user
        return {
            "PATH": f"{self._directory / 'bin'}:{PATH}",
            "HOME": str(self._home),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "MACHINE_ETC_SSH": str(self._etc_ssh),
            "MACHINE_CRONTABS": str(self._crontabs),
            watchdog.MARK: str(self._directory),
            # There is a sudo for the host key alone; a site's own files belong in the home folder.
            "CLOUDDEPLOY_NO_SUDO": "1",
        }


def boot(name: str, *, directory: Path, addresses: Sequence[str], user_data: UserData, yard: Yard) -> UnprivilegedHost:
    """Starts a machine and returns once it answers.

    Raises:
        OSError: an address or port is taken.
    """
    host = UnprivilegedHost(name, directory=directory, user_data=user_data, yard=yard)
    try:
        for address in addresses:
            host.add_address(address)
    except BaseException:
        host.kill()
        raise
    return host


async def _pump(source: asyncio.StreamReader | None, target: Any) -> None:
    while source is not None and (data := await source.read(CHUNK_BYTES)):
        target.write(data)
        await target.drain()


async def _feed(source: Any, target: asyncio.StreamWriter | None) -> None:
    if target is None:
        return
    with contextlib.suppress(OSError):  # the command does not want the rest
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    target.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
