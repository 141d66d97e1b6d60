"""Writes what is about to happen and what has happened: journal first, then state, then journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import CapacityError, InvalidRequest, QuotaError
from clouddeploy_providers.resources import Kind

from clouddeploy import scheduler
from clouddeploy.config import CLUSTERED
from clouddeploy.state import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.journal import Journal
    from clouddeploy.plan import Wanted
    from clouddeploy.remote.bootstrap import Release
    from clouddeploy.scheduler import Event, Step
    from clouddeploy.state import State

DEFINITE = (InvalidRequest, CapacityError, QuotaError)
"""Refusals after which certainly nothing was made, so that the next try is a new request with a new token."""


EXPIRY = "expires_at"
"""In a machine's fingerprint: when it switches itself off. It is no wish, so it is never compared."""


class Ledger:
    """State and journal of one run; used by the thread that owns them alone."""

    def __init__(
        self, state: State, journal: Journal, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.state = state
        self.journal = journal
        self._now = now
        self._is_dirty = False
        self.also_flush: list[Callable[[], None]] = []
        """Called after each flush, for what is recorded beside state and journal."""

    def run(
        self, steps: Sequence[Step], *, cancel: threading.Event, on_event: Callable[[Event], None]
    ) -> scheduler.Report:
        """Runs steps; what they record is durable before anything builds on it, many records with one write."""
        self.journal.hold()
        try:
            return scheduler.run(steps, cancel=cancel, on_event=on_event, flush=self.flush)
        finally:
            self.journal.release()

    def touch(self) -> None:
        """Notes that the state was changed; the next flush saves it."""
        self._is_dirty = True

    def flush(self) -> None:
        """Saves the state, then writes the journal: an intent whose result the state lacks must stay open."""
        if self._is_dirty:
            self.state.save()
            self._is_dirty = False
        self.journal.flush()
        for one in self.also_flush:
            one()

    def token(self, item: Wanted) -> str:
        """Returns the idempotency token of the next request for a resource."""
        return f"{item.name}/{self.state.attempts.setdefault(item.node, 0)}"

    def intend(self, operation: str, item: Wanted, token: str) -> None:
        """Records that a resource is about to be created or updated."""
        self.journal.intend(
            operation,
            node=item.node,
            name=item.name,
            token=token,
            provider=item.site.provider,
            settings=item.site.settings,
        )

    def made(self, operation: str, item: Wanted, ref: ResourceRef, *, expires_at: str = "") -> None:
        """Records that it was, and how it is found again.

        Args:
            operation: `create` or `update`.
            item: what was wanted.
            ref: what came of it.
            expires_at: when a machine that was born now switches itself off.
        """
        before = self.state.resources.get(item.node)
        if operation == "update" and before is not None:
            # Of where it is, not of where the deploy file wants it.
            place = before.fingerprint.get("place", item.fingerprint["place"])
            facts = {**_made_from(item, ref, before.fingerprint), "place": place}
            settings = item.site.settings if item.site.provider in CLUSTERED else before.settings
            self.state.resources[item.node] = replace(before, ref=ref, fingerprint=facts, settings=settings)
        else:
            has_timer = not ref.is_adopted and "size" in ref.outputs
            self.state.resources[item.node] = Record(
                ref=ref,
                site=item.site.name,
                provider=item.site.provider,
                settings=item.site.settings,
                fingerprint=_made_from(item, ref, {EXPIRY: expires_at if has_timer else ""}),
                created=before.created if before is not None and before.ref.id == ref.id else self._moment(),
            )
        self.touch()
        self.journal.done(operation, node=item.node, name=item.name, id=ref.id)

    def installed(self, site: str, release: Release) -> None:
        """Notes which release a site has."""
        known = self.state.sites.get(site, {})
        self.state.sites[site] = {**known, "release": release.digest, "root": release.root, "python": release.python}
        self.touch()

    def refused(self, operation: str, item: Wanted, error: BaseException) -> None:
        """Records a refusal, where it is certain that nothing was made."""
        if isinstance(error, DEFINITE):
            self._next_attempt(item.node)
            self.touch()
            self.journal.failed(operation, node=item.node, name=item.name, error=str(error))

    def intend_delete(self, node: str, record: Record) -> None:
        """Records that a resource is about to be deleted."""
        self.journal.intend(
            "delete", node=node, name=record.ref.name, provider=record.provider, settings=record.settings
        )

    def deleted(self, node: str, record: Record) -> None:
        """Forgets a resource that is gone, or that was not ours and is released."""
        self.state.resources.pop(node, None)
        # A name may be used again; its token must not: clouds remember tokens of what is gone.
        self._next_attempt(node)
        if record.ref.kind is Kind.MACHINE:
            self.state.sites.pop(record.site, None)
            self.state.pins.pop(record.site, None)
        self.touch()
        self.journal.done("delete", node=node, name=record.ref.name)

    def _moment(self) -> str:
        return self._now().isoformat(timespec="seconds")

    def _next_attempt(self, node: str) -> None:
        self.state.attempts[node] = self.state.attempts.get(node, 0) + 1


def _made_from(item: Wanted, ref: ResourceRef, before: Mapping[str, str]) -> dict[str, str]:
    """Returns the properties to record.

    A creation may have found the machine of an earlier wish, made by a run that was killed; then that wish is recorded,
    so that the next plan sees the difference.
    """
    facts = item.fingerprint
    if item.kind is not Kind.MACHINE:
        return facts
    if before.get(EXPIRY):
        facts[EXPIRY] = before[EXPIRY]
    asked = item.choice.size if item.choice is not None else item.site.size
    size = ref.outputs.get("size", "")
    if asked and size and size != asked:
        facts["size"] = size
    return facts
