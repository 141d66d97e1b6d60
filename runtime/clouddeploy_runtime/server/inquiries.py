"""A person's questions to the server and to sites: all are asked together, and answer or are reported as silent."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import authorization
from clouddeploy_runtime.errors import (
    ClouddeployError,
    InvalidCommand,
    InvalidTarget,
    JobNotFound,
    NoClients,
    RuntimeFault,
    ServerBusy,
    printable,
)
from clouddeploy_runtime.inspection import questions, targets
from clouddeploy_runtime.inspection.inspector import Inspector
from clouddeploy_runtime.inspection.subject import RunningHere, Subject
from clouddeploy_runtime.server.calls import Command
from clouddeploy_runtime.server.endings import reference_of
from clouddeploy_runtime.server.rounds import read
from clouddeploy_runtime.server.store import no_job
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.jobs.rounds import Round
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.calls import Call
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore

log = logging.getLogger(__name__)

REPLY_S = 5.0
MAX_REPLY_S = 60.0
"""Balancers and proxies cut calls that are idle for longer."""
_MAX_OPEN = 200
"""Questions at a time, of all people. Guessed."""
_MAX_REASON = 1000
_MAX_CODE = 100
_OF_A_JOB = tuple(one.name for one in fields(RunningHere))
_MAX_DEPTH = 30
"""Of an answer; the deepest of ours has five."""


@dataclass(eq=False)
class _Question:
    """One that waits for sites.

    Attributes:
        open: the sites that have not answered.
        answers: by site.
        is_answered: set once nothing is open.
    """

    open: dict[str, Session]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_answered: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self, site: str, answer: dict[str, Any]) -> None:
        del self.open[site]
        self.answers[site] = answer
        if not self.open:
            self.is_answered.set()


class Inquiries:
    """The open questions of a server; lives in the event loop.

    Args:
        kit: the server's.
        registry: the connected sites.
        inspector: answers for the server itself.
        submitter: returns whose a job is: name and organisation.
        audit: the server's log.
        sees: tells whether who works in a study may know of a job; None: of each.
    """

    def __init__(
        self,
        kit: Kit,
        registry: Registry,
        *,
        inspector: Inspector,
        submitter: Callable[[str], tuple[str, str]],
        audit: AuditLog,
        sees: Callable[[str, str], bool] | None = None,
    ) -> None:
        self._kit = kit
        self._registry = registry
        self._inspector = inspector
        self._submitter = submitter
        self._audit = audit
        self._sees = sees or (lambda _study, _job_id: True)
        self._open: dict[str, _Question] = {}
        registry.watch(self._changed)

    @property
    def table(self) -> Mapping[str, Command]:
        """The commands, as `Commands` takes them: who is asked decides, so the server passes them on to sites."""
        return {
            name: Command(
                one.right,
                self._handler(name),
                is_for_job=one.is_for_job,
                is_signed=True,
                is_passed_on=True,
                subject=questions.TARGET,
            )
            for name, one in questions.QUESTIONS.items()
        }

    def _handler(self, name: str) -> Callable[[Call], Any]:
        async def handle(call: Call) -> Any:
            return await self._ask(name, call)

        return handle

    async def _ask(self, name: str, call: Call) -> Any:
        target, reply_s = call.text(questions.TARGET), _seconds(call.text("timeout_s"))
        sessions = self._sessions(target)
        needs = questions.needs(name, call.arguments)
        for _, job_id in needs:
            if job_id and not self._sees(call.study, job_id):
                raise no_job(job_id[:_MAX_CODE])
        is_for_server = any(targets.means(target, own, is_server=True) for own in (self._kit.name, targets.SERVER))
        if len(self._open) >= _MAX_OPEN:
            raise ServerBusy("The server has too many questions open", why=f"{_MAX_OPEN} wait", hint="Ask again.")
        sites = asyncio.create_task(self._ask_sites(sessions, call.signed, reply_s))
        try:
            own = {self._kit.name: await self._ask_server(name, call, needs)} if is_for_server else {}
            answers = own | await sites
        finally:
            sites.cancel()
        if name == "check_status":
            answers = {site: self._seen(answer, call.study) for site, answer in answers.items()}
        return {"sites": _fitting(dict(sorted(answers.items())))}

    def _seen(self, answer: dict[str, Any], study: str) -> dict[str, Any]:
        """Leave out jobs of other studies: a site names all that run there; and what is no job, whatever it says."""
        data = answer.get("data")
        if data is None:
            return answer
        listed = data.get("jobs")
        found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        jobs = [{name: str(one.get(name, ""))[:_MAX_REASON] for name in _OF_A_JOB} for one in found]
        return {**answer, "data": {**data, "jobs": [one for one in jobs if self._sees(study, one["job_id"])]}}

    def _sessions(self, target: str) -> list[Session]:
        """Return whom a target means among the clients.

        Raises:
            InvalidTarget: it is none, or one of its names is not connected.
            NoClients: it means all of them, and there is none.
        """
        if target in {targets.CLIENTS, targets.ALL}:
            sessions = self._registry.connected()
            if not sessions and target == targets.CLIENTS:
                raise NoClients("No client is connected", hint="Start one, or wait until it has registered.")
            return sessions
        if target == targets.SERVER:
            return []
        names = targets.names_of(target)
        found = {name: self._registry.find(name) for name in names if name not in {targets.SERVER, self._kit.name}}
        missing = [name[:_MAX_CODE] for name, session in found.items() if session is None]
        if missing or not names:
            raise InvalidTarget(
                f"The client {', '.join(missing)} is not connected" if missing else f"{target[:_MAX_CODE]!r} is nobody",
                hint="`clouddeploy system status` names those that are.",
            )
        return [session for session in found.values() if session is not None]

    async def _ask_server(self, name: str, call: Call, needs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Answer for the server itself, if its own policy lets the asker; how that ends is recorded as at a site."""
        action = f"{name} {call.job_id or self._kit.name}"
        for right, job_id in needs:
            decision = self._decide(call, right, job_id)
            if not decision.allowed:
                await asyncio.to_thread(self._refused, call, action, decision.rule)
                return _problem("AUTHORIZATION_REFUSED", f"{call.peer.name} may not {right}: {decision.rule}")
        try:
            if name == questions.CAN_I:
                return {"data": self._inspector.can_i(call.peer, call.arguments)}
            answer = {"data": await self._inspector.answer(name, call.arguments)}
        except ClouddeployError as exc:
            await asyncio.to_thread(self._ended, call, action, code=exc.error_code, detail=str(exc))
            return _problem(exc.error_code, str(exc))
        except Exception as exc:  # a defect here must not keep the sites' answers from who asked
            log.exception("A question cannot be answered")
            code, reason = RuntimeFault.error_code, f"{type(exc).__name__}, see the server's log.txt"
            await asyncio.to_thread(self._ended, call, action, code=code, detail=reason)
            return _problem(code, reason)
        if name in questions.CHANGES:
            await asyncio.to_thread(self._ended, call, action)
        return answer

    def _decide(self, call: Call, right: str, job_id: str) -> authorization.Decision:
        # A role in a study counts for the study's jobs; the machine is no part of a study.
        user = replace(call.peer, role=call.role) if call.role and job_id else call.peer
        submitter = self._submitter(job_id) if job_id else ("", "")
        request = authorization.Request(
            user=user,
            right=right,
            site_org=self._kit.org,
            submitter_name=submitter[0],
            submitter_org=submitter[1],
        )
        return authorization.load(self._kit.local).explain(request)

    def _refused(self, call: Call, action: str, why: str) -> None:
        self._audit.record(
            user=call.peer.name,
            role=call.peer.role,
            action=action,
            address=self._kit.host,
            allowed=False,
            detail=why,
            code="AUTHORIZATION_REFUSED",
            reference=reference_of(call.signed),
        )

    def _ended(self, call: Call, action: str, *, code: str = "", detail: str = "") -> None:
        self._audit.record_end(
            user=call.peer.name,
            role=call.peer.role,
            action=action,
            address=self._kit.host,
            reference=reference_of(call.signed),
            code=code,
            detail=detail,
        )

    async def _ask_sites(self, sessions: Iterable[Session], signed: bytes, reply_s: float) -> dict[str, dict[str, Any]]:
        number, question = secrets.token_hex(16), _Question({session.name: session for session in sessions})
        if not question.open:
            return {}
        self._open[number] = question
        for session in question.open.values():
            session.outbox.put_nowait(pb.ServerEvent(ask_site=pb.AskSite(id=number, command=signed)))
        try:
            await asyncio.wait_for(question.is_answered.wait(), reply_s)
        except TimeoutError:
            log.info("No answer from %s within %g s", ", ".join(sorted(question.open)), reply_s)
        finally:
            del self._open[number]
        silent = _problem(questions.NO_REPLY, f"it did not answer within {reply_s:g} s")
        return question.answers | dict.fromkeys(question.open, silent)

    def answered(self, session: Session, answer: pb.SiteAnswer) -> None:
        """Take a site's answer; one that nobody waits for is forgotten, and so is that of a site that was not asked."""
        question = self._open.get(answer.id)
        if question is not None and question.open.get(session.name) is session:
            question.close(session.name, _parsed(answer))

    def _changed(self, session: Session, joined: bool) -> None:
        """Note that a site is gone: it will not answer."""
        if joined:
            return
        for question in list(self._open.values()):
            if question.open.get(session.name) is session:
                question.close(session.name, _problem(questions.SITE_GONE, "it went away before it answered"))


