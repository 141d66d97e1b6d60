"""The live view: what the dashboard shows of a federation that runs, is away, or is not there yet."""

import contextlib
import math
import time
from dataclasses import replace

import anyio
import pytest
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.status import ClientInfo, SystemStatus
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.jobs.rounds import Round

from clouddeploy.dashboard import model, plots, watching
from clouddeploy.dashboard.live import ATTENDED_S, Line, Live, look
from clouddeploy.dashboard.settings import VIEWER
from clouddeploy.dashboard.web import streaming
from clouddeploy.dashboard.web.asking import Stream
from tests.unit.dashboard.visitors import PASSWORD

JOB = JobInfo("j-1", "tumours", JobStatus.RUNNING, submitter="lea@org-a.example", rounds=3, total_rounds=5)
CLIENT = ClientInfo("site-1", "10.0.0.7:1", "2030-01-01T00:00:00", ("j-1",), silent_s=2.4)
STATUS = SystemStatus("fl.example.com", (CLIENT,), state="serving", disabled=("site-2",))


class Server:
    """Answers as a session does."""

    def __init__(self, jobs=(JOB,), system=STATUS):
        self.jobs, self.system, self.asked = list(jobs), system, []

    def list_jobs(self, *, limit):
        return self.jobs

    def system_status(self):
        return self.system

    def job_rounds(self, job_id, *, after=0):
        self.asked.append(after)
        return tuple(_round(number) for number in range(after + 1, self.jobs[0].rounds + 1))


def _round(number, **metrics):
    return Round(number, 5, 0.5, metrics or {"accuracy": 0.5 + number / 10})


@pytest.fixture
def ann(world):
    root = world.configure(freeze=True)
    person = world.person()
    for name in ("site-1", "site-2", "site-3"):
        person.site(name, approved_by=root)
    return world.browser("ann@org-a.example")


def test_the_page_shows_sites_jobs_and_a_plot(world, ann):
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(Server(), world.desk.live.seen))
    text = ann.get("/live").text
    assert "1 of 3 sites" in text
    assert "2 s ago" in text
    for name, state in (("site-1", "connected"), ("site-2", "disabled"), ("site-3", "away")):
        assert f">{state}<" in text.split(f'<th scope="row">{name}</th>', 1)[1].partition("</tr>")[0]
    assert "3 of 5 rounds" in text
    assert "accuracy: 0.8 after round 3" in text
    assert "<polyline points=" in text


def test_before_the_freeze_it_says_what_to_do(world):
    world.configure()
    world.person()
    assert 'href="/project">Freeze the project' in world.browser().get("/live").text
    text = world.browser("ann@org-a.example").get("/live").text
    assert "has not frozen the project" in text
    assert 'href="/project"' not in text


def test_after_it_the_server_is_to_be_started(world):
    world.configure(freeze=True)
    assert "Download the server&#39;s kit, and start it" in world.browser().get("/live").text


def test_a_server_that_is_away_leaves_what_was_seen_last(world, ann):
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(Server(), world.desk.live.seen))
    world.desk.live.put(line=Line.AWAY, why="nobody answers", hint="start it")
    text = ann.get("/live").text
    assert "nobody answers" in text
    assert "tumours" in text


def test_what_jobs_say_is_no_markup(world, ann):
    job = replace(JOB, name="<script>alert(1)</script>", reason="\x1b[2J<b>")
    server = Server([job])
    server.job_rounds = lambda *_, **__: (_round(1, **{'"><script>': 1.0}), _round(2, **{'"><script>': 2.0}))
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(server, world.desk.live.seen))
    text = ann.get("/live").text
    assert "<script>alert" not in text
    assert '"><script>' not in text
    assert "\x1b" not in text


def test_somebody_who_waits_does_not_see_it(world):
    world.configure(freeze=True)
    world.person("wim", approved=False)
    browser = world.browser("wim@org-a.example")
    for path in ("/live", "/live/events"):
        assert browser.get(path).status_code == 403
    assert world.client().get("/live/events").status_code == 303


def test_rounds_are_asked_for_once(world):
    server, live = Server(), Live()
    live.put(**look(server, live.seen))
    server.jobs = [replace(JOB, rounds=5)]
    live.put(**look(server, live.seen))
    live.put(**look(server, live.seen))
    assert server.asked == [0, 3]
    assert [one.round for one in live.seen.jobs[0].history] == [1, 2, 3, 4, 5]


def test_a_job_that_went_back_to_a_checkpoint_loses_the_rounds_after_it(world):
    server, live = Server(), Live()
    live.put(**look(server, live.seen))
    server.jobs = [replace(JOB, rounds=1)]
    live.put(**look(server, live.seen))
    assert [one.round for one in live.seen.jobs[0].history] == [1]


def test_nobody_is_asked_while_nobody_looks():
    now = [0.0]
    live = Live(lambda: now[0])
    assert not live.is_attended
    live.attend()
    assert live.is_attended
    now[0] = ATTENDED_S
    assert not live.is_attended


def test_the_thread_looks_with_a_kit_that_may_look_and_nothing_else(world):
    world.configure(freeze=True)
    given = []

    @contextlib.contextmanager
    def connect(kit):
        given.append(kit)
        yield Server()

    with watching.watching(world.desk, connect=connect):
        assert not given
        world.desk.live.attend()
        until(lambda: world.desk.live.seen.line is Line.HERE)
    assert given[0].name == VIEWER
    path = watching.kit_path(world.desk)
    kits.verify(path)
    assert (path / "startup" / "client.key").stat().st_mode & 0o077 == 0
    (one,) = [one for one in world.desk.kits.certificates("trial") if one.name == VIEWER]
    assert one.role == "member"
    assert len(world.audited("make_viewer_kit")) == 1


