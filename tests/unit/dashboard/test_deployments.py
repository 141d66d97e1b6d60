"""Deployments in the dashboard: who may do what with them, one run at a time, and what the page shows of it."""

import json
import queue

import pytest
from clouddeploy_rehearsal.probe import until

from clouddeploy.dashboard import deploy_files, runs
from clouddeploy.dashboard.runs import Run

DEPLOY = b"version: 1\nproject: project.yml\nsites:\n  server1: {provider: aws, region: us-west-2}\n"
FILE = {"file": ("deploy.yml", DEPLOY, "application/yaml")}


class Process:
    """The other end of the pipe: what a run's process is told, and what it tells."""

    def __init__(self):
        self.told, self._says = [], queue.Queue()

    def __call__(self):
        return self

    def send_bytes(self, message):
        self.told.append(message)

    def recv_bytes(self):
        message = self._says.get(timeout=10)
        if message is None:
            raise EOFError
        return message

    def close(self):
        self._says.put(None)

    def says(self, **what):
        self._says.put(json.dumps(what).encode())


@pytest.fixture
def process(world):
    one = Process()
    world.desk.runs._launch = one
    return one


@pytest.fixture
def root(world, process):
    world.configure()
    browser = world.browser()
    browser.get("/deployments")
    assert browser.send("/deployments", files=FILE, name="hybrid").status_code == 303
    return browser


def test_without_any_it_says_how_to_get_one(world):
    assert "There is none yet. Send a deploy file below" in world.browser().get("/deployments").text


def test_a_file_that_was_sent_is_there_and_private(world, root):
    path = world.desk.folder / "deployments" / "hybrid.yml"
    assert path.read_bytes() == DEPLOY
    assert path.stat().st_mode & 0o077 == 0
    text = root.get("/deployments").text
    assert 'href="/deployments/hybrid"' in text
    assert "never" in text
    assert "server1: aws" in root.get("/deployments/hybrid").text
    assert [one["detail"] for one in world.audited("keep_deploy_file")] == ["hybrid"]


def test_a_file_that_was_put_there_with_others_is_found(world, root):
    place = world.desk.folder / "deployments" / "cloud"
    place.mkdir()
    (place / "deploy.yml").write_bytes(DEPLOY)
    assert 'href="/deployments/cloud"' in root.get("/deployments").text
    root.get("/deployments")
    assert root.send("/deployments", files=FILE, name="cloud").status_code == 409


@pytest.mark.parametrize("name", ["../up", "a/b", "", "x" * 41, ".runs"])
def test_a_name_that_is_no_name_is_refused(world, root, name):
    root.get("/deployments")
    assert root.send("/deployments", files=FILE, name=name).status_code == 400
    assert root.get(f"/deployments/{name or 'none'}").status_code == 404


def test_what_is_no_deploy_file_is_refused_and_the_earlier_one_stays(world, root):
    root.get("/deployments")
    answer = root.send("/deployments", files={"file": ("x.yml", b"version: 1\nsites: 3\n", "text/yaml")}, name="hybrid")
    assert answer.status_code == 400
    assert [path.name for path in (world.desk.folder / "deployments").iterdir()] == ["hybrid.yml"]
    assert (world.desk.folder / "deployments" / "hybrid.yml").read_bytes() == DEPLOY


def test_a_run_is_told_what_to_do_and_the_page_what_happens(world, root, process):
    root.get("/deployments/hybrid")
    assert root.send("/deployments/hybrid/start", verb="plan").status_code == 303
    until(lambda: process.told)
    assert json.loads(process.told[0]) == {
        "verb": "plan",
        "file": str(world.desk.folder / "deployments" / "hybrid.yml"),
        "passphrase": "of the authority",
        "roots": [str((world.desk.folder / "deployments").resolve())],
    }
    process.says(line="server1 <b>create</b> machine done")
    until(lambda: "&lt;b&gt;create" in root.get("/deployments/hybrid").text)
    text = root.get("/deployments/hybrid").text
    assert 'data-events="/deployments/hybrid/events"' in text
    assert "Stop after what is in flight" in text
    change = {
        "action": "create",
        "node": "server1/machine",
        "name": "n",
        "place": "here",
        "size": "",
        "reason": "new",
        "usd_per_hour": 0.5,
    }
    process.says(end={"error": None, "text": "1 change(s)", "changes": [change], "resources": 3, "usd_per_hour": 0.25})
    until(lambda: "Stop after" not in root.get("/deployments/hybrid").text)
    text = root.get("/deployments/hybrid").text
    assert "server1/machine" in text
    assert "0.5000" in text
    assert "3 resources cost 0.2500 USD per hour now" in text
    assert "0.250 USD per hour" in root.get("/deployments").text
    until(lambda: world.audited("deploy_plan_ended"))
    assert [one["user"] for one in world.audited("deploy_plan")] == ["root@hub.example"]
    assert "passphrase" not in (world.desk.folder / "deployments" / ".runs" / "hybrid.json").read_text()


