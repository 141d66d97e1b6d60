import json
from pathlib import Path

import pytest
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.errors import AccessDenied, InvalidRequest, Transient
from clouddeploy_providers.object_store import MemoryObjects
from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.audit import AuditTrail, verify
from clouddeploy.errors import LockedError, StateError
from clouddeploy.journal import Journal
from clouddeploy.state import Record, State
from clouddeploy.stores import LocalStore, open_store
from clouddeploy.stores.shared import SharedStore

TTL_S = 60.0
NOWHERE = Path("nowhere")
PLACE = {"provider": "aws", "settings": {"region": "us-west-2"}}
GOLDEN = Path(__file__).parents[2] / "golden/state"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


class World:
    """Storage with a clock, and lines that can be cut."""

    def __init__(self):
        self.now = 1000.0
        self.objects = MemoryObjects(clock=self.clock)
        self.lose_requests = False
        self.lose_answers = 0
        self.refuse = None
        self.kill_at = 0
        self.is_killed_after_write = False

    def clock(self):
        return self.now

    def store(self):
        """As another process would open it."""
        return SharedStore(self, "s3://b/p", clock=self.clock, ttl_s=TTL_S, patience_s=0)

    def _die(self):
        self.lose_requests = True  # the dead renew nothing and give nothing back
        raise Killed

    def _line(self):
        if self.refuse:
            raise self.refuse
        if self.lose_requests:
            raise Transient("no connection")

    def get(self, key):
        self._line()
        return self.objects.get(key)

    def list(self, prefix):
        self._line()
        return self.objects.list(prefix)

    def put(self, key, body, *, version):
        self._line()
        self.kill_at -= 1
        if self.kill_at == 0 and not self.is_killed_after_write:
            self._die()
        new = self.objects.put(key, body, version=version)
        if self.kill_at == 0:
            self._die()
        if self.lose_answers:
            self.lose_answers -= 1
            raise Transient("the answer was lost")
        return new


@pytest.fixture
def world():
    return World()


def journal_of(store):
    return Journal(NOWHERE / "journal.jsonl", store=store)


def test_a_fresh_holder_that_was_robbed_cannot_write_anything(world):
    """It still believes to hold the lock, as a machine does that was asleep."""
    asleep = world.store()
    with asleep.locked("apply"):
        state = State.load(NOWHERE, store=asleep)
        state.save()
        journal = journal_of(asleep)
        journal.note("apply")
        trail = AuditTrail(NOWHERE / "audit.jsonl", command="apply", store=asleep)
        trail.record("start", result="done")
        world.now += TTL_S + 3
        awake = world.store()
        with awake.locked("destroy"):
            asleep._lease._until = world.now + TTL_S
            for write in (
                state.save,
                lambda: journal.note("late"),
                lambda: trail.record("late", result="done"),
            ):
                with pytest.raises(LockedError, match="destroy, pid"):
                    write()
            other = State.load(NOWHERE, store=awake)
            assert other.serial == 1
            other.save()
            AuditTrail(NOWHERE / "audit.jsonl", command="destroy", store=awake).record("start", result="done")
    assert State.load(NOWHERE, store=world.store()).serial == 2
    assert verify(NOWHERE / "audit.jsonl", store=world.store()).entries == 2
    assert b"late" not in world.store().read("journal.jsonl")


def test_a_holder_that_was_robbed_before_its_first_write_cannot_write_either(world):
    asleep = world.store()
    with asleep.locked("apply"):
        state = State.load(NOWHERE, store=asleep)
        world.now += TTL_S + 3
        awake = world.store()
        with awake.locked("destroy"):
            asleep._lease._until = world.now + TTL_S
            with pytest.raises(LockedError, match="destroy, pid"):
                state.save()
            with pytest.raises(LockedError, match="destroy, pid"):
                journal_of(asleep).note("late")
            other = State.load(NOWHERE, store=awake)
            other.save()
    assert State.load(NOWHERE, store=world.store()) == other


def test_a_thief_killed_before_it_wrote_leaves_a_state_that_still_can_be_begun(world):
    with world.store().locked("apply"):
        world.now += TTL_S + 3
        with world.store().locked("destroy"):
            pass
    store = world.store()
    with store.locked("apply"):
        state = State.load(NOWHERE, store=store)
        assert state.serial == 0
        state.save()
    assert State.load(NOWHERE, store=world.store()).deployment == state.deployment


def test_a_holder_whose_time_is_over_writes_nothing_even_if_nobody_took_over(world):
    store = world.store()
    with store.locked("apply"):
        journal = journal_of(store)
        journal.note("apply")
        world.now += TTL_S
        with pytest.raises(LockedError, match="not renewed in time"):
            journal.note("late")
    assert b"late" not in world.store().read("journal.jsonl")


def test_an_answer_lost_on_the_way_is_no_lost_race(world):
    store = world.store()
    with store.locked("apply"):
        state, journal = State.load(NOWHERE, store=store), journal_of(store)
        for write in (state.save, lambda: journal.intend("create", node="a/machine", name="cd-a", **PLACE)):
            write()
            world.lose_answers = 1
            with pytest.raises(StateError, match="the answer was lost"):
                write()
            write()
    again = world.store()
    assert State.load(NOWHERE, store=again).serial == state.serial
    assert len(again.read("journal.jsonl").splitlines()) == 2  # what was not confirmed is not there twice


def test_a_line_that_is_cut_is_a_state_error_and_the_entry_is_not_known(world):
    store = world.store()
    with store.locked("apply"):
        journal = journal_of(store)
        assert journal.open_intents() == []
        world.lose_requests = True
        with pytest.raises(StateError, match=r"cannot write journal\.jsonl in s3://b/p: no connection"):
            journal.intend("create", node="a/machine", name="cd-a", **PLACE)
        world.lose_requests = False
        assert journal.open_intents() == []
        journal.intend("create", node="b/machine", name="cd-b", **PLACE)
    assert [one.node for one in journal_of(world.store()).open_intents()] == ["b/machine"]


