"""This machine as a host, for the `local` provider: the same verbs without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy.errors import RemoteCommandFailed, RemoteTimeout, UploadFailed
from clouddeploy.remote.host import TAIL_BYTES, Completed

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_BYTES = 1024 * 1024


class LocalHost:
    """Runs commands with `directory` as their home, so that a site stays inside it.

    Args:
        directory: made when it is missing.
        is_apart: in a session of their own, where what is typed at the terminal does not reach them.
    """

    def __init__(self, directory: Path, *, is_apart: bool = False) -> None:
        self.name = f"this machine ({directory})"
        self._directory = directory
        self._is_apart = is_apart
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        sudo: bool = False,  # noqa: ARG002 - never root on one's own machine
        input: bytes = b"",
        check: bool = True,
    ) -> Completed:
        """Runs a command to its end, never as root; see `Host.run`."""
        try:
            done = subprocess.run(
                list(argv),
                input=input,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                cwd=self._directory,
                start_new_session=self._is_apart,
                env={
                    **os.environ,
                    "HOME": str(self._directory),
                    "CLOUDDEPLOY_NO_SUDO": "1",
                    "CLOUDDEPLOY_NO_CRON": "1",
                },
            )
        except subprocess.TimeoutExpired as error:
            raise RemoteTimeout(f"{argv[0]} on {self.name} did not end within {timeout_s:.0f} s") from error
        tail = done.stdout[-TAIL_BYTES:].decode(errors="replace")
        if check and done.returncode != 0:
            raise RemoteCommandFailed(f"{argv[0]} failed on {self.name}", status=done.returncode, tail=tail)
        return Completed(status=done.returncode, output=tail)

    def upload(self, source: Path, target: str, *, mode: int) -> str:
        """Copies a file; see `Host.upload`."""
        aside = Path(f"{target}.part")
        digest = hashlib.sha256()
        try:
            aside.unlink(missing_ok=True)  # one that a kill left keeps the mode it was born with
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file, source.open("rb") as content:
                os.fchmod(descriptor, mode)
                while chunk := content.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            aside.replace(target)
        except OSError as error:
            raise UploadFailed(
                f"{source.name} could not be copied to {target}", why=str(error), hint="run the same command again"
            ) from error
        return digest.hexdigest()

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Returns the beginning of a file; see `Host.read`."""
        try:
            with Path(path).open("rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Has nothing to end."""