@pytest.mark.parametrize("verb", ["apply", "destroy"])
def test_what_costs_or_ends_something_wants_a_tick(world, root, process, verb):
    root.get("/deployments/hybrid")
    answer = root.send("/deployments/hybrid/start", verb=verb)
    assert answer.status_code == 400
    assert "tick the box" in answer.text
    assert not process.told
    assert root.send("/deployments/hybrid/start", verb=verb, sure="yes").status_code == 303
    process.says(end={"error": None})
    until(lambda: world.audited(f"deploy_{verb}_ended"))


def test_what_costs_wants_a_password_that_was_typed_a_short_time_ago(world, root, process):
    world.clock.move(minutes=20)
    root.get("/deployments/hybrid")
    answer = root.send("/deployments/hybrid/start", verb="apply", sure="yes")
    assert answer.status_code == 403
    assert not process.told


def test_one_at_a_time(world, root, process):
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="plan")
    assert root.send("/deployments/hybrid/start", verb="rehearse").status_code == 409
    assert root.send("/deployments", files=FILE, name="hybrid").status_code == 409
    process.says(end={"error": None})
    until(lambda: not world.desk.runs.is_busy("hybrid"))


def test_a_run_is_stopped_as_by_an_interrupt(world, root, process):
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="rehearse")
    until(lambda: process.told)
    assert root.send("/deployments/hybrid/stop").status_code == 303
    assert process.told[-1] == b"cancel"
    assert "told to stop" in root.get("/deployments/hybrid").text
    process.says(end={"error": {"code": "INTERRUPTED", "message": "cancelled", "hint": "the same call resumes"}})
    until(lambda: not world.desk.runs.is_busy("hybrid"))
    assert "the same call resumes" in root.get("/deployments/hybrid").text
    assert root.send("/deployments/hybrid/stop").status_code == 409
    assert world.audited("deploy_stop")


def test_a_process_that_ends_without_a_word_is_a_failure(world, root, process):
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="plan")
    process.close()
    until(lambda: not world.desk.runs.is_busy("hybrid"))
    until(lambda: "ended without a word" in root.get("/deployments/hybrid").text)


@pytest.mark.parametrize("torn", [b'{"line": "ha', b"\xff", b"3", b'{"end": 3}', b"{}"])
def test_a_line_that_is_torn_is_skipped_and_the_run_goes_on(world, root, process, torn):
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="plan")
    process._says.put(torn)
    process.says(line="whole")
    process.says(end={"error": None, "text": "done"})
    until(lambda: world.audited("deploy_plan_ended"))
    found = world.desk.runs.last("hybrid", file=deploy_files.find(world.desk.folder, "hybrid").path)
    assert (found.state, found.lines) == ("done", ("whole",))


def test_what_came_of_a_run_is_told_even_when_it_cannot_be_kept(world, root, process):
    (world.desk.folder / "deployments" / ".runs").write_text("in the way")
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="plan")
    process.says(end={"error": None, "text": "done"})
    until(lambda: world.audited("deploy_plan_ended"))
    assert not world.desk.runs.is_busy("hybrid")


def test_a_dashboard_that_starts_again_knows_the_last_run(world, root, process):
    root.get("/deployments/hybrid")
    root.send("/deployments/hybrid/start", verb="plan")
    process.says(line="one")
    process.says(end={"error": None, "text": "done"})
    until(lambda: world.audited("deploy_plan_ended"))
    found = runs.Runs().last("hybrid", file=deploy_files.find(world.desk.folder, "hybrid").path)
    assert (found.state, found.lines, found.by) == ("done", ("one",), "root@hub.example")


def test_a_verb_that_there_is_not_starts_nothing(world, root, process):
    root.get("/deployments/hybrid")
    assert root.send("/deployments/hybrid/start", verb="format", sure="yes").status_code == 400
    with pytest.raises(Exception, match="nothing was started"):
        world.desk.runs.start(Run("hybrid", "format", "me", "now"), file=world.desk.folder, passphrase=None)


def test_the_end_of_a_stream_leads_back_to_the_page(world, root, process):
    answer = root.get("/deployments/hybrid/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("event: over\ndata: \n\n")


@pytest.mark.parametrize("role", ["org_admin", "lead", "member"])
def test_nobody_else_sees_or_starts_anything(world, root, process, role):
    world.person("eve", role=role)
    browser = world.browser("eve@org-a.example")
    assert 'href="/deployments"' not in browser.get("/").text
    for path in ("/deployments", "/deployments/hybrid", "/deployments/hybrid/events"):
        assert browser.get(path).status_code == 403
    browser.get("/account")
    for path in ("/deployments", "/deployments/hybrid/start", "/deployments/hybrid/stop"):
        assert browser.send(path, files=FILE, name="mine", verb="plan", sure="yes").status_code == 403
    assert not process.told
    assert not (world.desk.folder / "deployments" / "mine.yml").exists()