def test_the_providers_hint_reaches_the_user(world):
    world.refuse = AccessDenied("cannot read", why="AccessDenied", hint="ask for the permissions")
    with pytest.raises(StateError, match="AccessDenied") as caught:
        State.load(NOWHERE, store=world.store())
    assert caught.value.hint == "ask for the permissions"


def test_without_the_lock_it_can_be_read_and_not_written(world):
    store = world.store()
    state = State.load(NOWHERE, store=store)
    for write in (state.save, lambda: journal_of(store).note("x"), lambda: store.keep("x", b"")):
        with pytest.raises(LockedError, match="not locked by this run"):
            write()
    assert world.objects.list("") == []


def test_parts_of_several_holders_are_one_log_in_their_order(world):
    for number in range(12):
        store = world.store()
        with store.locked("apply"):
            store.append("journal.jsonl", f'{{"event": "{number}"}}\n'.encode())
    events = [json.loads(line)["event"] for line in world.store().read("journal.jsonl").splitlines()]
    assert events == [str(number) for number in range(12)]


def test_a_log_that_is_not_as_long_as_expected_is_left_alone(world):
    store = world.store()
    with store.locked("apply"):
        assert store.append("audit.jsonl", b"1\n", at=0) == 2
        assert store.append("audit.jsonl", b"2\n", at=0) is None
        assert store.append("audit.jsonl", b"2\n", at=2) == 4
    with store.locked("destroy"):
        assert store.append("audit.jsonl", b"3\n", at=2) is None
        assert store.append("audit.jsonl", b"3\n", at=4) == 6
    assert store.read("audit.jsonl") == b"1\n2\n3\n"


def test_local_files_uploaded_by_hand_are_taken_over(world):
    """The way from a local state to a shared one: three files copied into the bucket."""
    world.objects.put("state.json", (GOLDEN / "v1.json").read_bytes(), version=None)
    world.objects.put("journal.jsonl/000000", b'{"event": "apply"}\n', version=None)
    store = world.store()
    with store.locked("apply"):
        state = State.load(NOWHERE, store=store)
        assert state.deployment == "0123abcd"
        state.save()
        journal_of(store).note("again")
    assert json.loads(world.objects.get("state.json").body)["state"]["schema"] == 2
    assert world.objects.get("state.json.v1").body == (GOLDEN / "v1.json").read_bytes()
    assert len(store.read("journal.jsonl").splitlines()) == 2


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"written_by": {}, "state": {"schema": 2}}'])
def test_a_damaged_state_is_refused_also_after_a_robbery(world, body):
    world.objects.put("state.json", body, version=None)
    with world.store().locked("apply"):
        world.now += TTL_S + 3
        store = world.store()
        with store.locked("destroy"), pytest.raises(StateError, match="cannot read the state"):
            State.load(NOWHERE, store=store)


@pytest.mark.parametrize(
    "url",
    ["s3:", "s3://", "s3:///p", "azblob://account", "ftp://x/y", "/tmp/x", "s3://b/p?x=1", "azblob://a@b/c"],
)
def test_an_address_that_makes_no_sense_is_refused_with_one_that_does(tmp_path, url):
    with pytest.raises(InvalidRequest) as caught:
        open_store(url, tmp_path)
    assert "://" in caught.value.hint


def test_a_rehearsal_keeps_its_state_in_the_folder(tmp_path):
    """Its clouds are emulated, but the shared state would be that of the real deployment."""
    store = open_store("s3://b/p", tmp_path, endpoints=Endpoints(caller_address="192.0.2.1"))
    assert isinstance(store, LocalStore)


def test_no_address_means_the_folder(tmp_path):
    store = open_store(None, tmp_path)
    assert isinstance(store, LocalStore)
    assert store.where == str(tmp_path)


def record(name):
    return Record(ResourceRef(Kind.MACHINE, name, "i-1"), "a", "aws", PLACE["settings"], {})


@pytest.mark.parametrize("is_killed_after_write", [False, True])
@pytest.mark.parametrize("kill_at", [1, *range(3, 13)])  # the second is one that has to be refused
def test_killed_at_any_write_the_next_run_knows_what_may_have_happened(world, kill_at, is_killed_after_write):
    """What was made is in the state or is an open intent; the next run gets the lock and goes on from there."""
    made = []

    def run(store):
        with store.locked("apply"):
            state, journal = State.load(NOWHERE, store=store), journal_of(store)
            trail = AuditTrail(NOWHERE / "audit.jsonl", command="apply", store=store)
            state.save()
            journal.note("apply", deployment=state.deployment)
            for name in ("cd-a", "cd-b"):
                if name in state.resources:
                    continue
                journal.intend("create", node=name, name=name, token=f"{name}/0", **PLACE)
                made.append(name)
                state.resources[name] = record(name)
                state.save()
                journal.done("create", node=name, name=name)
            trail.record("apply", result="done")
            return state

    world.kill_at, world.is_killed_after_write = kill_at, is_killed_after_write
    with pytest.raises(Killed):
        run(world.store())
    world.lose_requests = False
    world.now += TTL_S + 3
    known = set(State.load(NOWHERE, store=world.store()).resources)
    known |= {one.name for one in journal_of(world.store()).open_intents()}
    assert set(made) <= known
    state = run(world.store())
    assert State.load(NOWHERE, store=world.store()) == state
    assert set(state.resources) == {"cd-a", "cd-b"}
    assert verify(NOWHERE / "audit.jsonl", store=world.store()).entries in {1, 2}
