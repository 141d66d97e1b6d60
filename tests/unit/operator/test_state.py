import subprocess
import sys

import pytest
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import LockedError, StateError
from clouddeploy.state import Record, State, locked


def test_a_new_state_has_a_fresh_id(tmp_path):
    first, second = State.load(tmp_path), State.load(tmp_path)
    assert len(first.deployment) == 8
    assert first.deployment != second.deployment


def test_what_was_saved_is_what_is_loaded(tmp_path):
    state = State.load(tmp_path)
    ref = ResourceRef(Kind.MACHINE, "cd-m", "i-1", {"address": "198.51.100.7"})
    state.resources["s/machine"] = Record(ref, "s", "aws", {"region": "r"}, {"size": "t3.small"})
    state.attempts["s/machine"] = 2
    state.sites["s"] = {"release": "abc"}
    state.save()
    again = State.load(tmp_path)
    assert again == state
    assert again.serial == 1
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_refused_and_kept(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StateError, match="cannot read the state"):
        State.load(tmp_path)
    assert (tmp_path / "state.json").read_text() == "{"


def test_a_newer_schema_is_refused(tmp_path):
    (tmp_path / "state.json").write_text('{"schema": 99}')
    with pytest.raises(StateError, match="schema 99"):
        State.load(tmp_path)


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
