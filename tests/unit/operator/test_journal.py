import json

import pytest

from clouddeploy.errors import StateError
from clouddeploy.journal import Journal
from clouddeploy.stores import LocalStore

PLACE = {"provider": "aws", "settings": {"region": "us-west-2"}}


def test_an_intent_without_a_result_is_open_and_knows_its_place(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend("create", node="server1/machine", name="cd-x", token="cd-x/0", **PLACE)
    (intent,) = Journal(tmp_path / "journal.jsonl").open_intents()
    assert (intent.operation, intent.node, intent.name) == ("create", "server1/machine", "cd-x")
    assert (intent.provider, dict(intent.settings)) == ("aws", {"region": "us-west-2"})


def test_done_and_failed_close_an_intent(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for node in ("a/machine", "b/machine"):
        journal.intend("create", node=node, name=node, **PLACE)
    journal.done("create", node="a/machine", name="a/machine", id="i-1")
    journal.failed("create", node="b/machine", name="b/machine", error="no capacity")
    assert journal.open_intents() == []


def test_half_a_line_left_by_a_kill_is_ignored_and_not_built_upon(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "intend", "operation": "crea')
    journal = Journal(path)
    assert journal.open_intents() == []
    journal.intend("create", node="a/machine", name="a", **PLACE)
    assert [intent.node for intent in journal.open_intents()] == ["a/machine"]


def test_the_file_is_for_its_owner_only(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("apply", deployment="0123abcd")
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_open_intent_knows_the_token_its_call_carried(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend("create", node="a/machine", name="cd-a", token="cd-a/3", **PLACE)
    assert [intent.token for intent in journal.open_intents()] == ["cd-a/3"]
    assert [intent.token for intent in Journal(tmp_path / "journal.jsonl").open_intents()] == ["cd-a/3"]


def test_what_is_written_after_the_first_reading_counts_too(tmp_path):
    """The file is read once for each object; its own entries are added as they are written."""
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.open_intents() == []
    journal.intend("create", node="a/machine", name="cd-a", **PLACE)
    journal.intend("create", node="b/machine", name="cd-b", **PLACE)
    journal.done("create", node="a/machine", name="cd-a", id="i-1")
    again = Journal(tmp_path / "journal.jsonl")
    assert journal.open_intents() == again.open_intents()
    assert [intent.node for intent in again.open_intents()] == ["b/machine"]
    assert journal.nodes() == again.nodes() == {"cd-a": "a/machine", "cd-b": "b/machine"}


def test_ten_thousand_lines_are_read_once(tmp_path):
    path = tmp_path / "journal.jsonl"
    entry = {"time": "2026-11-25T18:00:00", "operation": "create", "token": "t", **PLACE}
    lines = [
        json.dumps({**entry, "event": event, "node": f"s{n}/machine", "name": f"cd-{n}"})
        for n in range(5000)
        for event in ("intend", "done")
    ]
    path.write_text("\n".join(lines) + "\n")
    reads = []
    store = LocalStore(tmp_path)

    class Counting:
        def __getattr__(self, name):
            return getattr(store, name)

        def read(self, log):
            reads.append(log)
            return store.read(log)

    journal = Journal(path, store=Counting())
    for n in range(20):
        journal.intend("delete", node=f"s{n}/machine", name=f"cd-{n}", **PLACE)
        assert len(journal.open_intents()) == n + 1
        assert len(journal.nodes()) == 5000
    assert reads == ["journal.jsonl"]


def test_a_line_that_is_json_but_no_entry_is_ignored(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('7\n[]\n{"time": "x"}\n{"event": "intend", "node": 1, "name": null}\n')
    assert Journal(path).open_intents() == []
    assert Journal(path).nodes() == {}


def test_a_full_disk_is_an_error_with_what_to_do(tmp_path):
    with pytest.raises(StateError, match="cannot write") as caught:
        Journal(tmp_path / "nowhere/journal.jsonl").note("apply")
    assert caught.value.hint
