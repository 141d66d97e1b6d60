"""The console with a server: its start, completion, history, the ends of its session, and scripts."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from pathlib import Path

import pytest
from clouddeploy_runtime.errors import ExitCode

from tests.integration.rounds import ROOT, Jobs, job
from tests.integration.terminal import Terminal, console

USER, ROLE = ROOT
pytestmark = pytest.mark.xdist_group("console")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server alone, and the kit of who may do everything."""
    one = Jobs(tmp_path_factory.mktemp("server"))
    one.kits[USER] = one.authority.admin(USER, ROLE)
    one.begin()
    yield one
    one.stop("server")


@pytest.fixture
def terminal():
    """Makes terminals with a console each."""
    made = []

    def terminal(kit, *more, kind="dumb"):
        made.append(Terminal(console(kit, *more), kind=kind))
        return made[-1]

    yield terminal
    for one in made:
        one.close()


def scripted(kit, *lines, more=("--user", USER)):
    return subprocess.run(
        console(kit, *more), input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False
    )


def test_the_prompt_is_there_within_a_second(server, terminal):
    """Three are allowed, as others use the processors; alone it takes 0.25 s."""
    begin = time.monotonic()
    terminal(server.kits[USER]).read_until("User Name:")
    assert time.monotonic() - begin < 3


def test_tab_completes_commands_and_jobs(server, terminal, tmp_path):
    with server.admin(*ROOT) as session:
        job_id = session.submit(job(tmp_path / "job"))
    one = terminal(server.kits[USER], "--user", USER, kind="xterm")
    one.read_until("list commands.")
    one.send("get_job_m\t")
    one.read_until("eta")  # only what is new may be drawn
    one.send(f"{job_id[:4]}\t")
    one.read_until(job_id[4:])
    one.send("\r")
    assert '"name": "recovery"' in one.read_until("Done [")
    one.send("bye\r")
    assert one.read_to_the_end()[1] == ExitCode.OK
    with server.admin(*ROOT) as session:
        session.abort(job_id)


def test_the_history_is_kept_in_the_kit_and_for_its_owner(server, terminal):
    for line in ("lpwd", "info"):
        one = terminal(server.kits[USER], "--user", USER)
        one.read_until("> ")
        one.send(f"{line}\r")
        one.read_until("Done [")
        one.read_until("> ")
        one.send("\x04")
        assert one.read_to_the_end()[1] == ExitCode.OK
    history = server.kits[USER] / ".admin_cli_history"
    assert history.read_text().splitlines()[-2:] == ["lpwd", "info"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_who_types_nothing_is_logged_out_at_the_server_too(server, terminal):
    with server.admin("watcher@org.example", ROLE) as watcher:
        before = {login.session for login in watcher.sessions()}
        one = terminal(server.kits[USER], "--user", USER, "--idle-timeout", "1")
        one.read_until("list commands.")
        assert {login.session for login in watcher.sessions()} - before
        shown, code = one.read_to_the_end()
        assert "Logging out due to inactivity for 1 seconds" in shown
        assert code == ExitCode.OK
        assert not {login.session for login in watcher.sessions()} - before


def test_a_session_that_somebody_ended_ends_the_console(server, terminal):
    one = terminal(server.kits[USER], "--user", USER)
    one.read_until("> ")
    with server.admin("watcher@org.example", ROLE) as watcher:
        assert watcher.end_sessions(USER) >= 1
    one.send("list_jobs\r")
    shown, code = one.read_to_the_end()
    assert "Error: session_expired: " in shown
    assert code == ExitCode.CONNECTION


def test_another_name_than_the_certificates_is_refused(server, terminal):
    one = terminal(server.kits[USER])
    one.read_until("User Name:")
    one.send("somebody@org.example\r")
    shown, code = one.read_to_the_end()
    assert "somebody@org.example cannot log in with this kit" in shown
    assert code == ExitCode.CONNECTION
    done = scripted(server.kits[USER], "somebody@org.example", "list_jobs", more=())
    assert "cannot log in with this kit" in done.stderr
    assert (done.returncode, done.stdout) == (ExitCode.CONNECTION, "")


def test_a_study_that_is_not_there_is_refused(server):
    done = scripted(server.kits[USER], "list_jobs", more=("--user", USER, "--study", "absent", "--output", "json"))
    envelope = json.loads(done.stdout)
    assert envelope["error_code"].startswith("AUTH_")
    assert done.returncode == envelope["exit_code"] == ExitCode.CONNECTION


def test_a_script_does_its_lines_and_ends_with_the_first_failure(server):
    done = scripted(server.kits[USER], USER, "# jobs", "list_jobs -n none", "get_job_meta absent", "lpwd", more=())
    assert done.stdout.startswith("No jobs.\nDone [")
    assert str(Path.cwd()) not in done.stdout
    assert done.stderr.startswith("Error: invalid_job_id: There is no job 'absent'.\n")
    assert done.returncode == ExitCode.BAD_INPUT


def test_a_script_may_go_on_and_be_one_document(server):
    more = ("--user", USER, "--keep-going", "--output", "json")
    done = scripted(server.kits[USER], "frobnicate", "list_jobs -n none", "disable_client site-9", "no", more=more)
    envelope = json.loads(done.stdout)
    assert [one["status"] for one in envelope["data"]["commands"]] == ["error", "ok", "error"]
    assert envelope["data"]["commands"][1]["data"] == []
    assert done.returncode == envelope["exit_code"] == ExitCode.BAD_INPUT


def test_a_person_at_a_terminal_gets_no_json(server, terminal):
    shown, code = terminal(server.kits[USER], "--no-input").read_to_the_end()
    assert "the console cannot be opened so" in shown
    assert code == ExitCode.BAD_INPUT
