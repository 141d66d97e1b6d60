"""Secret variables of the dashboard: read once, and then nowhere any more."""

import os
import subprocess
import sys

import pytest

from clouddeploy.cli import dashboard_variables as variables
from clouddeploy.errors import ConfigError

PROGRAM = """
import multiprocessing, os, subprocess, sys
from pathlib import Path
from clouddeploy.cli import dashboard_variables as variables

def shown():
    print(Path("/proc/self/environ").read_bytes())

if __name__ == "__main__":
    taken = variables.take_secrets()
    assert sorted(taken) == sorted(variables.SECRET), taken
    assert set(taken.values()) == {"a s\\u00ebcret"}
    assert variables.take_secrets() == {}
    shown()
    subprocess.run(["env"], check=True)
    if os.fork() == 0:
        shown()
        os._exit(0)
    os.wait()
    child = multiprocessing.get_context("spawn").Process(target=shown)
    child.start()
    child.join()
    assert child.exitcode == 0
"""


def test_neither_the_process_nor_what_it_starts_has_them(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    env = {**os.environ, **dict.fromkeys(variables.SECRET, "a sëcret"), "PYTHONUNBUFFERED": "1", "OTHER": "stays"}
    done = subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("OTHER=stays") == 4
    assert "cret" not in done.stdout.replace("CLIENT_SECRET", "")


def test_the_first_name_that_has_a_value_counts():
    assert variables.first({"NVFL_CREDENTIAL": "b"}, variables.CREDENTIAL) == "b"
    assert variables.first({variables.CREDENTIAL[0]: "a", "NVFL_CREDENTIAL": "b"}, variables.CREDENTIAL) == "a"
    assert variables.first({}, variables.CREDENTIAL) == ""


def test_a_secret_among_the_words_is_told(monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("OF_NO_SECRET", raising=False)
    assert variables.set_from(("OF_NO_SECRET=1", "DATABASE_URL=x")) == ["DATABASE_URL"]
    assert variables.take_secrets()["DATABASE_URL"] == "x"
    monkeypatch.delenv("OF_NO_SECRET")
    with pytest.raises(ConfigError, match="not VAR=VALUE"):
        variables.set_from(("DATABASE_URL",))
