"""The audit log shows when somebody touched it."""

from __future__ import annotations

import json
import os
import stat

import pytest
from clouddeploy_runtime import audit


def record(log, action="look", **more):
    log.record(user="ann", role="lead", action=action, address="::1", allowed=True, **more)


def actions(path):
    return [json.loads(line)["action"] for line in path.read_text().splitlines()]


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


@pytest.mark.parametrize("is_stuck", [False, True], ids=["at once", "by the next write"])
def test_an_entry_that_does_not_fit_leaves_nothing_and_the_chain_goes_on(path, monkeypatch, is_stuck):
    log, before = audit.AuditLog(path), path.read_bytes()
    with monkeypatch.context() as full:

        def no_room(*_):
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", no_room)
        if is_stuck:
            full.setattr(os, "ftruncate", no_room)
        with pytest.raises(audit.AuditUnwritable, match="No space left on device"):
            record(log, "lost")
    assert is_stuck or path.read_bytes() == before
    record(log, "kept")
    assert actions(path) == ["a0", "a1", "x" * 100, "kept"]
    assert audit.first_broken_line(path) is None


def test_half_a_line_is_cut_off_at_the_next_start_and_that_is_recorded(path):
    with path.open("ab") as file:
        file.write(b'{"time":"2026')
    record(audit.AuditLog(path), "next")
    assert actions(path)[-2:] == ["audit_repaired", "next"]
    assert audit.first_broken_line(path) is None


def test_a_full_file_is_set_aside_and_the_chain_goes_on_over_restarts(tmp_path):
    path = tmp_path / "audit.jsonl"
    for number in range(40):
        record(audit.AuditLog(path, max_bytes=1000), f"a{number}")
    files = [path, *(tmp_path / f"audit.jsonl.{number}" for number in range(1, 10))]
    assert sorted(tmp_path.iterdir()) == sorted(files), "the older ones are gone"
    assert [audit.first_broken_line(file) for file in files] == [None] * 10
    assert actions(path)[0] == "audit_rotated"
    assert [one for file in reversed(files) for one in actions(file) if one != "audit_rotated"][-5:] == [
        f"a{number}" for number in range(35, 40)
    ]
    files[1].write_bytes(files[1].read_bytes().splitlines(keepends=True)[0])
    assert audit.first_broken_line(path) == 1, "what was taken from the file before shows"


def test_a_start_between_two_files_continues_the_one_that_was_set_aside(path):
    path.rename(path.with_name("audit.jsonl.1"))
    record(audit.AuditLog(path))
    assert audit.first_broken_line(path) is None


def test_a_detail_is_bounded(path):
    record(audit.AuditLog(path), detail="x" * 1_000_000)
    assert len(path.read_bytes().splitlines()[-1]) < 3000
