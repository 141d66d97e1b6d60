"""A session of an admin without a server, and the means to run commands with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from click.testing import CliRunner
from clouddeploy_runtime.admin.sites import SiteReply
from clouddeploy_runtime.admin.status import ClientInfo, OpenSession, SystemStatus
from clouddeploy_runtime.errors import ConnectionFailed, InvalidTarget, JobNotFound, Timeout
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.jobs.rounds import Round
from clouddeploy_runtime.studies import Study

from clouddeploy.cli.kits import Opening

JOB = JobInfo("j-1", "tiny", JobStatus.RUNNING, submitter="lead@x.org", sites=("site-1",), total_rounds=2)
ROUNDS = tuple(
    Round(
        round=number,
        total_rounds=2,
        seconds=0.5,
        metrics={"loss": 1.0 / number, "accuracy": 0.5},
        bytes_down=0,
        bytes_up=0,
        answered=1,
    )
    for number in (1, 2)
)
CLIENTS = tuple(ClientInfo(name, "127.0.0.1:5", f"2030-01-0{n}", ()) for n, name in enumerate(("site-1", "site-2"), 1))


@dataclass
class FakeSites:
    """Answers for two sites; `silent` are those that do not."""

    silent: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def _answer(self, name, target, *more):
        self.asked.append((name, target, *more))
        names = {"all": ("server", "site-1", "site-2"), "client": ("site-1", "site-2")}.get(target)
        names = names or ((target,) if isinstance(target, str) else tuple(target))
        data = {"check_status": {"jobs": [{"job_id": "j-1", "app": "app", "status": "RUNNING"}]}}.get(
            name, {"version": "1.0", "text": f"log of {name}\x1b[2J", "tasks": {"train": {"count": 1}}}
        )
        return {
            site: SiteReply(site, code=self.silent[site], reason="so it is")
            if site in self.silent
            else SiteReply(site, data=data)
            for site in names
        }

    def check_status(self, names=()):
        return self._answer("check_status", names or "client")

    def report_version(self, target):
        return self._answer("report_version", target)

    def can_i(self, target, right, **about):
        found = self._answer("can_i", target, right, about)
        return {site: replace(one, data={"allowed": right == "cat", "rule": "so"}) for site, one in found.items()}

    def sys_info(self, target):
        return self._answer("sys_info", target)

    def show_stats(self, job_id, target):
        return self._answer("show_stats", target, job_id)

    def configure_site_log(self, target, config):
        return self._answer("configure_site_log", target, config)

    def configure_job_log(self, job_id, target, config):
        return self._answer("configure_job_log", target, job_id, config)

    def job_log(self, job_id, target, **options):
        return self._answer("job_log", target, job_id, options)


class FakeStudies:
    """One registered study."""

    def __init__(self) -> None:
        self.known = {"trial": Study("trial", {"org_a": ("site-1",)}, {"lead@x.org": "lead"})}

    def list(self):
        return list(self.known.values())

    def show(self, name):
        return self.known[name]

    def register(self, name, *, site_orgs, sites, users):
        self.known[name] = Study(name, {**site_orgs, "?": tuple(sites)}, dict(users))
        return self.known[name]

    def remove(self, name):
        del self.known[name]

    def add_site(self, name, sites=(), *, site_orgs=None):
        study = self.known[name]
        self.known[name] = replace(study, site_orgs={**study.site_orgs, **site_orgs, "?": tuple(sites)})
        return self.known[name]

    remove_site = add_site

    def add_user(self, name, user, role=""):
        study = self.known[name]
        self.known[name] = replace(study, users={**study.users, user: role})
        return self.known[name]

    def remove_user(self, name, user):
        study = self.known[name]
        self.known[name] = replace(study, users={one: role for one, role in study.users.items() if one != user})
        return self.known[name]


class FakeSession:
    """An admin's session; `calls` has what was asked to be changed."""

    def __init__(self, *, jobs=(JOB,), clients=CLIENTS, running=()) -> None:
        self.jobs = {info.job_id: info for info in jobs}
        self.clients = {one.name: one for one in clients}
        self.running = running
        self.sites, self.studies = FakeSites(), FakeStudies()
        self.calls: list[tuple[str, ...]] = []
        self.states = [JOB, replace(JOB, rounds=1, history=ROUNDS[:1])]
        self.end = replace(JOB, status=JobStatus.COMPLETED, rounds=2, history=ROUNDS)
        self.is_stuck = False
        """Nobody obeys."""
        self.is_up = True
        self.polls_away = 0

    def __enter__(self):
        return self

    def __exit__(self, *_ended):
        return None

    def submit(self, folder, *, token=""):
        self.calls.append(("submit", str(folder), token))
        return "j-1"

    def list_jobs(self, **wanted):
        self.calls.append(("list_jobs", json.dumps(wanted, sort_keys=True)))
        return list(self.jobs.values())

    def job_meta(self, job_id):
        if job_id not in self.jobs:
            raise JobNotFound(f"There is no job {job_id}")
        return self.jobs[job_id]

    def job_log(self, job_id, *, site="server"):
        if site == "site-9":
            return "what it said\n"
        if site != "server":
            raise InvalidTarget(f"There is no log of {site!r}")
        return "".join(f"line {number}\n" for number in range(1000))

    def watch(self, job_id, *, timeout_s, **_options):
        yield from self.states
        if self.end is None:
            raise Timeout("The job has not ended", why="it runs")
        yield self.end

    def wait(self, job_id, timeout_s):
        return self.end

    def abort(self, job_id):
        self.calls.append(("abort", job_id))

    def clone(self, job_id):
        return "j-2"

    def delete(self, job_id):
        self.calls.append(("delete", job_id))

    def download(self, job_id, target):
        (target / job_id).mkdir(parents=True, exist_ok=True)
        return target / job_id

    def system_status(self):
        if self.polls_away > 0:
            self.polls_away -= 1
            raise ConnectionFailed("away")
        if not self.is_up:
            raise ConnectionFailed("gone")
        return SystemStatus("server1", tuple(self.clients.values()), "serving", ("site-9",), tuple(self.running), {})

    def report_resources(self):
        return {name: {"total": {"gpus": 1}, "free": {"gpus": 0}} for name in self.clients}

    def shutdown(self, target="server", *, force=False):
        self.calls.append(("shutdown", target, *(("force",) if force else ())))
        if self.is_stuck:
            return
        if target == "server":
            self.is_up = False
        for name in list(self.clients) if target == "@ALL" else [target]:
            self.clients.pop(name, None)

    def restart(self, target="server", *, force=False):
        self.calls.append(("restart", target, *(("force",) if force else ())))
        if self.is_stuck:
            return
        if target == "server":
            self.polls_away = 2
        for name in list(self.clients) if target == "@ALL" else [target]:
            if name in self.clients:
                self.clients[name] = replace(self.clients[name], connected_since="2030-02-01")

    def disable_client(self, name):
        self.calls.append(("disable_client", name))

    def enable_client(self, name):
        self.calls.append(("enable_client", name))

    def sessions(self):
        return [OpenSession("s-1", "lead@x.org", "x", "lead", "default", "127.0.0.1", "2030-01-01", 3.0)]

    def end_sessions(self, user, *, session=""):
        self.calls.append(("end_sessions", user, session))
        return 1


class FakeOpening(Opening):
    """Opens one fake session, whoever's kit it is; `opened` has what was asked for."""

    def __init__(self, session) -> None:
        self.fake = session
        self.opened: list[tuple[str, float, str]] = []

    def session(self, folder, *, timeout_s, study):
        self.opened.append((str(folder), timeout_s, study))
        return self.fake


def invoke(command, *words, opening=None, expected=0, form="json"):
    """Run a command; returns its envelope, or with another form its output."""
    result = CliRunner().invoke(command, [*map(str, words), "--output", form], obj=opening)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expected, result.output
    if form != "json":
        return result.output
    envelope = json.loads(result.stdout.splitlines()[-1])
    assert envelope["exit_code"] == expected
    assert envelope["schema_version"] == "1"
    return envelope
