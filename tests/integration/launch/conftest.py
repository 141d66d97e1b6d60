"""Emulated clouds in a process of their own, and commands that are run inside their network."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clouddeploy.rehearse import collect_wheels
from clouddeploy.wheelhouse import default_cache

DEADLINE_S = 240


@pytest.fixture
def clouds(tmp_path):
    """A `Clouds` whose machines are network namespaces; needs root."""
    collect_wheels(default_cache())  # while there is a network; the served world has none
    directory = tmp_path / "served"
    directory.mkdir()
    with (directory / "log").open("w") as log:
        command = [sys.executable, "-m", "clouddeploy_rehearsal", "serve", "--directory", str(directory)]
        process = subprocess.Popen(["unshare", "--net", *command], stdout=log, stderr=log)
    endpoints = directory / "endpoints.json"
    deadline = time.monotonic() + 60
    try:
        while not endpoints.exists():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Clouds(process.pid, endpoints)
    finally:
        process.terminate()
        process.wait(timeout=30)


class Clouds:
    """Runs commands as somebody whose clouds are the emulated ones."""

    def __init__(self, pid, endpoints):
        self.endpoints = endpoints
        self._inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        # What start.sh calls; where the clouds are is not for it to know.
        self._bin = endpoints.parent / "bin"
        self._bin.mkdir()
        tool = self._bin / "clouddeploy"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m clouddeploy.cli "$@" --endpoints {endpoints}\n')
        tool.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}", "HOME": str(Path.home())}

    def run(self, *words):
        return subprocess.run(
            [*self._inside, *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_S,
        )

    def json(self, *words):
        done = self.run("clouddeploy", *words, "--output", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["data"]

    def talk(self, *words, answers):
        """Runs a command at a terminal; returns its exit status and all that it showed.

        Args:
            words: the command.
            answers: (end of a question, what is typed then), in order.
        """
        pid, terminal = pty.fork()
        if pid == 0:
            command = [*self._inside, *map(str, words)]
            os.execvpe(command[0], command, self.environment)  # noqa: S606 - no shell is what is wanted
        shown, asked, waiting = "", 0, list(answers)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline, shown
            if waiting and waiting[0][0] in shown[asked:]:
                asked = len(shown)
                os.write(terminal, f"{waiting.pop(0)[1]}\n".encode())
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                said = os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
            if not said:
                break
            shown += said.decode(errors="replace")
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown
