"""The console at a pseudo-terminal, on a federation: what each command shows is held against `tests/golden/console`.

`CLOUDDEPLOY_NEW_GOLDEN=1` writes the transcripts anew; look at what has changed before it is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.console.catalogue import COMMANDS
from tests.integration.federation import until
from tests.integration.rounds import ROOT, TRAIN, Jobs, job
from tests.integration.terminal import Terminal, console

GOLDEN = Path(__file__).parents[1] / "golden" / "console"
USER, ROLE = ROOT
MEMBER = "mia@org.example"
FACTS = {"sys_info", "report_resources", "list_job", "show_stats", "list_sessions"}
"""Their numbers are of the machine, or of the moment."""
pytestmark = pytest.mark.xdist_group("console")


class Normal:
    """Takes out of a transcript what is another one each time."""

    def __init__(self, federation):
        self._texts = {
            str(federation.folder): "<folder>",
            str(Path.cwd()): "<here>",
            f"127.0.0.1:{federation.port}": "<server>",
            "127.0.0.1": "<address>",
        }
        self._jobs = {}

    def __call__(self, command, text):
        for found, name in self._texts.items():
            text = text.replace(found, name)
        text = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", self._job, text)
        text = re.sub(r"Done \[\d+ usecs\] .*", "Done [<n> usecs] <time>", text)
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:[+-]\d\d:\d\d)?", "<time>", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "<digest>", text)
        text = re.sub(r"token:\w+", "token:<token>", text)
        text = re.sub(r"(?m)^\| [0-9a-f]{8} ", "| <session> ", text)
        text = re.sub(r"(?m)(may not \w+: |Why: the server's policy ).*", r"\1<reason>", text)
        text = re.sub(r'"revision": \d+', '"revision": <n>', text)
        text = re.sub(r"failed to connect to all addresses.*", "<cause>", text)
        text = re.sub(r"\b\d+\.\d+\.\d+\w*", "<version>", text)
        text = re.sub(r"\b\d+\.\d+\b", "<n>", text)
        if command in FACTS:
            text = re.sub(r"(?<=[:|] )\d+\b(?!\.)", "<n>", text)
            text = re.sub(r"(host|release|machine): .*", r"\1: <value>", text)
        if command == "report_env":
            text = re.sub(r"(?m)^( +(?!Why|Do)[\w-]+): .+$", r"\1: <value>", text)
            text = re.sub(r"(?m)^  environment:\n(?:    .*\n)+", "  environment:\n    <names>: <value>\n", text)
        return re.sub(r"-{5,}", "-----", re.sub(r"(?<=\S) {2,}", "  ", text))

    def _job(self, found):
        return self._jobs.setdefault(found[0], f"<job {len(self._jobs) + 1}>")


class Typing:
    """One person at one console, whose transcripts are kept by command."""

    def __init__(self, kit, kept, normal, *, user):
        self.terminal = Terminal(console(kit))
        self._kept, self._normal = kept, normal
        self.terminal.read_until("User Name: ")
        self.terminal.send(f"{user}\r")
        self.opening = self.terminal.read_until("> ")
        self._section = ""

    def section(self, text):
        self._section = text

    def do(self, line, *answers):
        """Type a line and what it asks for; return what is shown."""
        command = line.split()[0]
        self.terminal.send(f"{line}\r")
        shown = ""
        for answer in answers:
            shown += self.terminal.read_until("): " if answer in {"y", "n"} else "confirm: ")
            self.terminal.send(f"{answer}\r")
        shown += self.terminal.read_until("Done [") + self.terminal.read_until("> ").removesuffix("> ")
        texts = self._kept[COMMANDS[command].name if command in COMMANDS else "help"]
        heading = f"# {self._section}\n"
        if heading not in texts:
            texts.append(heading)
        texts.append(self._normal(command, f"> {shown}"))
        return shown

    def leave(self):
        self.terminal.send("bye\r")
        shown, code = self.terminal.read_to_the_end()
        self._kept["bye"] += ["# the end\n", f"> {shown}"]
        self.terminal.close()
        return code


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    one = Jobs(tmp_path_factory.mktemp("federation"))
    one.kits[MEMBER] = one.authority.admin(MEMBER, "member")
    one.kits[USER] = one.authority.admin(USER, ROLE)
    one.begin()
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture(scope="module")
def kits(federation):
    return federation.folder / "kits"


@pytest.fixture(scope="module")
def play(federation, kits):
    """What every command has shown, by its name, from the first client to the end of the server."""
    kept, normal = defaultdict(list), Normal(federation)
    root = Typing(kits / USER, kept, normal, user=USER)
    at_begin = root.opening
    without_clients(root)
    for site in ("site-1", "site-2"):
        federation.hold(site, 0)
        federation.start(site)
    for site in ("site-1", "site-2"):
        federation.wait_for(site, "registered")
    job_id = with_a_job(root, federation, kits)
    member = Typing(kits / MEMBER, kept, normal, user=MEMBER)
    as_member(member, kits, job_id)
    member.leave()
    with_clients(root, federation)
    with_studies(root)
    to_the_end(root, federation)
    code = root.leave()
    return {"kept": kept, "opening": at_begin, "code": code}


def without_clients(root):
    root.section("no client is connected")
    for line in ("check_status server", "check_status client", "report_resources", "sys_info client", "list_jobs"):
        root.do(line)
    root.do("restart client")
    for line in ("show_scopes client", "report_env client"):
        root.do(line)
    root.section("the console itself")
    for line in ("help", "? abort_job", "help nothing", "frobnicate", "info", "lpwd", "timeout", "timeout 20"):
        root.do(line)
    root.do("timeout -1")


def with_a_job(root, federation, kits):
    transfer = kits / USER / "transfer"
    transfer.mkdir()
    job(transfer / "sums", rounds=1, name="sums", script=f"{TRAIN}print('trained', flush=True)\n")
    root.section("a project admin")
    job_id = root.do("submit_job sums --submit-token run-1").split("Submitted job: ")[1].split()[0]
    for line in ("submit_job sums --submit-token run-1", "submit_job nothing", "submit_job /", "submit_job"):
        root.do(line)
    federation.wait_until_noted("site-1", "begins 0")
    federation.wait_until_noted("site-2", "begins 0")
    for line in (
        "list_jobs",
        "list_jobs -n nothing",
        "list_jobs -m many",
        "check_status server",
        "check_status client site-1",
        "check_status client site-9",
        f"show_stats {job_id} client site-1",
        f"show_errors {job_id} all",
        f"reset_errors {job_id} client",
        "show_errors absent server",
        "show_stats absent server",
        "reset_errors absent client",
        f"configure_job_log {job_id} server INFO",
        f"configure_job_log {job_id} client site-1 loudly",
        f"download_job {job_id}",
    ):
        root.do(line)
    root.do("shutdown all")
    root.do("restart client site-1")
    root.do(f"delete_job {job_id}", USER)
    clone = root.do(f"clone_job {job_id}").split("as: ")[1].split()[0]
    root.do("clone_job absent")
    root.do(f"abort_job {clone}", "n")
    root.do(f"abort_job {clone}", "y")
    for site in ("site-1", "site-2"):
        federation.release(site, 0)
    federation.ended(job_id)
    federation.ended(clone)
    for line in (
        f"show_stats {job_id} all",
        f"monitor_job {job_id}",
        "monitor_job absent",
        f"get_job_meta {job_id}",
        "get_job_meta absent",
        f"list_job {job_id}",
        "list_job absent",
        f"get_job_log {job_id} server --tail 1",
        f"get_job_log {job_id} site-1 --tail 1",
        f"get_job_log {job_id} site-9",
        f"download_job {job_id}",
        f"download_job_components {job_id}",
        "download_job_components absent",
        "configure_job_log absent server INFO",
    ):
        root.do(line)
    assert (transfer / job_id / "meta.json").is_file()
    root.do(f"delete_job {clone}", "somebody")
    root.do(f"delete_job {clone}", USER)
    root.do("abort_job absent", "y")
    return job_id


def as_member(member, kits, job_id):
    member.section("a member, who may only look")
    for line in (
        f"submit_job {kits / USER}/transfer/sums",
        f"list_job {job_id}",
        f"get_job_log {job_id}",
        f"get_job_log {job_id} site-1",
        f"clone_job {job_id}",
        f"download_job {job_id}",
        f"download_job_components {job_id}",
        f"configure_job_log {job_id} server INFO",
        "sys_info all",
        "report_resources",
        "report_env client",
        "report_version",
        "configure_site_log all INFO",
        "list_sessions",
        "register_study heart --sites site-1",
        "add_study_site heart --sites site-1",
        "remove_study_site heart --sites site-1",
        "add_study_user heart mia",
        "remove_study_user heart mia",
        "list_studies",
        "show_study heart",
        *(f"{name} server {more}".rstrip() for name, more in SHELL.items()),
    ):
        member.do(line)
    for line in (f"abort_job {job_id}", "remove_study heart", f"end_sessions {USER}"):
        member.do(line, "y")
    member.do(f"delete_job {job_id}", MEMBER)
    for line in ("disable_client", "enable_client", "remove_client"):
        member.do(f"{line} site-1", MEMBER)
    member.do("restart server", MEMBER)
    member.do("shutdown client", MEMBER)


SHELL = {
    "pwd": "",
    "ls": "notes",
    "cat": "notes/note.txt",
    "head": "-n 1 notes/note.txt",
    "tail": "-n 1 notes/note.txt",
    "grep": "second notes/note.txt",
}


def with_clients(root, federation):
    root.section("a project admin")
    notes = federation.workspace("server") / "notes"
    notes.mkdir()
    (notes / "note.txt").write_text("the first line\nthe second line\n")
    for name, more in SHELL.items():
        root.do(f"{name} server {more}".rstrip())
        root.do(f"{name} site-9 {more}".rstrip())
    for line in (
        "cat server ../kits/server/startup/server.key",
        "grep site-1 Successfully log.txt",
        "sys_info server",
        "sys_info client site-9",
        "report_resources",
        "report_env client site-1",
        "report_version",
        "show_scopes all",
        "configure_site_log client site-1 DEBUG",
        "configure_site_log all loudly",
        "list_sessions",
    ):
        root.do(line)
    root.do("end_sessions nobody@org.example", "y")
    root.do("disable_client site-2", "no")
    root.do("disable_client site-2", USER)
    root.do("check_status server")
    root.do("remove_client site-9", USER)
    root.do("enable_client site-1", USER)
    root.do("enable_client site-2", USER)
    with federation.admin(*ROOT) as session:
        until(lambda: federation.connected(session) == {"site-1", "site-2"})
    root.do("remove_client site-2", USER)
    with federation.admin(*ROOT) as session:
        until(lambda: federation.connected(session) == {"site-1", "site-2"})


def with_studies(root):
    for line in (
        "list_studies",
        "register_study heart --site-org org:site-1 --users lead@org.example:lead",
        "register_study heart",
        "register_study HEART",
        "list_studies",
        "show_study heart",
        "show_study absent",
        "add_study_site heart --sites site-2",
        "add_study_site heart --sites site-9",
        "remove_study_site heart --sites site-2",
        "remove_study_site heart --sites site-2",
        "add_study_user heart mia@org.example",
        "add_study_user heart mia@org.example",
        "remove_study_user heart mia@org.example",
        "remove_study_user heart mia@org.example",
    ):
        root.do(line)
    root.do("remove_study absent", "y")
    root.do("remove_study heart", "n")
    root.do("remove_study heart", "y")


def to_the_end(root, federation):
    root.do("shutdown server")
    root.do("shutdown client site-9")
    root.do("restart server", USER)
    federation.processes.pop("server").wait(20)
    federation.start("server")
    federation.wait_for("server", "serving")
    root.section("after a restart of the server")
    root.do("list_jobs -u")
    with federation.admin(*ROOT) as session:
        until(lambda: federation.connected(session) == {"site-1", "site-2"}, timeout_s=30)
    root.do("shutdown all", USER)
    for name in ("site-1", "site-2", "server"):
        assert federation.processes.pop(name).wait(20) == 0
    root.section("the server is gone")
    root.do("timeout 1")
    root.do("list_jobs")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_what_it_always_has(play, name):
    text = "\n".join(play["kept"][name])
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("CLOUDDEPLOY_NEW_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_the_console_says_who_and_where_and_ends_well(play):
    assert "Connected to server1 as root@org.example, study default." in play["opening"]
    assert "Type help or ? to list commands." in play["opening"]
    assert play["code"] == ExitCode.OK
