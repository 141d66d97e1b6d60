"""What a site answers to people: it checks who asks, asks its own policy, and looks."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import signing, tls
from clouddeploy_runtime.errors import AuthorizationRefused, ClouddeployError, RuntimeFault, ServerBusy
from clouddeploy_runtime.inspection import questions
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.client.admission import Admission
    from clouddeploy_runtime.inspection.inspector import Inspector

log = logging.getLogger(__name__)

_MAX_OPEN = 50
"""Questions at a time; a server that asks more is not well. Guessed."""
_MAX_REASON = 1000
_NOBODY = tls.Peer(name="", org="", role="")
"""Whose a job is that is not known here: no condition about its submitter holds."""


class SiteInquiries:
    """Answers for one site; lives in the event loop.

    Args:
        admission: the site's judgement.
        inspector: looks.
        submitter: returns whose a job here is, or was; None: that is not known any more.
        send: tells the server.
    """

    def __init__(
        self,
        admission: Admission,
        inspector: Inspector,
        *,
        submitter: Callable[[str], tls.Peer | None],
        send: Callable[[pb.ClientEvent], None],
    ) -> None:
        self._admission = admission
        self._inspector = inspector
        self._submitter = submitter
        self._send = send
        self._open: set[asyncio.Task[None]] = set()

    def asked(self, event: pb.AskSite) -> None:
        """Answer the server in time; whatever goes wrong is the answer."""
        task = asyncio.get_running_loop().create_task(self._respond(event))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _respond(self, event: pb.AskSite) -> None:
        answer = pb.SiteAnswer(id=event.id)
        try:
            document = msgspec.json.encode(await self._answer(event.command))
            if len(document) > questions.MAX_ANSWER_BYTES:
                answer.code, answer.reason = questions.TOO_LARGE, f"it has {len(document)} bytes; ask for less"
            else:
                answer.document = document
        except ClouddeployError as exc:
            answer.code, answer.reason = exc.error_code, str(exc)[:_MAX_REASON]
        except Exception as exc:  # the edge to the server: a defect here is no reason to leave it without an answer
            log.exception("A question cannot be answered")
            answer.code, answer.reason = RuntimeFault.error_code, f"{type(exc).__name__}, see log.txt there"
        self._send(pb.ClientEvent(site_answer=answer))

    async def _answer(self, command: bytes) -> dict[str, Any]:
        if len(self._open) > _MAX_OPEN:
            raise ServerBusy("The site has too many questions open", why=f"{_MAX_OPEN} wait")
        user, statement = self._admission.question_of(command)
        name, job_id = statement.command, statement.arguments.get("job_id", "")
        if name == questions.CAN_I:
            return self._inspector.can_i(user, statement.arguments)
        action, reference = f"{name} {job_id}".strip(), signing.reference(command)
        for right, job in questions.needs(name, statement.arguments):
            submitter = (self._submitter(job) if job else None) or _NOBODY
            shown = f"{name} {job}".strip()
            if not self._admission.may(user, right, action=shown, submitter=submitter, reference=reference):
                raise AuthorizationRefused(f"{user.name} may not {right}", why="this site's policy does not allow it")
        try:
            answer = await self._inspector.answer(name, statement.arguments)
        except ClouddeployError as exc:
            self._admission.ended(user, action, command=command, fault=exc)
            raise
        if name in questions.CHANGES:
            self._admission.ended(user, action, command=command)
        return answer
