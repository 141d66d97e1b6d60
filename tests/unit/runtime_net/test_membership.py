"""Who may be registered, for how long, and when the next attempt comes."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from clouddeploy_runtime.client.connection import Ending, Pace
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.server.membership import Membership
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.tokens import Challenges
from clouddeploy_runtime.settings import BadSettings, Settings


class Server:
    """A registry and its membership on a clock of the test."""

    def __init__(self, workspace, settings=None):
        self.now = 1000.0
        self.registry = Registry(clock=lambda: self.now)
        self.membership = Membership(self.registry, workspace, settings, clock=lambda: self.now)

    def join(self, name="site-1", instance="a", *, streams=True, kind="client"):
        session = self.registry.register(name=name, address="10.0.0.1", active_jobs=set(), instance=instance, kind=kind)
        if streams:
            self.registry.opened(session)
        return session

    def refusal(self, name="site-1", instance="b"):
        found = self.membership.problem(name, instance)
        return found[0] if found else None


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def test_a_second_process_is_refused_while_the_first_is_heard_of(server):
    first = server.join()
    code, text = server.membership.problem("site-1", "b")
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "another site-1 is registered from 10.0.0.1" in text
    server.now += 20
    server.registry.hear(first)
    server.now += 20
    assert server.refusal() is grpc.StatusCode.ALREADY_EXISTS
    server.now += 6
    assert server.refusal() is None


def test_the_same_process_takes_over_at_once_and_the_old_token_ends(server):
    first = server.join()
    assert server.refusal(instance="a") is None
    second = server.join()
    assert server.registry.authorise(first.token, name="site-1") is None
    server.registry.closed(first)
    assert server.registry.connected() == [second]


def test_a_process_without_a_mark_is_never_taken_for_the_same(server):
    server.join(instance="")
    assert server.refusal(instance="") is grpc.StatusCode.ALREADY_EXISTS


def test_no_more_sites_than_the_settings_say(tmp_path):
    server = Server(tmp_path, Settings(max_clients=1))
    server.join()
    assert server.refusal("site-2") is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.refusal("site-1", "a") is None


def test_a_disabled_site_is_out_at_once_and_after_a_restart_until_it_is_enabled(server, tmp_path):
    session = server.join()
    server.membership.disable("site-1")
    assert session.outbox.get_nowait() is None
    assert server.registry.authorise(session.token, name="site-1") is None
    again = Server(tmp_path)
    assert again.membership.disabled == ("site-1",)
    assert again.refusal() is grpc.StatusCode.PERMISSION_DENIED
    again.membership.enable("site-1")
    assert again.refusal() is None
    assert Server(tmp_path).membership.disabled == ()


def test_a_removed_site_may_come_back(server):
    server.join(streams=False)
    assert server.membership.remove("site-1")
    assert not server.membership.remove("site-1")
    assert server.refusal() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"disabled_clients": "site-1"}', "[" * 100_000])
def test_a_list_that_cannot_be_read_is_an_error(tmp_path, content):
    (tmp_path / "disabled_clients.json").write_text(content)
    with pytest.raises(BadSettings, match=r"disabled_clients\.json"):
        Server(tmp_path)


def test_what_is_written_is_what_is_read(server, tmp_path):
    server.membership.disable("b")
    server.membership.disable("a")
    assert json.loads((tmp_path / "disabled_clients.json").read_text()) == {"disabled_clients": ["a", "b"]}


def test_a_session_without_a_stream_expires_and_a_lost_site_is_forgotten(server):
    silent = server.join(streams=False)
    gone = server.join("site-2")
    server.registry.closed(gone)
    server.now += 36
    server.membership.sweep()
    assert server.registry.all() == []
    assert server.registry.authorise(silent.token, name="site-1") is None
    assert {session.name for session in server.registry.lost()} == {"site-1", "site-2"}
    server.now += 600
    server.membership.sweep()
    assert server.registry.lost() == []


def test_a_relay_is_registered_but_is_no_client(server):
    seen = []
    server.registry.watch(lambda session, joined: seen.append((session.name, joined)))
    relay = server.join("relay-1", kind="relay")
    server.join("site-1")
    assert server.registry.find("relay-1") is None
    assert [session.name for session in server.registry.connected()] == ["site-1"]
    server.registry.closed(relay)
    assert seen == [("site-1", True)]


def test_a_refused_site_asks_less_and_less_often_and_a_lost_one_soon(server):
    pace = Pace()
    assert [pace.after(Ending.REFUSED) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [pace.after(Ending.FAILED) for _ in range(6)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert pace.after(Ending.SHORT) == 5.0
    assert pace.after(Ending.STEADY) == 0.2
    assert pace.after(Ending.REFUSED) == 1


def test_a_number_is_good_once_and_for_a_minute():
    now = [5.0]
    challenges = Challenges(clock=lambda: now[0])
    number, late = challenges.issue(), challenges.issue()
    assert challenges.use(number)
    assert not challenges.use(number)
    assert not challenges.use(b"")
    assert not challenges.use(bytes(56))
    assert not challenges.use(bytes([late[0] ^ 1]) + late[1:])
    assert not Challenges(clock=lambda: now[0]).use(late)
    now[0] += 61
    assert not challenges.use(late)
    assert challenges.use(challenges.issue())


def test_watching_goes_on_until_it_is_cancelled(server):
    async def scenario():
        task = asyncio.create_task(server.membership.watch())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


@pytest.fixture
def told(server):
    found = []
    server.registry.watch(lambda session, joined: found.append((session.name, joined)))
    return found


def test_who_registers_again_and_never_listens_has_left(server, told):
    server.join()
    server.join(streams=False)
    assert told == [("site-1", True), ("site-1", False)]
    server.now += 36
    server.membership.sweep()
    assert told == [("site-1", True), ("site-1", False)], "once"
    server.join()
    assert told[2:] == [("site-1", True)]


def test_a_session_that_was_replaced_before_it_listened_does_not_join(server, told):
    first = server.join(streams=False)
    second = server.join()
    server.registry.opened(first)
    assert told == [("site-1", True)]
    assert server.registry.connected() == [second]


def test_a_session_that_is_ended_is_gone_at_once_even_if_it_does_not_read(server, told):
    session, hung_up = server.join(), []
    session.hang_up = lambda: hung_up.append(True)
    server.registry.end(session)
    server.registry.end(session)
    assert (server.registry.all(), hung_up) == ([], [True])
    server.registry.closed(session)
    assert told == [("site-1", True), ("site-1", False)]


@pytest.mark.parametrize("symptom", ["its connection takes nothing", "its events pile up"])
def test_a_site_that_does_not_read_is_ended(server, symptom):
    session = server.join()
    if symptom == "its events pile up":
        for _ in range(1001):
            session.outbox.put_nowait(object())
    else:
        server.registry.hand_over(session)
        server.now += 36
    server.registry.hear(session)
    server.membership.sweep()
    assert server.registry.all() == []


def test_a_site_that_takes_its_time_is_not_ended(server):
    session = server.join()
    for _ in range(3):
        server.registry.hand_over(session)
        server.now += 30
        server.registry.handed_over(session)
        server.membership.sweep()
    server.now += 60
    server.membership.sweep()
    assert server.registry.all() == [session]


def test_a_site_is_disabled_on_a_full_disk_too_and_who_did_it_is_told_for_how_long(server, monkeypatch):
    server.join()

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clouddeploy_runtime.lifecycle.os.fsync", no_room)
    with pytest.raises(RuntimeFault, match=r"only until the server's restart: disabled_clients\.json .*No space"):
        server.membership.disable("site-1")
    assert server.registry.all() == []
    assert server.refusal() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(RuntimeFault, match="site-1 stays disabled"):
        server.membership.enable("site-1")
    assert server.membership.disabled == ("site-1",)
