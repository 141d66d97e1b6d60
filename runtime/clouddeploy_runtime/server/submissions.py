"""Jobs that come in: streamed to the disk within limits, checked, and taken once for each submit token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import signing
from clouddeploy_runtime.errors import (
    InvalidJob,
    RuntimeFault,
    ServerBusy,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
)
from clouddeploy_runtime.jobs import SERVER, JobInfo, components
from clouddeploy_runtime.jobs.info import check_submit_token
from clouddeploy_runtime.server import statements
from clouddeploy_runtime.server.store import content_of
from clouddeploy_runtime.signing import Manifest, SignatureRefused
from clouddeploy_runtime.studies import DEFAULT, named, recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from clouddeploy_runtime.jobs import JobSpec
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.settings import Settings
    from clouddeploy_runtime.signing import JobStatement
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

MAX_ARCHIVE_BYTES = 512 << 20
"""A job is code and settings; data stays at the sites."""
_AT_A_TIME = 8
"""Submissions; guessed: each holds its archive and its unpacked folder on the disk."""
_SILENCE_S = 60.0
"""Whoever sends nothing for so long does not block a place any more."""


class Submissions:
    """Takes jobs.

    Args:
        store: where they are kept.
        settings: the server's, with the classes that a job's server side may name.
        check_study: refuses what a job's study cannot have; None: every job is one that its study can.
        limit_bytes: how large an archive may be.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        *,
        check_study: Callable[[str, JobSpec], None] | None = None,
        limit_bytes: int = MAX_ARCHIVE_BYTES,
    ) -> None:
        self._check_study = check_study or (lambda _study, _spec: None)
        self._store = store
        self._settings = settings
        self._limit_bytes = limit_bytes
        self._open = 0

    async def take(
        self,
        requests: AsyncIterator[bytes],
        submitter: Peer,
        *,
        token: str = "",
        study: str = DEFAULT,
        may_bring_code: bool,
        verify: Callable[[bytes], JobStatement] | None = None,
        require_session: Callable[[], None] = lambda: None,
    ) -> JobInfo:
        """Keep a job folder that comes as the chunks of a zip.

        Args:
            requests: the chunks.
            submitter: whose job it is.
            token: what the submitter calls this submission: sent again, it gives the same job. Empty: a new one always.
            study: of the submitter's session, and of the job.
            may_bring_code: whether he has the right `byoc` here.
            verify: checks what he signed, which comes before the zip; None: he signed nothing, and need not.
            require_session: raises when the submitter has no session any more: a job may take long to come, and who
                was locked out meanwhile submits nothing.

        Raises:
            SessionExpired: the session was ended meanwhile.
            InvalidJob: the job is wrong or too large.
            SignatureRefused: it is not the job that he signed.
            ComponentRefused: it names or brings what this server does not allow.
            InvalidCommand: the token is none.
            SubmitTokenConflict: the token stands for another job.
            SubmitTokenJobDeleted: the job that it stands for was deleted.
            ServerBusy: too many submissions at a time.
        """
        if token:
            check_submit_token(token)
        with self._place():
            folder = self._store.fresh()
            stream = aiter(requests)
            try:
                envelope = await self._envelope(stream) if verify is not None else b""
                statement = verify(envelope) if verify is not None else None
                archive = await self._receive(stream, folder / "archive.zip")
                spec = await asyncio.to_thread(self._store.prepare, archive, folder)
                archive.unlink()
                if statement is not None:
                    await asyncio.to_thread(_compare, folder / "job", study, statement)
                    statements.keep(folder, Manifest(envelope))
                content = await asyncio.to_thread(self._check, folder, spec, may_bring_code)
                require_session()
                self._check_study(study, spec)  # last: it may have changed while the job came
                known = self._known(study, submitter, token=token, content=content)
                if known is not None:
                    return known
                info = self._store.admit(
                    folder,
                    spec,
                    submitter,
                    content=content,
                    submit_token=token,
                    study=recorded(study),
                    statement=signing.fingerprint(envelope) if envelope else "",
                )
            except OSError as exc:
                raise _unkept(exc) from exc
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info("Job %s (%s) was submitted by %s", info.job_id, info.name, submitter.name, extra={"job": info.job_id})
        return info

    async def clone(self, job_id: str, submitter: Peer, *, may_bring_code: bool, command: bytes = b"") -> JobInfo:
        """Submit what an earlier job was once more, as the asker's own.

        Args:
            job_id: the earlier job.
            submitter: who asks.
            may_bring_code: whether he has the right `byoc` here.
            command: what he signed, naming what the original's submitter signed; checked before.

        Raises:
            JobNotFound: there is no such job.
            InvalidJob: this version does not take it any more.
            ComponentRefused: it names or brings what the asker may not.
            ServerBusy: too many submissions at a time.
        """
        original = self._store.get(job_id)
        with self._place():
            folder = self._store.fresh()
            try:
                spec = await asyncio.to_thread(self._store.copy, job_id, folder)
                content = await asyncio.to_thread(self._check, folder, spec, may_bring_code)
                signed = await asyncio.to_thread(statements.kept, self._store.root / job_id)
                if signed:
                    statements.keep(folder, Manifest(_signed_job(signed), command))
                self._check_study(named(original.study), spec)
                info = self._store.admit(
                    folder,
                    spec,
                    submitter,
                    content=content,
                    study=original.study,
                    cloned_from=job_id,
                    statement=original.statement,
                )
            except OSError as exc:
                raise _unkept(exc) from exc
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info("Job %s was cloned by %s as %s", job_id, submitter.name, info.job_id, extra={"job": info.job_id})
        return info

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._open >= _AT_A_TIME:
            raise ServerBusy(
                "The server takes no more jobs just now", why=f"{self._open} are being submitted", hint="Try again."
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _envelope(self, stream: AsyncIterator[bytes]) -> bytes:
        envelope = await next_of(stream) or b""
        if len(envelope) > signing.MAX_BYTES:
            raise InvalidJob(
                "The job is too large",
                why=f"what was signed of it exceeds {signing.MAX_BYTES} bytes",
                hint="Pack its many files into a few.",
            )
        return envelope

    async def _receive(self, stream: AsyncIterator[bytes], target: Path) -> Path:
        size = 0
        with target.open("wb") as file:
            while True:
                chunk = await next_of(stream)
                if chunk is None:
                    return target
                size += len(chunk)
                if size > self._limit_bytes:
                    raise InvalidJob(
                        "The job is too large",
                        why=f"its archive exceeds {self._limit_bytes} bytes",
                        hint="A job is code and settings; data belongs to the sites.",
                    )
                await asyncio.to_thread(file.write, chunk)

    def _check(self, folder: Path, spec: JobSpec, may_bring_code: bool) -> str:
        """Look at what would run here (the sites look at theirs themselves); returns the content's digest."""
        app = folder / "job" / (spec.app_for(SERVER) or "")
        chooses_code = spec.chooses_code(SERVER)
        components.check(app, "server", self._settings, may_bring_code=may_bring_code, chooses_code=chooses_code)
        return content_of(folder / "job")

    def _known(self, study: str, submitter: Peer, *, token: str, content: str) -> JobInfo | None:
        """Return the job that was submitted with this token before."""
        if not token:
            return None
        scope = (recorded(study), submitter.name, token)
        for info in self._store.all():
            if (info.study, info.submitter, info.submit_token) != scope:
                continue
            if info.content == content:
                return info
            raise SubmitTokenConflict(
                f"The submit token {token} is taken",
                why=f"it stands for the job {info.job_id}, whose content is another",
                hint="Submit the changed job with another token.",
            )
        gone = self._store.tombstones.find(study=recorded(study), submitter=submitter.name, submit_token=token)
        if gone is not None:
            raise SubmitTokenJobDeleted(
                f"The submit token {token} is used up",
                why=f"it stands for the job {gone.job_id}, which was deleted",
                hint="Submit the job with another token to run it again.",
            )
        return None


async def next_of(stream: AsyncIterator[bytes]) -> bytes | None:
    """Return the next message of a submission; None at its end.

    Raises:
        InvalidJob: nothing comes for a minute.
    """
    try:
        return await asyncio.wait_for(anext(stream), _SILENCE_S)
    except StopAsyncIteration:
        return None
    except TimeoutError as exc:
        why = f"nothing came for {_SILENCE_S:g} s"
        raise InvalidJob("The job did not arrive", why=why, hint="Submit it again.") from exc


def _signed_job(manifest: bytes) -> bytes:
    try:
        return msgspec.msgpack.decode(manifest, type=Manifest).job
    except (msgspec.MsgspecError, RecursionError) as exc:
        why = f"what was signed of it cannot be read: {exc}"
        raise InvalidJob("The job cannot be cloned", why=why, hint="Submit it anew.") from exc


def _compare(folder: Path, study: str, statement: JobStatement) -> None:
    """Refuse a job that is not the one that was signed."""
    signing.check_files(folder, statement.files)
    if named(statement.study) != study:
        raise SignatureRefused(
            "The job does not pass signature verification",
            why=f"it was signed for the study {named(statement.study)!r}, and this session is of {study!r}",
            hint="Submit it again.",
        )


def _unkept(exc: OSError) -> RuntimeFault:
    why = exc.strerror or str(exc)
    return RuntimeFault("The server cannot keep the job", why=why, hint="Look at the server's disk; then submit again.")
