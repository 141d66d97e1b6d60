"""Questions of people on their way: the server asks all at once and reports who is silent, a site judges for itself."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from clouddeploy_runtime import audit, tls
from clouddeploy_runtime.client.inquiries import SiteInquiries
from clouddeploy_runtime.errors import ClouddeployError, InvalidCommand, InvalidTarget, NoClients
from clouddeploy_runtime.inspection import questions
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.inquiries import Inquiries
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.signing import COMMAND_AGE, SignatureRefused
from clouddeploy_runtime.wire import federation_pb2 as pb

from tests.integration.federation import SERVER
from tests.unit.runtime_net.test_admission import NOW, Site, World

JOB = "0b8b4d4e-0000-4000-8000-000000000001"
ADMIN = tls.Peer(name="root@org.example", org="org", role="project_admin")
MEMBER = tls.Peer(name="member@org.example", org="org", role="member")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def site(world, tmp_path):
    return Site(world, tmp_path)


class Looks:
    """In the place of an inspector."""

    def __init__(self, answer):
        self.given = []
        self._answer = answer

    async def answer(self, name, arguments):
        self.given.append((name, dict(arguments)))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Server:
    """A server's questions, with connected sites that answer as the test wants."""

    def __init__(self, site, *names, answer=None):
        self.registry = Registry()
        self.looks = Looks({"from": "server"} if answer is None else answer)
        site.kit.name = SERVER
        log = audit.AuditLog(site.workspace / "server-audit.jsonl")
        self.inquiries = Inquiries(
            site.kit,
            self.registry,
            inspector=self.looks,
            submitter=lambda _job_id: ("lead@org.example", "org"),
            audit=log,
        )
        self.sessions = {}
        for name in names:
            session = self.registry.register(name=name, address="a", active_jobs=set())
            session.is_streaming = True
            self.registry.opened(session)
            self.sessions[name] = session

    def ask(self, target, name="sys_info", *, peer=ADMIN, timeout_s="5", **arguments):
        given = {"target": target, "timeout_s": timeout_s, **arguments}
        call = Call(peer=peer, job_id=arguments.get("job_id", ""), arguments=given, signed=b"signed")
        return asyncio.ensure_future(self.inquiries.table[name].handle(call))

    async def asked(self, name):
        event = await asyncio.wait_for(self.sessions[name].outbox.get(), 5)
        assert event.ask_site.command == b"signed"
        return event.ask_site.id

    def say(self, name, number, document=b"{}", **more):
        self.inquiries.answered(self.sessions[name], pb.SiteAnswer(id=number, document=document, **more))


def test_all_are_asked_at_once_and_each_answer_stands_under_its_site(site):
    async def scenario():
        server = Server(site, "a", "b", "c")
        asking = server.ask("all")
        numbers = [await server.asked(name) for name in ("a", "b", "c")]
        server.say("c", numbers[2], b'{"from": "c"}')
        server.say("a", numbers[0], b'{"from": "a"}')
        server.say("b", numbers[1], code="AUTHORIZATION_REFUSED", reason="no\x1b[2J")
        return (await asking)["sites"]

    assert asyncio.run(scenario()) == {
        "a": {"data": {"from": "a"}},
        "b": {"code": "AUTHORIZATION_REFUSED", "reason": "no\\x1b[2J"},
        "c": {"data": {"from": "c"}},
        SERVER: {"data": {"from": "server"}},
    }


def test_who_does_not_answer_in_time_is_reported_and_its_late_answer_ignored(site):
    async def scenario():
        server = Server(site, "a", "b")
        asking = server.ask("client", timeout_s="0.05")
        number = await server.asked("a")
        server.say("a", number)
        answer = (await asking)["sites"]
        server.say("b", number)
        return answer

    found = asyncio.run(scenario())
    assert found["a"] == {"data": {}}
    assert found["b"]["code"] == questions.NO_REPLY


def test_a_site_that_goes_away_is_reported_at_once(site):
    async def scenario():
        server = Server(site, "a")
        asking = server.ask("a,", timeout_s="50")
        await server.asked("a")
        server.registry.end(server.sessions["a"])
        return (await asyncio.wait_for(asking, 5))["sites"]

    assert asyncio.run(scenario())["a"]["code"] == questions.SITE_GONE


def test_a_site_answers_for_itself_and_once(site):
    async def scenario():
        server = Server(site, "a", "b")
        asking = server.ask("a,b,")
        number = await server.asked("a")
        server.say("a", number, b'{"n": 1}')
        server.say("a", number, b'{"n": 2}')
        server.inquiries.answered(server.registry.register(name="x", address="", active_jobs=set()), pb.SiteAnswer())
        server.say("b", number, b"[" * 100_000)
        return (await asking)["sites"]

    found = asyncio.run(scenario())
    assert found["a"] == {"data": {"n": 1}}
    assert found["b"]["code"] == "BAD_ANSWER"


def test_answers_that_do_not_fit_into_one_message_are_to_be_asked_for_alone(site):
    async def scenario():
        server = Server(site, "a", "b")
        asking = server.ask("client")
        number = await server.asked("a")
        large = b'{"text": "' + b"x" * (4 << 20) + b'"}'
        server.say("a", number, large)
        server.say("b", number, large)
        return (await asking)["sites"]

    found = asyncio.run(scenario())
    assert len(found["a"]["data"]["text"]) == 4 << 20
    assert found["b"]["code"] == questions.TOO_LARGE


