"""What has passed between the server and its sites since it started: numbers, counted whether or not anybody looks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bounds from a tiny round on one machine to an hour of training, or a large model on a slow line."""
_REASONS = (
    ("was revoked", "revoked"),
    ("is disabled at this server", "disabled"),
    ("(max_num_clients)", "too_many"),
    ("is registered from", "name_taken"),
    ("is registered as a", "name_taken"),
    ("the certificate is not that of", "wrong_name"),
    ("the server's own certificate", "wrong_kind"),
    ("an admin's certificate", "wrong_kind"),
    ("lacks clientAuth", "wrong_kind"),
    ("cannot register", "wrong_kind"),
    ("this server runs the project", "wrong_project"),
    ("connection_security", "connection_security"),
    ("there is no certificate with a name", "no_certificate"),
    ("this is no registration", "malformed"),
    ("is missing", "malformed"),
    ("cannot be read", "malformed"),
    ("proof of identity", "unproven"),
)
"""What stands in a refusal, and its label; the first that fits counts. The texts name sites, and are no labels."""
OTHER = "other"


def label_of(refusal: str) -> str:
    """Return the label of a refusal; `OTHER` for one that has none of its own."""
    return next((label for known, label in _REASONS if known in refusal), OTHER)


LABELS = (*dict.fromkeys(label for _, label in _REASONS), OTHER)


class Way(StrEnum):
    """Where parameters and jobs go."""

    TO_SITE = "down"
    FROM_SITE = "up"


class Cause(StrEnum):
    """Why a site did not do a task."""

    SAID = "said"
    """It said so: its script raised, or a filter refused."""
    ENDED = "ended"
    """Its job process has ended."""
    NOT_STARTED = "not_started"
    """It has not started the job."""
    GONE = "gone"
    """It was not connected for too long."""
    OVERDUE = "overdue"
    """It took too long."""
    OUT = "out"
    """It had ended or gone before, and is not asked."""
    ANSWER = "answer"
    """Its answer could not be taken."""


class Distribution:
    """How many values were up to each of some bounds, and their sum, as a histogram of Prometheus has it."""

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The bounds as texts, each with the number of values up to it; the last one is `+Inf`."""
        found, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Tally:
    """The numbers; lives in the event loop, so it needs no lock.

    Args:
        clock: seconds that only grow.

    Attributes:
        registrations: sessions that were given out, to the same site each time anew.
        refusals: by label.
        failures: tasks that a site did not do.
        moved: bytes, by way and site; what was sent twice is counted twice.
        transfers: seconds of the complete ones.
        rounds: seconds of the finished ones, of all jobs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registrations = 0
        self.refusals: Counter[str] = Counter(dict.fromkeys(LABELS, 0))
        self.failures: Counter[Cause] = Counter(dict.fromkeys(Cause, 0))
        self.moved: dict[Way, Counter[str]] = {way: Counter() for way in Way}
        self.transfers = {way: Distribution() for way in Way}
        self.rounds = Distribution()

    async def passing(
        self, way: Way, site: str, chunks: AsyncIterable[bytes], *, note: Callable[[Way, int], None] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield a transfer's messages, counting them.

        Args:
            way: where it goes.
            site: whose it is.
            chunks: the messages.
            note: told of each message's size too.
        """
        began, moved = self._clock(), self.moved[way]
        async for chunk in chunks:
            moved[site] += len(chunk)
            if note is not None:
                note(way, len(chunk))
            yield chunk
        self.transfers[way].add(self._clock() - began)

    def counted(self, handlers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the handlers of calls that lead to a session, so that those which refuse are counted."""
        return {
            name: grpc.unary_unary_rpc_method_handler(
                _counting(one.unary_unary, self._refused),
                request_deserializer=one.request_deserializer,
                response_serializer=one.response_serializer,
            )
            for name, one in handlers.items()
        }

    def _refused(self, refusal: str) -> None:
        self.refusals[label_of(refusal)] += 1


def _counting(behaviour: Callable[[Any, Any], Any], refused: Callable[[str], None]) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: Any) -> Any:
        return await behaviour(request, _Context(context, refused))

    return handle


class _Context:
    """A call's context that tells of a refusal."""

    def __init__(self, context: Any, refused: Callable[[str], None]) -> None:
        self._context = context
        self._refused = refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", **more: Any) -> None:
        self._refused(details)
        await self._context.abort(code, details, **more)
