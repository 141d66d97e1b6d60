"""Shutdown and restart at the server: nobody's job or connection ends without being meant to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from clouddeploy_runtime import tls
from clouddeploy_runtime.errors import ClientsRunning, InvalidCommand, InvalidTarget, JobsRunning
from clouddeploy_runtime.jobs import ALL_SITES
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.stops import Stops
from clouddeploy_runtime.signing import FORCED

ROOT = tls.Peer(name="root@org.example", org="org", role="project_admin")


class Server:
    """A server's commands; `log` has what became of its process."""

    def __init__(self, *names, running=(), jobs=()):
        self.log, self.sessions = [], {}
        self.registry = Registry()
        for name in names:
            session = self.registry.register(name=name, address="a", active_jobs=set())
            session.is_streaming = True
            self.registry.opened(session)
            self.sessions[name] = session
        infos = [SimpleNamespace(job_id=job_id, study=study) for job_id, study in jobs]
        self.stops = Stops(
            SimpleNamespace(name="server1"),
            store=SimpleNamespace(all=lambda: infos),
            scheduler=SimpleNamespace(running=running, end_all=self.log.append),
            registry=self.registry,
            stop=SimpleNamespace(set=lambda: self.log.append("stop"), restart=lambda: self.log.append("restart")),
        )

    def give(self, name, target="server", *, study="default", **more):
        call = Call(peer=ROOT, arguments={"target": target, **more}, signed=b"signed", study=study)
        return asyncio.run(self.stops.table[name].handle(call))

    def told(self, name):
        """Return how many wishes wait for a client."""
        return self.sessions[name].outbox.qsize()


@pytest.mark.parametrize("name", ["shutdown", "restart"])
def test_a_server_with_jobs_goes_on_unless_it_is_forced(name):
    server = Server(running=("j-1",), jobs=[("j-1", "")])
    with pytest.raises(JobsRunning, match="j-1"):
        server.give(name)
    assert server.log == []
    server.give(name, force=FORCED)
    assert server.log[-1] == {"shutdown": "stop", "restart": "restart"}[name]


def test_a_server_with_clients_is_restarted_and_not_shut_down():
    server = Server("site-1")
    with pytest.raises(ClientsRunning, match="site-1"):
        server.give("shutdown")
    server.give("restart")
    server.give("shutdown", "server1", force=FORCED)
    assert server.log == ["restart", "the server was shut down by root@org.example", "stop"]


@pytest.mark.parametrize("name", ["shutdown", "restart"])
def test_clients_with_jobs_are_not_disturbed(name):
    server = Server("site-1", "site-2", jobs=[("j-1", "")])
    server.sessions["site-1"].jobs.add("j-1")
    for target in ("site-1", ALL_SITES):
        with pytest.raises(JobsRunning, match="j-1"):
            server.give(name, target)
    assert (server.told("site-1"), server.told("site-2")) == (0, 0)
    server.give(name, "site-2")
    server.give(name, ALL_SITES, force=FORCED)
    assert (server.told("site-1"), server.told("site-2")) == (1, 2)
    with pytest.raises(InvalidTarget):
        server.give(name, "site-9")


def test_of_jobs_of_other_studies_only_the_number_is_told():
    server = Server(running=("j-1", "j-2", "j-3"), jobs=[("j-1", "heart"), ("j-2", ""), ("j-3", "lung")])
    with pytest.raises(JobsRunning) as refused:
        server.give("shutdown", study="heart")
    assert refused.value.why == "there run j-1, 2 of other studies"


def test_a_force_is_a_plain_yes():
    with pytest.raises(InvalidCommand, match="force"):
        Server("site-1").give("shutdown", force="perhaps")
