"""Asks the sites of a job whether they hold what it needs, and collects what they answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.jobs.spec import Need
    from clouddeploy_runtime.server.sessions import Registry, Session

log = logging.getLogger(__name__)

ANSWER_S = 10.0
"""A site answers from memory; who needs longer is not well."""


@dataclass(frozen=True)
class Reserved:
    """What the sites answered."""

    reservations: Mapping[str, str]
    """Site → what stands in StartJob; empty text where nothing had to be asked."""
    refused: Mapping[str, str]
    """Site → why it holds nothing."""


@dataclass(eq=False)
class _Question:
    open: set[str]
    answers: dict[str, pb.Resources] = field(default_factory=dict)
    is_answered: asyncio.Event = field(default_factory=asyncio.Event)


class Reservations:
    """The questions to the sites; lives in the event loop.

    Args:
        registry: the connected sites.
        answer_s: how long an answer may take.
    """

    def __init__(self, registry: Registry, *, answer_s: float = ANSWER_S) -> None:
        self._registry = registry
        self._answer_s = answer_s
        self._questions: dict[str, _Question] = {}
        self.offers: dict[str, Any] = {}
        """Connected site → what it has and what of it was free when it last said so."""

    async def reserve(self, job_id: str, needs: Mapping[str, Need | None], *, manifest: bytes = b"") -> Reserved:
        """Ask each site that is to hold something; a site without a need is not asked.

        With it comes the job's `manifest`, as in StartJob: a site holds nothing for those whom its policy refuses.
        Whoever calls has to `release` what he does not use; a cancelled call has released it.
        """
        asked = {site: need for site, need in needs.items() if need is not None}
        answers = await self._ask(job_id, {site: _encoded(need) for site, need in asked.items()}, manifest)
        reservations = dict.fromkeys((site for site in needs if site not in asked), "")
        refused: dict[str, str] = {}
        for site in asked:
            answer = answers.get(site)
            if answer is None:
                refused[site] = f"no answer within {self._answer_s:g} s"
            elif answer.reservation:
                reservations[site] = answer.reservation
            else:
                refused[site] = answer.reason or "it holds nothing"
        return Reserved(reservations=reservations, refused=refused)

    async def report(self) -> dict[str, Any]:
        """Ask every connected site what it has and what of it is free; a site that does not answer is left out."""
        sites = [session.name for session in self._registry.connected()]
        answers = await self._ask("", dict.fromkeys(sites, b"")) if sites else {}
        return {site: _offer(answer) for site, answer in sorted(answers.items())}

    async def _ask(self, job_id: str, needs: Mapping[str, bytes], manifest: bytes = b"") -> dict[str, pb.Resources]:
        if not needs:
            return {}
        question = self._questions.get(job_id) if not job_id else None  # two may ask for a report at a time
        if question is None:
            question = self._questions[job_id] = _Question(open=set())
        question.open |= set(needs)
        question.is_answered.clear()
        for site, need in needs.items():
            session = self._registry.find(site)
            if session is None:
                question.open.discard(site)
            else:
                wish = pb.CheckResources(job_id=job_id, need=need, manifest=manifest)
                session.outbox.put_nowait(pb.ServerEvent(check_resources=wish))
        try:
            if question.open:
                await asyncio.wait_for(question.is_answered.wait(), self._answer_s)
        except TimeoutError:
            log.warning("No answer about resources from %s", ", ".join(sorted(question.open)))
        except asyncio.CancelledError:
            self.release(job_id, {site: one.reservation for site, one in question.answers.items()})
            raise
        finally:
            if self._questions.get(job_id) is question:
                del self._questions[job_id]
        return question.answers

    def answered(self, site: str, answer: pb.Resources) -> None:
        """Take a site's answer; what nobody waits for any more is given back."""
        self.offers[site] = _offer(answer)
        question = self._questions.get(answer.job_id)
        if question is None or site not in question.open:
            self.release(answer.job_id, {site: answer.reservation})
            return
        question.answers[site] = answer
        self._close(question, site)

    def joined(self, session: Session) -> None:
        """Ask a site that came what it has, so that its state is known before a job needs it."""
        session.outbox.put_nowait(pb.ServerEvent(check_resources=pb.CheckResources()))

    def left(self, site: str) -> None:
        """Note that a site is gone: it will not answer."""
        self.offers.pop(site, None)
        for question in list(self._questions.values()):
            self._close(question, site)

    def _close(self, question: _Question, site: str) -> None:
        question.open.discard(site)
        if not question.open:
            question.is_answered.set()

    def release(self, job_id: str, reservations: Mapping[str, str]) -> None:
        """Tell sites that what they hold is not needed."""
        for site, reservation in reservations.items():
            session = self._registry.find(site)
            if session is not None and reservation:
                event = pb.ReleaseResources(job_id=job_id, reservation=reservation)
                session.outbox.put_nowait(pb.ServerEvent(release_resources=event))


def _encoded(need: Need) -> bytes:
    """Return a need in the words of a job's resource_spec."""
    return msgspec.json.encode(
        {
            "num_of_gpus": need.gpus,
            "mem_per_gpu_in_GiB": need.gib_per_gpu,
            "num_of_cpus": need.cpus,
            "memory_in_GiB": need.memory_gib,
        }
    )


def _offer(answer: pb.Resources) -> Any:
    try:
        return msgspec.json.decode(answer.offer, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return {}
