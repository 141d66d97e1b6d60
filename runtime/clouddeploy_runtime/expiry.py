"""When a certificate should be thought of: 30 and 7 days before its end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WARN = timedelta(days=30)
URGENT = timedelta(days=7)


@dataclass(frozen=True)
class Notice:
    """That a certificate ends soon, or has ended."""

    text: str
    level: int
    """As `logging` has it: WARNING, and ERROR from the last week on."""


def notice(
    what: str, not_after: datetime, now: datetime, *, remedy: str = "ask the project admin for a new kit"
) -> Notice | None:
    """Return what to say of a certificate's end; None while it is far away.

    Args:
        what: how the message calls the certificate.
        not_after: its end.
        now: the time to judge by.
        remedy: what the reader can do.
    """
    left = not_after - now
    if left > WARN:
        return None
    level = logging.ERROR if left <= URGENT else logging.WARNING
    if left <= timedelta(0):
        return Notice(f"{what} has expired on {not_after:%Y-%m-%d}; {remedy}", level)
    days = left.days
    span = f"in {days} days" if days > 1 else "within two days" if days else "within a day"
    return Notice(f"{what} expires {span}, on {not_after:%Y-%m-%d}; {remedy}", level)


class Reminder:
    """Says once a day that a certificate ends soon, and when it has.

    Args:
        what: how the message calls the certificate.
        not_after: its end.
    """

    def __init__(self, what: str, not_after: datetime) -> None:
        self._what = what
        self._not_after = not_after
        self._said: datetime | None = None

    def remind(self, log: logging.Logger, now: datetime | None = None) -> None:
        """Log the notice when it is due and was not logged within the last day, or the certificate has just ended."""
        moment = now or datetime.now(UTC)
        is_news = self._said is not None and self._said <= self._not_after < moment  # it has just ended
        if self._said is not None and moment - self._said < timedelta(days=1) and not is_news:
            return
        found = notice(self._what, self._not_after, moment)
        if found is not None:
            self._said = moment
            log.log(found.level, "%s", found.text)
