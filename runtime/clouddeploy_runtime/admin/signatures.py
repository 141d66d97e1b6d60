"""What a person's session signs: the jobs and the commands that change something, with the key of the kit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime import jobs, keys, signing
from clouddeploy_runtime.signing import CommandStatement, JobStatement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit


class Signatures:
    """Signs for one session.

    Args:
        kit: an admin's.
        ask: asks the server for a number to sign with.
    """

    def __init__(self, kit: Kit, ask: Callable[[], str]) -> None:
        self._kit = kit
        self._ask = ask
        self._nonce = ""
        self._number = 0

    def job(self, folder: Path, *, study: str) -> bytes:
        """Sign a job folder: every file of it that travels.

        Args:
            folder: the job as it is sent.
            study: of the session, and so of the job.
        """
        statement = JobStatement(
            project=self._kit.project,
            server=self._kit.server_name,
            nonce=self._ask(),
            time=datetime.now(UTC),
            study=study,
            files=signing.digests(folder, jobs.members(folder)),
        )
        return self._signed(statement)

    def command(self, name: str, arguments: Mapping[str, str]) -> bytes:
        """Sign a command; the server takes those of a session in this order only."""
        if not self._nonce:
            self._nonce, self._number = self._ask(), 0
        self._number += 1
        statement = CommandStatement(
            project=self._kit.project,
            server=self._kit.server_name,
            nonce=self._nonce,
            number=self._number,
            time=datetime.now(UTC),
            command=name,
            arguments=dict(arguments),
        )
        return self._signed(statement)

    def renew(self) -> None:
        """Ask for another number before the next command: the server does not know this one any more."""
        self._nonce = ""

    def _signed(self, statement: signing.Statement) -> bytes:
        return signing.sign(keys.load_private_key(self._kit.key_file), self._kit.cert_file.read_bytes(), statement)