def test_a_kit_that_was_put_there_is_used_instead(world, tmp_path):
    given = world.desk.folder / watching.GIVEN / "startup"
    given.mkdir(parents=True)
    assert watching.kit_path(world.desk) == given.parent
    assert not world.audited("make_viewer_kit")


def test_what_goes_wrong_is_told_and_tried_again(world):
    world.configure(freeze=True)
    tries = []

    @contextlib.contextmanager
    def connect(kit):
        tries.append(kit)
        if len(tries) == 1:
            raise ConnectionFailed("nobody answers", hint="start it")
        yield Server()

    with watching.watching(world.desk, connect=connect):
        world.desk.live.attend()
        until(lambda: world.desk.live.seen.line is Line.AWAY)
        assert world.desk.live.seen.hint == "start it"


def test_nobody_signs_up_as_the_dashboard(world):
    world.configure()
    body = {"email": VIEWER, "password": PASSWORD, "organization": "org_a", "role": "lead"}
    assert world.client().post("/api/v1/users", json=body).status_code == 400


def test_an_event_comes_with_each_change_and_ends(world):
    revisions = iter([1, 1, 2, 2])
    state = {"left": 4}

    def revision():
        state["left"] -= 1
        return next(revisions)

    stream = Stream("part", revision=revision, values=dict, is_over=lambda: state["left"] == 1)

    async def read():
        return [one async for one in streaming.events(stream, lambda: "a\n\nevent: b\r\rc")]

    found = anyio.run(read)
    assert [one.partition("\n")[0] for one in found] == ["retry: 1000", "event: part", "event: part", "event: over"]
    assert found[1] == "event: part\ndata: a\ndata: \ndata: event: b\ndata: \ndata: c\n\n"


def test_a_stream_ends_so_that_the_browser_shows_its_session_again():
    async def read():
        stream = Stream("part", revision=lambda: 1, values=dict)
        return [one async for one in streaming.events(stream, str, lasts_s=0)]

    assert len(anyio.run(read)) == 2


def test_a_page_that_watches_keeps_nobody_logged_in(world, monkeypatch):
    monkeypatch.setattr(streaming.events, "__kwdefaults__", {"lasts_s": 0.0})
    world.configure(freeze=True)
    browser = world.browser()
    for _ in range(4):
        world.clock.move(minutes=9)
        answer = browser.get("/live/events")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


def test_a_plot_stays_in_its_frame_and_has_gaps():
    values = [1e308, -1e308, None, 3.0, math.pi]
    (one,) = plots.charts([_round(number, loss=value) for number, value in enumerate(values, 1)])
    assert len(one.lines) == 2
    for pair in " ".join(one.lines).split():
        across, down = map(float, pair.split(","))
        assert 0 <= across <= plots.WIDTH
        assert 0 <= down <= plots.HEIGHT


def test_a_long_job_has_few_points_and_its_last_one():
    (one,) = plots.charts([_round(number, loss=1 / number) for number in range(1, 1001)])
    points = one.lines[0].split()
    assert len(points) <= 125
    assert points[-1].startswith("236.0,")
    assert one.latest == pytest.approx(0.001)


def test_a_thousand_sites_are_shown_quickly(world):
    world.configure(freeze=True)
    with world.desk.database.begin() as db:
        for org in range(100):
            owner = model.Organization(name=f"org_{org:03}")
            db.add(owner)
            for number in range(10):
                db.add(
                    model.Site(
                        name=f"site-{org:03}-{number}",
                        organization=owner,
                        creator_id=1,
                        approval_state=100,
                        created_at=world.clock(),
                    )
                )
    clients = tuple(ClientInfo(f"site-{n // 10:03}-{n % 10}", "", "2030", (), silent_s=1) for n in range(1000))
    server = Server(system=replace(STATUS, clients=clients))
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(server, world.desk.live.seen))
    browser = world.browser()
    browser.get("/live")
    begin = time.perf_counter()
    text = browser.get("/live?page=2").text
    assert time.perf_counter() - begin < 0.2
    assert "1000 of 1000 sites" in text
    assert "Page 2 of 20" in text


def test_a_program_sees_the_same(world, ann):
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(Server(), world.desk.live.seen))
    program = world.program("ann@org-a.example")
    live = program.get("/live").json()["live"]
    assert (live["line"], live["server"], live["server_state"]) == ("connected", "fl.example.com", "serving")
    assert (live["num_connected"], live["num_clients"]) == (1, 3)
    found = program.get("/live/clients").json()
    assert [(one["name"], one["state"], one["silent_s"], one["num_jobs"]) for one in found["client_list"]] == [
        ("site-1", "connected", 2.4, 1),
        ("site-2", "disabled", None, 0),
        ("site-3", "away", None, 0),
    ]
    assert found["paging"]["total"] == 3
    (job,) = program.get("/live/jobs").json()["job_list"]
    assert (job["name"], job["state"], job["rounds"], job["total_rounds"]) == ("tumours", "RUNNING", 3, 5)
    assert job["metrics"] == {"accuracy": 0.8}
    assert world.desk.live.is_attended, "to ask by program keeps it looked at"


def test_a_program_sees_when_certificates_end(world, ann):
    program = world.program("ann@org-a.example")
    (site,) = program.get("/clients", q="site-1").json()["client_list"]
    assert program.post(f"/clients/{site['id']}/blob").status_code == 200
    ends = {one["name"]: one["certificate"] for one in program.get("/live/clients").json()["client_list"]}
    assert ends["site-1"]["state"] == "valid"
    assert ends["site-2"] is None
    assert program.get("/live").json()["live"]["server_certificate"]["state"] == "valid"
