"""A server's port where TLS shows nobody's name: strangers, sites that do not read, and what sites say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import grpc
import msgspec
import pytest
from clouddeploy_runtime import identity_proof, jobs, kit, login_proof, server_proof, tls
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.errors import InvalidCommand, JobNotFound, NoSession
from clouddeploy_runtime.kit.kit import certificate
from clouddeploy_runtime.lifecycle import StopSignal
from clouddeploy_runtime.server import federation as federating
from clouddeploy_runtime.server.commands import Commands
from clouddeploy_runtime.server.federation import FederationCalls
from clouddeploy_runtime.server.gate import Gate
from clouddeploy_runtime.server.membership import Membership
from clouddeploy_runtime.server.people import PeopleCalls
from clouddeploy_runtime.server.registration import Registration
from clouddeploy_runtime.server.scheduler import Scheduler
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.store import JobStore
from clouddeploy_runtime.server.submissions import Submissions
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

from tests.integration.federation import PROJECT, Authority, tiny_job


class Watched(Registry):
    """Counts the streams that ended."""

    ended = 0

    def closed(self, session):
        self.ended += 1
        super().closed(session)


class Server:
    """The calls of a server on a port of this machine, without its loops."""

    def __init__(self, folder):
        self.authority = Authority(folder / "kits", port=1)
        self.authority.security = "tls"
        self.kit = kit.load(self.authority.server())
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.registry = Watched()
        self.membership = Membership(self.registry, self.workspace, heartbeat_s=60)
        self.store = JobStore(self.workspace / "jobs")
        self.scheduler = Scheduler(self.store, self.registry)
        self.gate = Gate(self.kit, self.registry, self.workspace, self.audit_log())

    def audit_log(self):
        return AuditLog(self.workspace / "audit.jsonl")

    def audited(self):
        with contextlib.suppress(FileNotFoundError):
            lines = (self.workspace / "audit.jsonl").read_text().splitlines()
            return [(entry["user"], entry["action"], entry["result"]) for entry in map(json.loads, lines)]
        return []

    @contextlib.asynccontextmanager
    async def serving(self):
        submissions = Submissions(self.store, Settings())
        commands = Commands(
            self.kit,
            store=self.store,
            scheduler=self.scheduler,
            registry=self.registry,
            membership=self.membership,
            submissions=submissions,
            stop=StopSignal(self.workspace),
        )
        people = PeopleCalls(
            self.kit,
            store=self.store,
            scheduler=self.scheduler,
            submissions=submissions,
            commands=commands,
            audit=self.audit_log(),
            gate=self.gate,
        )
        registration = Registration(self.kit, self.registry, self.gate, self.membership, is_running=lambda _: False)
        federation = FederationCalls(registration, self.registry, self.scheduler)
        server = grpc.aio.server(options=list(rpc.SERVER_OPTIONS))
        server.add_generic_rpc_handlers((federation.handler(), people.handler()))
        self.authority.port = tls.listen(server, "127.0.0.1:0", self.kit)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    def person(self, name="ann", role="lead"):
        return AdminSession(kit.load(self.authority.admin(name, role)))

    async def site(self, channel, name="site-1"):
        """Register a site; returns its session."""
        own = kit.load(self.authority.client(name))
        proof = identity_proof.make(own, number=await self.number(channel, own))
        request = pb.RegisterRequest(project=PROJECT, name=name, proof=proof, instance="a")
        await channel.unary_unary(rpc.REGISTER)(request.SerializeToString())
        return self.registry.session_of(name)

    async def number(self, channel, own):
        asked = server_proof.request(server_proof.nonce(), security="tls", certificate=own.cert_file.read_bytes())
        reply = await channel.unary_unary(rpc.PROVE)(asked, metadata=((rpc.SECURITY_KEY, "tls"),))
        return msgspec.msgpack.decode(reply, type=server_proof.Proof).number


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def play(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def while_serving(server, talk):
    async with server.serving():
        await asyncio.to_thread(talk)


def channel_to(server, name="somebody"):
    return tls.aio_channel(kit.load(server.authority.client(name)))


def test_a_stranger_leaves_no_entry_and_one_line_in_the_log(server, caplog):
    async def scenario():
        async with server.serving(), channel_to(server) as channel:
            for method in (rpc.COMMAND, rpc.CHALLENGE, rpc.COMMAND):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b'{"command": "list_jobs"}', metadata=((rpc.TOKEN_KEY, "x"),))
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    play(scenario)
    assert server.audited() == []
    assert caplog.text.count("A connection was refused a person's call: it has no session here") == 1


def test_a_person_is_known_again_after_the_server_was_restarted(server, tmp_path):
    def talk():
        with server.person() as session:
            assert session.list_jobs() == []
            server.gate.logins._open.clear()
            job_id = session.submit(tiny_job(tmp_path / "job"))
            server.gate.logins._open.clear()
            assert session.job_meta(job_id).job_id == job_id

    play(lambda: while_serving(server, talk))


def test_a_site_gets_no_persons_session_and_that_is_recorded(server):
    async def scenario():
        async with server.serving(), channel_to(server) as channel:
            own = kit.load(server.authority.client("site-1"))
            number = await server.number(channel, own)
            proof = login_proof.make(own, number=number, study="default", server=certificate(server.kit.cert_file))
            with pytest.raises(grpc.aio.AioRpcError, match="site-1 is no person"):
                await channel.unary_unary(rpc.LOGIN)(proof)

    play(scenario)
    assert server.audited() == [("site-1", "login", "refused")]


def test_what_is_asked_of_no_job_or_is_no_command_is_recorded(server):
    def talk():
        with server.person() as session:
            with pytest.raises(JobNotFound):
                session.job_meta("none")
            with pytest.raises(InvalidCommand, match="There is no command 'dance'"):
                session.ask("dance")

    play(lambda: while_serving(server, talk))
    seen = server.audited()
    assert seen == [
        ("ann", "login", "allowed"),
        ("ann", "get_job_meta none", "refused"),
        ("ann", "dance", "refused"),
        ("ann", "logout", "allowed"),
    ]


def test_a_list_of_jobs_is_as_long_as_an_answer_may_be(server, tmp_path):
    job, ann = jobs.pack(tiny_job(tmp_path / "job")), tls.Peer(name="ann", org="org", role="lead")
    ids = [server.store.add(job, ann).job_id for _ in range(4)]
    for job_id in ids:
        server.store.note(job_id, reason="x" * 1_800_000)

    def talk():
        with server.person() as session:
            assert [info.job_id for info in session.list_jobs()] == ids[2:]

    play(lambda: while_serving(server, talk))


def test_without_a_session_even_a_wrong_command_is_answered_with_that_alone(server):
    async def scenario():
        async with server.serving(), channel_to(server) as channel:
            for request in (b"{", b'{"command": "dance"}', b'{"command": "job_meta", "job_id": "none"}'):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(rpc.COMMAND)(request)
                assert dict(caught.value.trailing_metadata())[rpc.ERROR_KEY] == NoSession.error_code

    play(scenario)


def is_stuck(session):
    """Fill a session until its connection has taken nothing for a while."""
    if session.outbox.qsize() < 2:
        session.outbox.put_nowait(pb.ServerEvent(run_task=pb.RunTask(task=bytes(4 << 20))))
    return session.stuck_since is not None and time.monotonic() - session.stuck_since > 0.2


def test_a_site_that_does_not_read_can_be_ended(server, monkeypatch):
    monkeypatch.setattr(federating, "_HANG_UP_S", 0.1)

    async def scenario():
        async with server.serving(), channel_to(server) as channel:
            session = await server.site(channel)
            call = channel.stream_stream(rpc.SESSION)(metadata=((rpc.TOKEN_KEY, session.token),))
            await call.write(pb.ClientEvent(heartbeat=pb.Heartbeat()).SerializeToString())
            await until(lambda: session.was_announced)
            await until(lambda: is_stuck(session))
            server.registry.end(session)
            assert server.registry.all() == []
            await until(lambda: server.registry.ended == 1)
            call.cancel()

    play(scenario)


def test_many_heartbeats_are_answered_once_while_the_answer_waits(server):
    async def scenario():
        async with server.serving(), channel_to(server) as channel:
            session = await server.site(channel)
            calls = FederationCalls(None, server.registry, server.scheduler)
            for _ in range(100):
                await calls._handle(session, pb.ClientEvent(heartbeat=pb.Heartbeat()))
            assert session.outbox.qsize() == 1

    play(scenario)


class Job:
    sites = ("site-1",)

    def __init__(self):
        self.said = []

    def site_ended(self, _site, reason, **_):
        self.said.append(reason)

    def deployed(self, _site, reason, *, scope):
        self.said.append(reason)


def test_what_a_site_says_is_bounded_and_of_plain_signs(server, monkeypatch):
    job = Job()
    monkeypatch.setattr(server.scheduler, "find", lambda _: job)
    session = server.registry.register(name="site-1", address="here", active_jobs=set())
    calls = FederationCalls(None, server.registry, server.scheduler)

    async def scenario():
        forged = "no\r\n2026-01-01 - INFO - all is well\x1b[2J"
        await calls._handle(session, pb.ClientEvent(job_deployed=pb.JobDeployed(job_id="j", reason=forged)))
        long = "x" * 7_000_000
        ended = pb.JobEnded(job_id="j", reason=f"{long}\nsecret\x1b\n{long}the end")
        await calls._handle(session, pb.ClientEvent(job_ended=ended))
        answer = pb.Resources(job_id="j", reason=long, offer=b"1" * 20_000, reservation="r" * 2000)
        await calls._handle(session, pb.ClientEvent(resources=answer))

    play(scenario)
    assert job.said[0] == r"no\r 2026-01-01 - INFO - all is well\x1b[2J"
    first, _, tail = job.said[1].partition("\n")
    assert (len(first), len(tail), tail.endswith("the end")) == (2000, 4000, True)
    assert server.scheduler.reservations.offers == {"site-1": {}}


def test_a_site_wakes_the_scheduler_once_for_a_job_that_it_had_and_for_no_other(server, tmp_path):
    calls = FederationCalls(None, server.registry, server.scheduler)
    session = server.registry.register(name="site-1", address="here", active_jobs=set())
    info = server.store.add(jobs.pack(tiny_job(tmp_path / "job")), tls.Peer(name="ann", org="org", role="lead"))
    server.store.update(info.job_id, sites=("site-1",))

    async def scenario():
        woken = []
        server.scheduler.wake = lambda: woken.append(True)
        for job_id in ("none", info.job_id, info.job_id):
            await calls._handle(session, pb.ClientEvent(job_ended=pb.JobEnded(job_id=job_id)))
        assert woken == [True]

    play(scenario)