@pytest.mark.parametrize(
    ("names", "target", "error"),
    [
        ((), "client", NoClients),
        (("a",), "b,", InvalidTarget),
        (("a",), "a,b,", InvalidTarget),
        (("a",), "a", InvalidTarget),
        (("a",), "", InvalidTarget),
    ],
)
def test_who_is_not_there_is_not_asked(site, names, target, error):
    async def scenario():
        server = Server(site, *names)
        with pytest.raises(error):
            await server.ask(target)
        assert all(session.outbox.empty() for session in server.sessions.values())

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout_s", ["-1", "0", "nan", "inf", "soon"])
def test_the_time_to_answer_is_a_number(site, timeout_s):
    async def scenario():
        with pytest.raises(InvalidCommand):
            await Server(site, "a").ask("client", timeout_s=timeout_s)

    asyncio.run(scenario())


def test_without_clients_the_server_alone_is_all(site):
    async def scenario():
        return (await Server(site).ask("all"))["sites"]

    assert asyncio.run(scenario()) == {SERVER: {"data": {"from": "server"}}}


def test_the_server_asks_its_own_policy_for_itself_only(site):
    async def scenario():
        server = Server(site, "a")
        asking = server.ask("all", peer=MEMBER)
        server.say("a", await server.asked("a"))
        refused = (await asking)["sites"]
        seen = (await server.ask("server", "show_stats", peer=MEMBER, job_id=JOB))["sites"]
        return refused, seen, server.looks.given

    refused, seen, given = asyncio.run(scenario())
    assert refused["a"] == {"data": {}}
    assert refused[SERVER]["code"] == "AUTHORIZATION_REFUSED"
    assert seen[SERVER] == {"data": {"from": "server"}}
    assert [name for name, _ in given] == ["show_stats"]
    entries = [json.loads(line) for line in (site.workspace / "server-audit.jsonl").read_text().splitlines()]
    assert [(one["action"], one["result"]) for one in entries] == [(f"sys_info {SERVER}", "refused")]


class AskedSite:
    """A site's answers, one at a time."""

    def __init__(self, site, *, answer=None, submitter=None):
        self.looks = Looks({"n": 1} if answer is None else answer)
        self._site = site
        self._submitter = submitter

    def ask(self, envelope):
        return asyncio.run(self._ask(envelope))

    async def _ask(self, envelope):
        answered = asyncio.Queue()
        inquiries = SiteInquiries(
            self._site.admission, self.looks, submitter=lambda _job_id: self._submitter, send=answered.put_nowait
        )
        inquiries.asked(pb.AskSite(id="1", command=envelope))
        return (await asyncio.wait_for(answered.get(), 5)).site_answer


def test_a_site_answers_whom_its_policy_lets(site, world):
    asked = AskedSite(site)
    answer = asked.ask(world.people["root"].command("sys_info", target="all"))
    assert (json.loads(answer.document), answer.code) == ({"n": 1}, "")
    answer = asked.ask(world.people["member"].command("sys_info", target="site-1,"))
    assert (answer.document, answer.code) == (b"", "AUTHORIZATION_REFUSED")
    assert [entry[:3] for entry in site.recorded()] == [
        ("root", "sys_info", "allowed"),
        ("member", "sys_info", "refused"),
    ]


def test_a_site_believes_signatures_not_the_server(site, world):
    root = world.people["root"]
    once = root.command("sys_info", number=5, target="client")
    asked = AskedSite(site)
    assert asked.ask(once).code == ""
    old = NOW - COMMAND_AGE - timedelta(minutes=1)
    for envelope in (
        b"",
        b"nonsense",
        once,
        root.command("sys_info", number=6, target="site-2,"),
        root.command("sys_info", number=7, target="server"),
        root.command("sys_info", number=8),
        root.command("shutdown", number=9, target="site-1"),
        root.command("sys_info", number=10, target="client", time=old),
        root.command("sys_info", number=11, target="client", server="another"),
        root.job(world.job),
    ):
        assert asked.ask(envelope).code == SignatureRefused.error_code
    assert len(asked.looks.given) == 1
    site.restart()
    assert AskedSite(site).ask(once).code == SignatureRefused.error_code


def test_a_jobs_log_is_for_those_who_may_download_the_job(site, world):
    lead, other = world.people["lead"], world.people["other"]
    wish = {"target": "site-1,", "job_id": JOB}
    own = AskedSite(site, submitter=lead.peer)
    assert own.ask(lead.command("get_job_log", number=1, **wish)).code == ""
    assert own.ask(other.command("get_job_log", number=1, **wish)).code == "AUTHORIZATION_REFUSED"
    unknown = AskedSite(site, submitter=None)
    assert unknown.ask(lead.command("get_job_log", number=2, **wish)).code == "AUTHORIZATION_REFUSED"
    assert unknown.ask(world.people["root"].command("get_job_log", number=2, **wish)).code == ""


def test_what_goes_wrong_at_a_site_is_its_answer(site, world):
    root, number = world.people["root"], 100
    for error, code in (
        (InvalidCommand("no"), "INVALID_COMMAND"),
        (ClouddeployError("no"), "FAILED"),
        (ZeroDivisionError("defect"), "FAILED"),
    ):
        number += 1
        assert AskedSite(site, answer=error).ask(root.command("ls", number=number, target="all")).code == code
    large = AskedSite(site, answer={"text": "\x00" * (2 << 20)})
    assert large.ask(root.command("cat", number=200, target="all")).code == questions.TOO_LARGE
