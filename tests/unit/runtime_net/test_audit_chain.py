"""The audit log shows when somebody touched it."""

from __future__ import annotations

import stat

import pytest
from clouddeploy_runtime import audit


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "audit.jsonl"
    for number in range(2):
        audit.AuditLog(file).record(user="ann", role="lead", action=f"a{number}", address="::1", allowed=number == 0)
    audit.AuditLog(file).record(user="bob", role="", action="x" * 300, address="::1", allowed=False, detail="why")
    return file


def test_a_chain_goes_on_over_restarts(path):
    assert audit.first_broken_line(path) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_edited_line_breaks_the_chain(path):
    path.write_text(path.read_text().replace("refused", "allowed", 1))
    assert audit.first_broken_line(path) == 2


def test_a_removed_line_breaks_the_chain(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]) + "\n")
    assert audit.first_broken_line(path) == 1


def test_a_line_that_is_no_json_breaks_the_chain(path):
    path.write_text(path.read_text() + "nonsense\n")
    assert audit.first_broken_line(path) == 4
