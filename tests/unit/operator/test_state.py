import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import LockedError, StateError
from clouddeploy.journal import Journal
from clouddeploy.state import Record, State, locked

GOLDEN = Path(__file__).parents[2] / "golden/state"


def test_a_new_state_has_a_fresh_id(tmp_path):
    first, second = State.load(tmp_path), State.load(tmp_path)
    assert len(first.deployment) == 8
    assert first.deployment != second.deployment


def test_what_was_saved_is_what_is_loaded(tmp_path):
    state = State.load(tmp_path)
    ref = ResourceRef(Kind.MACHINE, "cd-m", "i-1", {"address": "198.51.100.7"}, is_adopted=True)
    state.resources["s/machine"] = Record(
        ref, "s", "aws", {"region": "r"}, {"size": "t3.small"}, created="2026-11-25T18:00:00Z"
    )
    state.attempts["s/machine"] = 2
    state.sites["s"] = {"release": "abc"}
    state.pins["s"] = {"size": "t3.small", "image": "ami-1"}
    state.expires_at = "2026-11-25T18:00:00Z"
    state.save()
    again = State.load(tmp_path)
    assert again == state
    assert again.serial == 1
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["{", "", "[]", "null", "{}", '{"schema": "1"}', '{"schema": 0}', '{"schema": true}'])
def test_a_damaged_file_is_refused_and_kept(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StateError, match="cannot read the state") as caught:
        State.load(tmp_path)
    assert str(tmp_path / "state.json") in str(caught.value)
    assert "backup" in caught.value.hint
    assert (tmp_path / "state.json").read_text() == text


def test_a_file_that_may_not_be_read_is_an_error_and_no_new_deployment(tmp_path):
    (tmp_path / "state.json").mkdir()
    with pytest.raises(StateError, match="cannot read the state"):
        State.load(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    (tmp_path / "state.json").write_text('{"schema": 99}')
    with pytest.raises(StateError, match="schema 99"):
        State.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("deployment",), 7, "$.deployment"),
        (("resources",), [], "$.resources"),
        (("resources", "server1/machine", "ref", "kind"), "planet", "planet"),
        (("resources", "server1/machine", "ref", "id"), None, ".ref.id"),
        (("resources", "server1/machine", "settings"), {"region": 1}, ".settings"),
        (("attempts", "server1/machine"), "two", "$.attempts"),
        (("sites", "server1"), "here", "$.sites"),
        (("colour",), "green", "colour"),
    ],
)
def test_a_value_edited_into_another_type_is_refused_and_named(tmp_path, path, value, said):
    body = json.loads((GOLDEN / "v1.json").read_text())
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(StateError) as caught:
        State.load(tmp_path)
    assert said in caught.value.why


def test_a_key_that_was_edited_away_is_refused_and_named(tmp_path):
    body = json.loads((GOLDEN / "v1.json").read_text())
    del body["resources"]["server1/machine"]["provider"]
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(StateError) as caught:
        State.load(tmp_path)
    assert "provider" in caught.value.why


def test_a_state_of_the_first_schema_is_read_whole(tmp_path):
    shutil.copy(GOLDEN / "v1.json", tmp_path / "state.json")
    state = State.load(tmp_path)
    assert (state.deployment, state.project, state.serial) == ("0123abcd", "hybrid", 42)
    assert list(state.resources) == ["server1/address", "server1/firewall", "server1/machine", "site-2/machine"]
    machine = state.resources["server1/machine"]
    assert (machine.ref.kind, machine.ref.id, machine.ref.outputs["zone"]) == (Kind.MACHINE, "i-0a1b", "us-west-2a")
    assert (machine.ref.is_adopted, machine.created) == (False, "")
    assert (state.attempts, state.pins, state.expires_at) == ({"server1/machine": 2}, {}, "")
    assert state.sites == {"server1": {"release": "ab12", "root": "/opt/clouddeploy", "python": "3.12"}}


def test_reading_an_old_state_changes_nothing_and_saving_keeps_a_copy(tmp_path):
    shutil.copy(GOLDEN / "v1.json", tmp_path / "state.json")
    state = State.load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
    state.save()
    state.save()
    assert (tmp_path / "state.json.v1").read_bytes() == (GOLDEN / "v1.json").read_bytes()
    assert json.loads((tmp_path / "state.json").read_text())["schema"] == 2
    again = State.load(tmp_path)
    assert again == state
    again.save()
    assert (tmp_path / "state.json.v1").read_bytes() == (GOLDEN / "v1.json").read_bytes()


def test_a_state_that_somebody_else_has_changed_is_not_overwritten(tmp_path):
    first, second = State.load(tmp_path), State.load(tmp_path)
    first.save()
    with pytest.raises(LockedError, match="not the one that was read") as caught:
        second.save()
    assert caught.value.exit_code == ExitCode.LOCKED
    assert State.load(tmp_path).deployment == first.deployment


def test_a_lost_state_keeps_the_id_and_the_tokens_that_the_journal_knows(tmp_path):
    """By the id everything is found again; a token of something deleted would be refused by the cloud."""
    state = State.load(tmp_path)
    state.save()
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("apply", deployment=state.deployment)
    place = {"provider": "fake", "settings": {}}
    for node, attempt in (("made/machine", 1), ("open/machine", 2), ("refused/machine", 3), ("deleted/machine", 4)):
        journal.intend("create", node=node, name=node, token=f"{node}/{attempt}", **place)
        if node.startswith(("made", "deleted")):
            journal.done("create", node=node, name=node, id="i-1")
    journal.failed("create", node="refused/machine", name="refused/machine", error="no capacity")
    journal.intend("delete", node="deleted/machine", name="deleted/machine", **place)
    journal.done("delete", node="deleted/machine", name="deleted/machine")
    (tmp_path / "state.json").unlink()
    again = State.load(tmp_path)
    assert again.deployment == state.deployment
    assert again.attempts == {"made/machine": 1, "open/machine": 2, "refused/machine": 4, "deleted/machine": 5}
    assert again.resources == {}


def test_a_second_run_is_refused_and_told_who_holds_the_lock(tmp_path):
    with (
        locked(tmp_path, "apply"),
        pytest.raises(LockedError, match="apply, pid") as caught,
        locked(tmp_path, "destroy"),
    ):
        pass
    assert caught.value.exit_code == ExitCode.LOCKED


def test_a_killed_holder_leaves_no_lock(tmp_path):
    program = (
        "import os, pathlib, signal, sys\nfrom clouddeploy.state import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'apply'):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    with locked(tmp_path, "apply"):
        pass
