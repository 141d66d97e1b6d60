"""Which sites take part in one job: who has started it, who is gone, and whether those that are left suffice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RESTARTS = 2
"""How often a site's trainer is started again in one job after it crashed, or was stopped for being too slow."""
_DEPLOY_S = 30.0
_SLOW_LINE = 1 << 20
"""Bytes per second that the slowest line should manage; a large job's folder takes its time to a site."""


@dataclass(eq=False)
class _Site:
    is_deployed: bool = False
    failed: str = ""
    """Why it does not do what is asked now; empty: it does."""
    is_out: bool = False
    """For the rest of the job."""
    crashes: int = 0
    stop_reason: str = ""
    """Why its trainer was told to end, although the job goes on."""
    is_stopping: bool = False
    """It was told, and may not have heard it."""
    refusal: str = ""
    """Why it has not started the job."""
    scope: str = ""
    """In which of its privacy scopes it has."""

    @property
    def detail(self) -> str:
        return self.refusal or (f"privacy scope: {self.scope}" if self.scope else "")


class Participants:
    """The sites of one job. No I/O: its caller tells what happened, and asks what follows.

    Args:
        sites: that the job was given.
        min_clients: as many must start it.
        mandatory: these must.
        is_deploying: whether the job is new; one that has run is not ended because its sites are away.

    Attributes:
        problem: why the job cannot run; empty while it can.
    """

    def __init__(
        self, sites: tuple[str, ...], *, min_clients: int, mandatory: frozenset[str], is_deploying: bool
    ) -> None:
        self._sites = {site: _Site() for site in sites}
        self._min_clients = min(min_clients, len(sites))
        self._mandatory = mandatory
        self._is_new = self._is_deploying = is_deploying
        self.problem = ""

    @staticmethod
    def deploy_s(size_bytes: int) -> float:
        """Return how long a site may take to say whether it has started a job of that size."""
        return _DEPLOY_S + size_bytes / _SLOW_LINE

    @property
    def detail(self) -> Mapping[str, str]:
        """What each site said to the job's start; empty text: it takes part, and has no privacy scopes."""
        return {name: site.detail for name, site in self._sites.items() if site.is_deployed or site.refusal}

    @property
    def is_running(self) -> bool:
        """Whether enough sites have started the job."""
        return not self._is_deploying

    def is_out(self, name: str) -> bool:
        """Tell whether a site takes no part for the rest of the job."""
        return self._sites[name].is_out

    def is_stopping(self, name: str) -> bool:
        """Tell whether a site's trainer was told to end, and has not yet."""
        return self._sites[name].is_stopping

    def failure_of(self, name: str) -> str:
        """Return why a site does not do what is asked now; empty when it does."""
        return self._sites[name].failed

    def deployed(self, name: str, reason: str, *, scope: str = "") -> bool:
        """Note what a site said to the job's start; returns whether that is news."""
        site = self._sites[name]
        if site.is_out:
            return False
        if site.is_deployed and not reason:  # as an answer has told already, which does not say the scope
            is_news = scope not in {"", site.scope}
            site.scope = scope or site.scope
            return is_news
        site.is_deployed, site.refusal, site.scope = not reason, reason, scope
        site.failed = reason
        site.is_out = bool(reason)
        return True

    def silent(self) -> Mapping[str, str]:
        """Return the sites that have said nothing to a new job's start, each with a reason against it.

        Also when enough others have started it: a site that hangs would be waited for in each round.
        """
        why = f"no answer to the job's start within {_DEPLOY_S:g} s"
        return {
            name: f"{name}: {why}"
            for name, site in self._sites.items()
            if self._is_new and not site.is_deployed and not site.failed
        }

    def ended(self, name: str, reason: str, *, is_crash: bool) -> bool:
        """Note that a site's trainer ended; returns whether it should be started again."""
        site = self._sites[name]
        if site.is_out:
            return False
        site.is_stopping = False
        is_crash = is_crash or bool(site.stop_reason)
        reason, site.stop_reason = site.stop_reason or reason, ""
        if is_crash and site.crashes < RESTARTS:
            site.crashes += 1
            site.failed = ""
            return True
        site.failed = reason or f"{name}: the trainer has ended"
        site.is_out = True
        return False

    def gone(self, name: str, reason: str) -> None:
        """Note that a site has been away for too long; it may come back."""
        site = self._sites[name]
        site.failed = site.failed or reason

    def returned(self, name: str, *, has_trainer: bool = False) -> bool:
        """Note that a site is connected, with the trainer or without; returns whether it still takes part."""
        site = self._sites[name]
        # Without one nothing has to be stopped any more. Its end may still be told, and counts as one of a crash.
        site.is_stopping = site.is_stopping and has_trainer
        if not site.is_out and not site.is_stopping:
            site.failed = ""
        return not site.is_out

    def stopping(self, name: str, reason: str) -> None:
        """Note that a site's trainer was told to end: until it has, it does nothing."""
        site = self._sites[name]
        site.failed = site.stop_reason = reason
        site.is_stopping = True

    def review(self) -> bool:
        """Return whether the job has just come to run; sets `problem` when it cannot any more."""
        if not self._is_deploying or self.problem:
            return False
        there = {name for name, site in self._sites.items() if site.is_deployed}
        possible = there | {name for name, site in self._sites.items() if not site.failed}
        if len(there) >= self._min_clients and self._mandatory <= there:
            self._is_deploying = False
            return True
        if len(possible) < self._min_clients or not self._mandatory <= possible:
            causes = "; ".join(site.failed for site in self._sites.values() if site.failed)
            missing = ", ".join(sorted(self._mandatory - possible))
            what = f"{missing} must take part" if missing else f"{self._min_clients} sites must take part"
            self.problem = f"{what}: {causes}"
        return False
