import hashlib
import json
import threading
from datetime import UTC, datetime

import pytest
from clouddeploy_providers.object_store import MemoryObjects
from clouddeploy_runtime.audit import AuditLog, first_broken_line

from clouddeploy.audit import FIRST, AuditTrail, Verified, verify
from clouddeploy.errors import StateError
from clouddeploy.secrets import Secret
from clouddeploy.stores.base import actor
from clouddeploy.stores.shared import SharedStore


def trail(path, **given):
    return AuditTrail(path, command="apply", deployment="0123abcd", **given)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "audit.jsonl"
    one = trail(path, actor="ada@desk")
    one.record("create", result="done", node="s/machine", name="cd-s", detail="i-1")
    one.record("install", result="failed", node="s", detail="no route")
    one.record("delete", result="done", node="s/machine", name="cd-s")
    return path


def last_hash(path):
    return json.loads(path.read_bytes().splitlines()[-1])["hash"]


def test_an_entry_says_who_did_what_when_with_which_result(tmp_path):
    path = tmp_path / "audit.jsonl"
    moment = datetime(2026, 11, 25, 18, 0, tzinfo=UTC)
    trail(path, now=lambda: moment).record("create", result="done", node="s/machine", name="cd-s", detail="i-1")
    entry = json.loads(path.read_text())
    digest = entry.pop("hash")
    assert entry == {
        "time": "2026-11-25T18:00:00.000+00:00",
        "actor": actor(),
        "command": "apply",
        "deployment": "0123abcd",
        "event": "create",
        "node": "s/machine",
        "name": "cd-s",
        "result": "done",
        "detail": "i-1",
        "previous": FIRST,
    }
    assert verify(path) == Verified(entries=1, last_hash=digest)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_later_run_continues_the_chain(log):
    trail(log).record("destroy", result="done")
    assert verify(log) == Verified(4, last_hash(log))


def test_the_runtimes_verifier_accepts_it_and_ours_accepts_the_runtimes(log, tmp_path):
    assert first_broken_line(log) is None
    other = AuditLog(tmp_path / "server.jsonl")
    other.record(user="ada", role="lead", action="submit", address="192.0.2.1", allowed=True)
    other.record(user="ada", role="lead", action="abort", address="192.0.2.1", allowed=False)
    assert verify(tmp_path / "server.jsonl") == Verified(2, last_hash(tmp_path / "server.jsonl"))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_changed_line_is_named(log, number):
    lines = log.read_text().splitlines()
    lines[number - 1] = lines[number - 1].replace("apply", "sweep")
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(StateError, match=f"broken at line {number}"):
        verify(log)


def test_a_removed_line_is_noticed_at_the_one_that_followed(log):
    first, _, third = log.read_text().splitlines()
    log.write_text(f"{first}\n{third}\n")
    with pytest.raises(StateError, match="broken at line 2"):
        verify(log)


@pytest.mark.parametrize("line", ["{}", "", "null", '{"event": "torn line"}'])
def test_an_inserted_line_is_named(log, line):
    first, *rest = log.read_text().splitlines()
    log.write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(StateError, match="broken at line 2"):
        verify(log)


def test_a_line_changed_into_no_json_is_broken_also_at_the_end(log):
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], lines[2][:40]]) + "\n")
    with pytest.raises(StateError, match="broken at line 3"):
        verify(log)


def test_a_broken_log_is_not_continued(log):
    log.write_text(log.read_text().replace("no route", "all well"))
    before = log.read_bytes()
    with pytest.raises(StateError, match="broken at line 2"):
        trail(log).record("create", result="done")
    assert log.read_bytes() == before


def test_lines_cut_off_at_the_end_show_to_who_kept_the_last_hash(log):
    known = verify(log).last_hash
    assert verify(log, known=known).entries == 3
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:2]))
    assert verify(log).entries == 2
    with pytest.raises(StateError, match="does not hold the entry"):
        verify(log, known=known)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_half_a_line_left_by_a_kill_is_recorded_by_the_next_entry(log, cut):
    whole = log.read_bytes()
    half = json.dumps({"time": "2026", "event": "create" * 20}).encode()[:cut]
    log.write_bytes(whole + half)
    assert verify(log) == Verified(3, json.loads(whole.splitlines()[-1])["hash"], torn_lines=1)
    trail(log).record("create", result="done")
    assert verify(log) == Verified(5, last_hash(log), torn_lines=1)
    note = json.loads(log.read_bytes().splitlines()[-2])
    assert (note["event"], note["sha256"]) == ("torn line", hashlib.sha256(half).hexdigest())


def test_what_was_torn_may_not_be_changed_later(log):
    log.write_bytes(log.read_bytes() + b'{"time": "20')
    trail(log).record("create", result="done")
    log.write_bytes(log.read_bytes().replace(b'{"time": "20\n', b'{"time": "21\n'))
    with pytest.raises(StateError, match="broken at line 4"):
        verify(log)


def test_only_the_line_feed_missing_is_no_loss(log):
    log.write_bytes(log.read_bytes().removesuffix(b"\n"))
    trail(log).record("create", result="done")
    assert verify(log) == Verified(4, last_hash(log))


def test_torn_at_the_very_first_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"ti')
    trail(path).record("create", result="done")
    assert verify(path) == Verified(2, last_hash(path), torn_lines=1)


def test_several_threads_and_processes_share_one_chain(tmp_path):
    path = tmp_path / "audit.jsonl"
    trails = [trail(path), trail(path)]  # two objects know as little of each other as two processes do

    def write(one):
        for n in range(10):
            one.record("create", result="done", detail=str(n))

    threads = [threading.Thread(target=write, args=(one,)) for one in (*trails, trails[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path).entries == 30


def test_a_secret_does_not_get_in(tmp_path):
    path = tmp_path / "audit.jsonl"
    trail(path).record("sign kits", result="done", detail=f"with {Secret('hunter2')}")
    assert "hunter2" not in path.read_text()


def test_signs_that_steer_a_terminal_are_written_out(tmp_path):
    path = tmp_path / "audit.jsonl"
    trail(path).record("create", result="failed", detail="\x1b[2J" + "x" * 1000)
    entry = json.loads(path.read_text())
    assert "\x1b" not in entry["detail"]
    assert len(entry["detail"]) == 500


def test_no_log_is_an_error(tmp_path):
    with pytest.raises(StateError, match="there is no audit log"):
        verify(tmp_path / "audit.jsonl")


def test_in_shared_storage_the_next_holder_continues_the_chain(tmp_path):
    store = SharedStore(MemoryObjects(), "memory:x")
    for command in ("apply", "destroy"):
        with store.locked(command):
            AuditTrail(tmp_path / "audit.jsonl", command=command, store=store).record("start", result="done")
    assert verify(tmp_path / "audit.jsonl", store=store).entries == 2
    assert list(tmp_path.iterdir()) == []
