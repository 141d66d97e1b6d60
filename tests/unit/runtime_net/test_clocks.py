"""A clock that is wrong is said before it makes certificates invalid."""

from __future__ import annotations

import logging

import pytest
from clouddeploy_runtime import kit
from clouddeploy_runtime.client.connection import Connection
from clouddeploy_runtime.client.transfer import Transfer

from tests.integration.federation import Authority


@pytest.fixture
def compare(tmp_path, caplog):
    """Returns a function that compares two clocks and returns what is logged."""
    site = kit.load(Authority(tmp_path / "kits", port=1).client("site-1"))
    connection = Connection(site, tmp_path, transfer=Transfer(), active_jobs=tuple, handle=lambda _: None)

    def compare(theirs_s, own_s):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            connection._compare_clocks(theirs_s, own_s)  # the rest of it needs a server
        return [record.getMessage() for record in caplog.records]

    return compare


def test_up_to_a_minute_is_no_skew(compare):
    assert compare(1_000_000.0, 1_000_055.0) == []


def test_a_skew_is_said_once_until_it_changes(compare):
    said = ["This machine's clock is 7200 s behind the server's; set one of them"]
    assert compare(1_007_200.0, 1_000_000.0) == said
    assert compare(1_007_210.0, 1_000_000.0) == []
    assert compare(1_000_000.0, 1_000_000.0) == []
    assert compare(1_000_000.0, 1_000_090.0) == ["This machine's clock is 90 s ahead of the server's; set one of them"]


def test_a_server_that_does_not_tell_its_time_is_no_reason_to_worry(compare):
    assert compare(0.0, 1_000_000.0) == []
