"""One contract for every store, over what is real here: files, S3 by moto over HTTP, Azure Blob storage by azurite."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.object_store import open_objects
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.audit import verify
from clouddeploy.errors import LockedError, StateError
from clouddeploy.stores import LocalStore, open_store
from clouddeploy.stores.shared import SharedStore

pytestmark = pytest.mark.xdist_group("shared_state")

TTL_S = 0.5
DEADLINE_S = 20
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_CONNECTION_STRING")
HOLDER = """
import sys, threading
from pathlib import Path
import test_shared_state as tests
store = tests.quick(sys.argv[1], Path(sys.argv[2]))
with store.locked("apply"):
    store.append("journal.jsonl", b'{"event": "apply"}\\n')
    print("held", flush=True)
    threading.Event().wait()
"""


def quick(url, directory):
    """As `open_store`, with a lock that is over soon."""
    if not url:
        return LocalStore(directory)
    return SharedStore(open_objects(url), url, ttl_s=TTL_S, margin_s=TTL_S)


class Line:
    """A line to a server that loses the answers to writes while it is told to; the server has carried them out.

    Attributes:
        lose: how many answers.
    """

    def __init__(self, port):
        self.lose = 0
        self.lost = 0
        self._there = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self):
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                pair = (self._listener.accept()[0], socket.create_connection(self._there))
                self._open += pair
                is_write = []
                for thread in (
                    threading.Thread(target=self._requests, args=(*pair, is_write)),
                    threading.Thread(target=self._answers, args=(*pair, is_write)),
                ):
                    self._threads.append(thread)
                    thread.start()

    def _requests(self, near, far, is_write):
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if data.startswith(b"PUT "):
                    is_write[:] = [True]
                elif data.startswith(b"GET "):
                    is_write.clear()
                far.sendall(data)
        self._hang_up(near, far)

    def _answers(self, near, far, is_write):
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if self.lose and is_write and not data.startswith(b"HTTP/1.1 100"):
                    self.lose -= 1
                    self.lost += 1
                    break
                near.sendall(data)
        self._hang_up(near, far)

    def _hang_up(self, *ends):
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(case, monkeypatch):
    """Puts a line between the case and its server."""
    if not case.url:
        pytest.skip("a folder has no network")
    name = ENDPOINTS[case.url.startswith("azblob")]
    address = os.environ[name]
    port = re.search(r"127\.0\.0\.1:(\d+)", address)[1]
    one = Line(int(port))
    monkeypatch.setenv(name, address.replace(port, str(one.port)))
    yield one
    one.close()


def eventually(action):
    """Returns what `action` returns once it is not refused as locked any more."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return action()
        except LockedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_nothing_is_there_at_first(case):
    store = case.store()
    assert store.load() is None
    assert store.read("journal.jsonl") == b""
    assert case.journal(store).open_intents() == []


def test_the_next_run_finds_state_journal_and_audit(case):
    store = case.store()
    with store.locked("apply"):
        state = case.state(store)
        state.project = "hybrid"
        state.save()
        state.save()
        case.journal(store).intend("create", node="a/machine", name="cd-a", token="t", provider="p", settings={})
        case.audit(store).record("create", result="failed", detail="ünïcode")
    again = case.store()
    assert case.state(again) == state
    assert [one.token for one in case.journal(again).open_intents()] == ["t"]
    with again.locked("destroy"):
        case.audit(again).record("delete", result="done")
        case.journal(again).done("create", node="a/machine", name="cd-a")
    assert verify(case.directory / "audit.jsonl", store=case.store()).entries == 2
    assert case.journal(case.store()).open_intents() == []


def test_shared_state_leaves_nothing_in_the_folder(case):
    store = case.store()
    with store.locked("apply"):
        case.state(store).save()
        case.journal(store).note("apply")
        case.audit(store).record("apply", result="done")
    names = {file.name for file in case.directory.iterdir()}
    assert names == (set() if case.url else {"state.json", "journal.jsonl", "audit.jsonl", "lock"})


def test_a_second_run_is_refused_and_told_who_holds_the_lock(case):
    with (
        case.store().locked("apply"),
        pytest.raises(LockedError, match="apply, pid") as caught,
        case.store().locked("destroy"),
    ):
        pass
    assert caught.value.exit_code == ExitCode.LOCKED