def _seconds(text: str) -> float:
    try:
        seconds = float(text or REPLY_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidCommand("The command cannot be used", why=f"its 'timeout_s' is {text[:_MAX_CODE]!r}")
    return min(seconds, MAX_REPLY_S)


def _problem(code: str, reason: str) -> dict[str, Any]:
    return {"code": code, "reason": reason}


def _parsed(answer: pb.SiteAnswer) -> dict[str, Any]:
    """Return what a site says, which may be anything."""
    if answer.code:
        return _problem(_said(answer.code, _MAX_CODE), _said(answer.reason, _MAX_REASON))
    try:
        data = msgspec.json.decode(answer.document, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as exc:
        return _problem("BAD_ANSWER", f"it cannot be read: {exc}")
    if not _is_flat(data):
        return _problem("BAD_ANSWER", "it is nested too deeply")
    return {"data": data}


def _is_flat(data: dict[str, Any]) -> bool:
    """Tell whether an answer can be written again, and read by whoever asked: both have an end to their depth."""
    level: list[Any] = [data]
    for _ in range(_MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return True
    return False


def _said(text: str, limit: int) -> str:
    return printable(text[:limit]).replace("\n", " ")[:limit]


def _fitting(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return answers that fit into one message together; who does not is to be asked alone."""
    found: dict[str, Any] = {}
    left = questions.MAX_ANSWER_BYTES
    for site, answer in answers.items():
        encoded = msgspec.json.encode(answer)
        if len(encoded) > left:
            answer = _problem(questions.TOO_LARGE, "ask this site alone, or for less")  # noqa: PLW2901
        else:
            left -= len(encoded)
        found[site] = answer
    return found


def _stats_of(rounds: Iterable[Round]) -> dict[str, Any]:
    """Return what a server says of a job's finished rounds."""
    known = tuple(rounds)
    return {
        "rounds": max((one.round for one in known), default=0),
        "seconds": sum(one.seconds for one in known),
        "answered": sum(one.answered for one in known),
        "failed": sum(one.failed for one in known),
        "bytes_down": sum(one.bytes_down for one in known),
        "bytes_up": sum(one.bytes_up for one in known),
    }


def of_server(
    kit: Kit, workspace: Path, *, registry: Registry, scheduler: Scheduler, store: JobStore, audit: AuditLog
) -> Inquiries:
    """Return the questions of a server that starts."""

    def running() -> list[RunningHere]:
        infos = [store.get(job_id) for job_id in list(scheduler.running)]
        return [RunningHere(info.job_id, info.name, info.status) for info in infos]

    def submitter(job_id: str) -> tuple[str, str]:
        info = store.get(job_id)
        return info.submitter, info.submitter_org

    def stats(job_id: str) -> dict[str, Any]:
        job = scheduler.find(job_id)
        return _stats_of(read(store.root / job_id) if job is None else job.rounds.known)

    subject = Subject(
        kit.name,
        "server",
        kit.org,
        workspace=workspace,
        kit=kit.root,
        jobs=store.root,
        run=store.run_folder("job").name,
        running=running,
        stats=stats,
    )

    def sees(study: str, job_id: str) -> bool:
        try:
            return bool(store.get_in(study, job_id))
        except JobNotFound:
            return False

    return Inquiries(kit, registry, inspector=Inspector(subject), submitter=submitter, audit=audit, sees=sees)
