"""Questions that want more than they may, and answers and logs that are made to do harm."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from clouddeploy_runtime.errors import JobNotFound
from clouddeploy_runtime.inspection import files, job_logs, questions
from clouddeploy_runtime.inspection.files import PathRefused, Shell
from clouddeploy_runtime.inspection.job_logs import JobLogs
from clouddeploy_runtime.launchers.output import NAME

from tests.integration.federation import SERVER
from tests.unit.runtime_net.test_inspection_inquiries import JOB, AskedSite, Server, site, world

__all__ = ["site", "world"]  # fixtures


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "workspace"
    for folder in ("data/raw", "jobs/one/run", "store"):
        (root / folder).mkdir(parents=True)
    for name in ("data/patients.csv", "data/raw/more.csv", "studies.json", "jobs/deleted.json", "store/own.csv"):
        (root / name).write_text("secret")
    return root


def test_a_sites_own_data_is_not_in_its_workspace_for_people(workspace, tmp_path):
    shell = Shell(workspace, tmp_path / "kit", hidden=(workspace / "data", workspace / "away"))
    for path in ("data/patients.csv", "./data//raw/more.csv"):
        with pytest.raises(PathRefused):
            shell.run("cat", [path])
    with pytest.raises(PathRefused):
        shell.run("ls", ["data/raw"])
    assert shell.run("ls", [])["text"].split() == ["jobs", "store"]


def test_data_behind_a_link_and_a_workspace_that_is_all_data_are_not_shown(workspace, tmp_path):
    (workspace / "link").symlink_to(workspace / "store")
    shell = Shell(workspace, tmp_path / "kit", hidden=(workspace / "link",))
    with pytest.raises(PathRefused):
        shell.run("cat", ["store/own.csv"])
    with pytest.raises(PathRefused):
        Shell(workspace, tmp_path / "kit", hidden=(workspace,)).run("cat", ["store/own.csv"])


@pytest.mark.parametrize("path", ["studies.json", "jobs/deleted.json"])
def test_who_is_in_which_study_and_which_tokens_there_were_is_nobodys_business(workspace, tmp_path, path):
    with pytest.raises(PathRefused):
        Shell(workspace, tmp_path / "kit").run("cat", [path])


@pytest.mark.parametrize(
    ("command", "words", "jobs"),
    [
        ("cat", ["log.txt"], set()),
        ("pwd", [], set()),
        ("ls", ["-l", "jobs"], set()),
        ("cat", [f"jobs/{JOB}/run/log.txt"], {JOB}),
        ("cat", [f"./store//{JOB}/run/log.txt"], {JOB}),
        ("tail", ["-n", "5", "jobs/./one/run/log.txt"], {"one"}),
        ("grep", ["jobs/one", "log.txt"], set()),
        ("grep", ["-n", "loss", "jobs/one/run/log.txt"], {"one"}),
        ("ls", ["--", "jobs/one"], {"one"}),
    ],
)
def test_it_is_known_into_whose_folders_a_command_looks(command, words, jobs):
    assert files.jobs_in(command, words) == jobs


def words(*given):
    return {"words": json.dumps(given)}


def test_the_folder_of_a_job_takes_the_right_to_its_result_at_a_site(site, world):
    lead, other, root = (world.people[name] for name in ("lead", "other", "root"))
    policy = json.loads((site.kit.local / "authorization.json").read_text())
    policy["permissions"]["lead"]["shell_commands"] = "any"
    (site.kit.local / "authorization.json").write_text(json.dumps(policy))
    own = {"target": "site-1,", **words(f"jobs/{JOB}/run/log.txt")}
    asked = AskedSite(site, submitter=lead.peer)
    assert asked.ask(lead.command("cat", number=1, **own)).code == ""
    assert asked.ask(root.command("cat", number=1, **own)).code == ""
    assert asked.ask(other.command("cat", number=1, **own)).code == "AUTHORIZATION_REFUSED"
    assert asked.ask(other.command("cat", number=2, target="site-1,", **words("log.txt"))).code == ""
    assert AskedSite(site, submitter=None).ask(lead.command("cat", number=3, **own)).code == "AUTHORIZATION_REFUSED"


def test_the_folder_of_another_studys_job_is_asked_for_nowhere(site):
    async def scenario(path):
        server = Server(site, "a")
        server.inquiries._sees = lambda study, job_id: job_id != JOB
        await server.ask("all", "cat", **words(path))

    for path in (f"jobs/{JOB}/run/log.txt", f"jobs/{JOB}"):
        with pytest.raises(JobNotFound):
            asyncio.run(scenario(path))


@pytest.mark.parametrize("depth", [40, 400, 990])
def test_a_site_that_answers_in_depth_keeps_nobody_from_the_other_answers(site, depth):
    async def scenario():
        server = Server(site, "a", "b")
        asking = server.ask("a,b,")
        number = await server.asked("a")
        server.say("a", number, b'{"x":' + b"[" * depth + b"]" * depth + b"}")
        server.say("b", number, b'{"n": 1}')
        return (await asking)["sites"]

    found = asyncio.run(scenario())
    assert (found["a"]["code"], found["b"]) == ("BAD_ANSWER", {"data": {"n": 1}})


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b'{"jobs": "x"}', []),
        (b'{"jobs": [1, [], {"job_id": {"a": 1}, "app": 7, "more": "x"}]}', [("{'a': 1}", "7", "")]),
        (b"{}", []),
    ],
)
def test_what_a_site_says_of_its_jobs_is_a_list_of_jobs_whatever_it_is(site, said, shown):
    async def scenario():
        server = Server(site, "a")
        asking = server.ask("a,", "check_status")
        server.say("a", await server.asked("a"), said)
        return (await asking)["sites"]["a"]["data"]["jobs"]

    found = asyncio.run(scenario())
    assert found == [dict(zip(("job_id", "app", "status"), one, strict=True)) for one in shown]


def test_a_defect_at_the_server_is_its_own_answer_alone_and_recorded(site):
    async def scenario():
        server = Server(site, "a", answer={})
        server.looks._answer = ZeroDivisionError("defect")
        asking = server.ask("all")
        server.say("a", await server.asked("a"), b'{"n": 1}')
        return (await asking)["sites"]

    found = asyncio.run(scenario())
    assert found["a"] == {"data": {"n": 1}}
    assert "ZeroDivisionError" in found[SERVER]["reason"]
    entries = [json.loads(line) for line in (site.workspace / "server-audit.jsonl").read_text().splitlines()]
    assert [(one["action"], one["result"], one["code"]) for one in entries] == [
        (f"sys_info {SERVER}", "failed", "FAILED")
    ]


def test_a_change_that_the_server_makes_at_itself_is_recorded_as_done(site):
    async def scenario():
        return await Server(site).ask("server", "configure_site_log", config="DEBUG")

    asyncio.run(scenario())
    (entry,) = [json.loads(line) for line in (site.workspace / "server-audit.jsonl").read_text().splitlines()]
    assert (entry["action"], entry["result"]) == (f"configure_site_log {SERVER}", "done")


@pytest.fixture
def logs(tmp_path):
    """A function that makes the log of a job; returns what shows it."""
    folder = tmp_path / "jobs" / "one" / "run"
    folder.mkdir(parents=True)

    def one(content):
        (folder / NAME).write_bytes(content)
        return JobLogs(tmp_path / "jobs", "run")

    return one


@pytest.mark.parametrize("stamp", ["2026-99-99 00:00:00", "0000-01-01 00:00:00", "٢٠٢٦-٠١-٠١ ٠٠:٠٠:٠٠"])  # noqa: RUF001 - digits of another script are meant
def test_a_time_that_a_job_makes_up_keeps_nobody_from_its_log(logs, stamp):
    shown = logs(f"{stamp} x\n2030-01-01 00:00:00 y\n".encode())
    assert shown.text("one", {"since": "2029-01-01"})["text"] == "2030-01-01 00:00:00 y\n"


def test_of_nothing_nothing_is_shown(logs):
    assert logs(b"line\n").text("one", {"max_bytes": "0"}) == {"text": "", "is_cut": True}


def test_errors_full_of_odd_signs_fit_into_an_answer(logs):
    lines = logs((b"Error " + b"\x00" * 3000 + b"\n") * 600).errors("one")
    assert 0 < len(lines) < 500
    assert len(msgspec.json.encode(lines)) < job_logs._MAX_ERROR_BYTES + 1000
    assert questions.MAX_ANSWER_BYTES > 2 * job_logs._MAX_ERROR_BYTES