def test_a_state_that_is_not_the_one_read_is_not_overwritten(case):
    store = case.store()
    with store.locked("apply"):
        first, second = case.state(store), case.state(store)
        first.save()
        with pytest.raises(LockedError):
            second.save()
        first.save()
    assert case.state(case.store()) == first


def test_runs_that_race_lose_no_update(case):
    """Each holds the lock for one read and one write; who is refused tries again."""
    start = threading.Barrier(3)

    def run():
        store = case.store()

        def increment():
            with store.locked("apply"):
                state = case.state(store)
                state.attempts["count"] = state.attempts.get("count", 0) + 1
                state.save()
                case.audit(store).record("count", result="done")

        start.wait()
        for _ in range(3):
            eventually(increment)

    with ThreadPoolExecutor() as runs:
        for one in [runs.submit(run) for _ in range(3)]:
            one.result()
    assert case.state(case.store()).attempts == {"count": 9}
    assert verify(case.directory / "audit.jsonl", store=case.store()).entries == 9


def test_a_killed_holders_lock_ends_by_itself(case):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, case.url, str(case.directory)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"pid {holder.pid}"), quick(case.url, case.directory).locked("destroy"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()

    def take_over():
        store = quick(case.url, case.directory)
        with store.locked("destroy"):
            case.journal(store).note("destroy")

    eventually(take_over)
    events = [json.loads(line)["event"] for line in case.store().read("journal.jsonl").splitlines()]
    assert events == ["apply", "destroy"]


def test_a_holder_that_slept_too_long_is_refused_by_what_it_writes(case):
    if not case.url:
        pytest.skip("the kernel's lock has no end while its holder lives")
    asleep = quick(case.url, case.directory)
    with asleep.locked("apply"):
        state, journal = case.state(asleep), case.journal(asleep)
        state.save()
        journal.note("apply")
        asleep._lease._stop.set()

        def take_over():
            awake = quick(case.url, case.directory)
            with awake.locked("destroy"):
                asleep._lease._until = asleep._lease._clock() + DEADLINE_S  # what its stopped clock would say
                for write in (state.save, lambda: journal.note("late")):
                    with pytest.raises(LockedError, match="destroy, pid"):
                        write()
                other = case.state(awake)
                other.save()
                return other

        other = eventually(take_over)
    assert case.state(case.store()) == other
    assert b"late" not in case.store().read("journal.jsonl")


@pytest.mark.parametrize("answers", [1, 3])
def test_answers_lost_on_the_network_are_no_lost_race(case, line, answers):
    """Whoever repeats the request, the SDK or we, is refused by what was written the first time."""
    store = case.store()
    with store.locked("apply"):
        state, journal = case.state(store), case.journal(store)
        for write in (state.save, lambda: journal.note("first"), state.save, lambda: journal.note("second")):
            line.lose = answers
            write()
            assert line.lose == 0
    assert line.lost == 4 * answers
    assert case.state(case.store()).serial == 2
    events = [json.loads(entry)["event"] for entry in case.store().read("journal.jsonl").splitlines()]
    assert events == ["first", "second"]


@pytest.mark.parametrize("url", ["s3://no-such-bucket/p", "azblob://federations/nosuch/p"])
def test_a_bucket_or_container_that_is_missing_is_named(tmp_path, s3_environment, blob, monkeypatch, url):
    for name, value in {**s3_environment, "AZURE_STORAGE_CONNECTION_STRING": blob}.items():
        monkeypatch.setenv(name, value)
    store = open_store(url, tmp_path)
    with pytest.raises(StateError, match=r"NoSuchBucket|ContainerNotFound") as caught, store.locked("apply"):
        pass
    assert "docs/state.md" in caught.value.hint


def test_a_wrong_key_is_told_apart(tmp_path, blob, monkeypatch):
    wrong = re.sub(r"AccountKey=[^;]*", f"AccountKey={base64.b64encode(bytes(64)).decode()}", blob)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
    with pytest.raises(StateError, match="cannot read") as caught:
        open_store("azblob://federations/state/x", tmp_path).load()
    assert "AZURE_STORAGE_CONNECTION_STRING" in caught.value.hint


def test_a_connection_string_of_another_account_is_refused(tmp_path, blob, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", blob)
    with pytest.raises(InvalidRequest, match="is of the account federations"):
        open_store("azblob://another/state/x", tmp_path)
