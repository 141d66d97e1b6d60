"""When a certificate that ends is spoken of, and how loudly."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from clouddeploy_runtime import expiry

END = datetime(2030, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "level", "words"),
    [
        (timedelta(days=30, seconds=1), None, ""),
        (timedelta(days=30), logging.WARNING, "expires in 30 days, on 2030-06-01; ask the project admin"),
        (timedelta(days=7, seconds=1), logging.WARNING, "in 7 days"),
        (timedelta(days=7), logging.ERROR, "in 7 days"),
        (timedelta(days=1, hours=3), logging.ERROR, "within two days"),
        (timedelta(hours=3), logging.ERROR, "within a day"),
        (timedelta(0), logging.ERROR, "has expired on 2030-06-01"),
        (timedelta(days=-40), logging.ERROR, "has expired"),
    ],
)
def test_a_notice_comes_at_30_days_and_is_an_error_from_the_last_week_on(left, level, words):
    found = expiry.notice("the certificate", END, END - left)
    assert (found.level if found else None) == level
    assert found is None or words in found.text


def test_the_notice_says_what_can_be_done():
    found = expiry.notice("the root", END, END - timedelta(days=3), remedy="exchange it")
    assert found is not None
    assert found.text.endswith("; exchange it")


def test_a_reminder_speaks_once_a_day(caplog):
    reminder, log = expiry.Reminder("the certificate", END), logging.getLogger("test")
    for days, hours in ((31, 0), (29, 0), (28, 12), (28, 0), (27, 1), (6, 0)):
        reminder.remind(log, END - timedelta(days=days, hours=hours))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]


def test_a_reminder_speaks_again_when_the_time_is_over(caplog):
    """A server that runs for weeks says it within its last day, and must say it when nobody gets in any more."""
    reminder, log = expiry.Reminder("the certificate", END), logging.getLogger("test")
    for hours in (-2, -1, 1, 2):
        reminder.remind(log, END + timedelta(hours=hours))
    said = [record.getMessage().partition(",")[0].partition(" on ")[0] for record in caplog.records]
    assert said == ["the certificate expires within a day", "the certificate has expired"]
