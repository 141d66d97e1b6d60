"""What people sign for a server: each number is theirs and good once, each command comes once and in its order."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from clouddeploy_runtime import jobs, keys, signing, tls
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.server import statements
from clouddeploy_runtime.server.statements import Statements
from clouddeploy_runtime.server.store import JobStore
from clouddeploy_runtime.server.submissions import Submissions
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.signing import CommandStatement, JobStatement, Manifest, NonceUnknown, SignatureRefused

from tests.integration.federation import PROJECT, SERVER, Authority, tiny_job
from tests.unit.runtime_net.scheduling_world import left_in

NOW = datetime.now(UTC)


class Person:
    def __init__(self, kit):
        self._key = keys.load_private_key(kit.key_file)
        self._pem = kit.cert_file.read_bytes()
        self.peer = tls.peer_from_pem(self._pem)

    def job(self, nonce, *, files=None, study=""):
        return self._sign(JobStatement(PROJECT, SERVER, nonce, NOW, study, files or {}))

    def command(self, nonce, number, name="abort_job", *, time=None, **arguments):
        time = time or datetime.now(UTC)  # not when the tests were read, which may be long ago
        return self._sign(CommandStatement(PROJECT, SERVER, nonce, number, time, name, arguments))

    def _sign(self, statement):
        return signing.sign(self._key, self._pem, statement)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The server's kit, and two people."""
    authority = Authority(tmp_path_factory.mktemp("kits"), port=1)
    people = [Person(kits.load(authority.admin(f"{name}@org.example", "lead"))) for name in ("ann", "bob")]
    return kits.load(authority.server()), *people


def give(one, person, nonce, number, **changes):
    """A command as it came, beside the one that was signed."""
    signed = {"name": "abort_job", "job_id": "j1"} | changes.pop("signed", {})
    time = changes.pop("time", None)
    envelope = changes.pop("envelope", None)
    name = signed.pop("name")
    envelope = person.command(nonce, number, name, time=time, **signed) if envelope is None else envelope
    sent = {"name": "abort_job", "arguments": {"job_id": "j1"}} | changes
    return one.command(envelope, person.peer, **sent)


def test_the_number_for_a_job_is_good_once_and_for_whom_it_was_given_to(world):
    server, ann, bob = world
    one = Statements(server)
    nonce = one.issue(ann.peer)
    with pytest.raises(NonceUnknown):
        one.job(bob.job(nonce), bob.peer)
    with pytest.raises(SignatureRefused, match=r"that of ann@org\.example, and bob@org\.example sent"):
        one.job(ann.job(nonce), bob.peer)
    assert one.job(ann.job(nonce), ann.peer).nonce == nonce
    for invented in (nonce, "0" * 32, ""):
        with pytest.raises(NonceUnknown):
            one.job(ann.job(invented), ann.peer)


def test_a_number_ends_after_an_hour_and_with_the_server(world):
    server, ann, _ = world
    now = [0.0]
    one = Statements(server, clock=lambda: now[0])
    nonce = one.issue(ann.peer)
    now[0] = 3599
    give(one, ann, nonce, 1)
    with pytest.raises(NonceUnknown):
        give(Statements(server), ann, nonce, 2)
    now[0] = 3600
    with pytest.raises(NonceUnknown):
        give(one, ann, nonce, 2)


def test_who_asks_for_many_numbers_loses_his_own_oldest_only(world):
    server, ann, bob = world
    one = Statements(server)
    theirs, first = one.issue(bob.peer), one.issue(ann.peer)
    last = [one.issue(ann.peer) for _ in range(100)][-1]
    with pytest.raises(NonceUnknown):
        one.job(ann.job(first), ann.peer)
    one.job(ann.job(last), ann.peer)
    one.job(bob.job(theirs), bob.peer)


def test_commands_of_a_session_are_taken_once_and_in_their_order(world):
    server, ann, _ = world
    one = Statements(server)
    nonce = one.issue(ann.peer)
    give(one, ann, nonce, 1)
    give(one, ann, nonce, 5)
    for number in (5, 4, 0, -1):
        with pytest.raises(SignatureRefused, match="was given before"):
            give(one, ann, nonce, number)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "delete_job"}, "signed another command"),
        ({"arguments": {"job_id": "j2"}}, "signed another command"),
        ({"arguments": {"job_id": "j1", "more": 1}}, "signed another command"),
        ({"envelope": b""}, "is not signed"),
        ({"envelope": b"?"}, "cannot be read"),
        ({"time": NOW - timedelta(hours=1)}, "s old"),
        ({"time": NOW + timedelta(hours=1)}, "s old"),
    ],
)
def test_a_command_that_is_not_what_was_signed_just_now_is_refused(world, changes, why):
    server, ann, _ = world
    one = Statements(server)
    nonce = one.issue(ann.peer)
    with pytest.raises(SignatureRefused, match=why):
        give(one, ann, nonce, 1, **changes)
    give(one, ann, nonce, 1)  # a refusal uses nothing up


def test_a_job_is_no_command_and_a_command_no_job(world):
    server, ann, _ = world
    one = Statements(server)
    nonce = one.issue(ann.peer)
    with pytest.raises(SignatureRefused, match="a job, not a command"):
        give(one, ann, nonce, 1, envelope=ann.job(nonce))
    with pytest.raises(SignatureRefused, match="a command, not a job"):
        one.job(ann.command(nonce, 1), ann.peer)


async def stream(*messages):
    for one in messages:
        yield one


def submit(store, one, person, archive, envelope):
    taking = Submissions(store, Settings())
    verify = None if one is None else lambda raw: one.job(raw, person.peer)
    messages = (archive,) if one is None else (envelope, archive)
    return asyncio.run(taking.take(stream(*messages), person.peer, may_bring_code=True, verify=verify))


def test_what_was_signed_stays_with_the_job_and_goes_on_to_its_clones(world, tmp_path):
    server, ann, bob = world
    one, store = Statements(server), JobStore(tmp_path / "jobs")
    folder = tiny_job(tmp_path / "job")
    files = signing.digests(folder, jobs.members(folder))
    envelope = ann.job(one.issue(ann.peer), files=files)
    info = submit(store, one, ann, jobs.pack(folder), envelope)
    assert info.statement == signing.fingerprint(envelope)
    assert JobStore(store.root).get(info.job_id).statement == info.statement
    assert statements.kept(store.root / info.job_id) == msgspec.msgpack.encode(Manifest(envelope))
    parent = info.job_id
    for _ in range(2):  # a clone, and a clone of that
        taking = Submissions(store, Settings())
        clone = asyncio.run(taking.clone(parent, bob.peer, may_bring_code=True, command=b"bob's"))
        assert clone.statement == info.statement
        assert statements.kept(store.root / clone.job_id) == msgspec.msgpack.encode(Manifest(envelope, b"bob's"))
        parent = clone.job_id
    unsigned = submit(store, None, ann, jobs.pack(folder), b"")
    assert (unsigned.statement, statements.kept(store.root / unsigned.job_id)) == ("", b"")


@pytest.mark.parametrize(
    ("change", "study", "why"),
    [
        (lambda files: files.update({"app/custom/train.py": "0" * 64}), "", "train.py was changed"),
        (lambda files: files.pop("app/custom/train.py"), "", "train.py was added"),
        (lambda files: files.update({"app/more.py": "0" * 64}), "", "more.py is missing"),
        (lambda _: None, "cardio", "signed for the study 'cardio'"),
    ],
)
def test_a_job_that_is_not_what_was_signed_leaves_nothing(world, tmp_path, change, study, why):
    server, ann, _ = world
    one, store = Statements(server), JobStore(tmp_path / "jobs")
    folder = tiny_job(tmp_path / "job")
    files = signing.digests(folder, jobs.members(folder))
    assert files["meta.json"] == hashlib.sha256((folder / "meta.json").read_bytes()).hexdigest()
    change(files)
    envelope = ann.job(one.issue(ann.peer), files=files, study=study)
    with pytest.raises(SignatureRefused, match=why):
        submit(store, one, ann, jobs.pack(folder), envelope)
    assert (store.all(), left_in(store)) == ([], [])


def test_a_statement_that_is_too_large_is_not_read(world, tmp_path):
    server, ann, _ = world
    store = JobStore(tmp_path / "jobs")
    with pytest.raises(InvalidJob, match="what was signed of it exceeds"):
        submit(store, Statements(server), ann, b"", bytes(signing.MAX_BYTES + 1))
    assert left_in(store) == []


def test_what_does_not_travel_is_not_signed(tmp_path):
    folder = tiny_job(tmp_path / "job")
    for name in (".git/config", "app/__pycache__/x.pyc", "app/.hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    (folder / "app" / "link").symlink_to("/etc/passwd")
    names = [path.relative_to(folder).as_posix() for path in jobs.members(folder)]
    jobs.unpack(jobs.pack(folder), tmp_path / "there")
    signing.check_files(tmp_path / "there", signing.digests(folder, jobs.members(folder)))
    assert json.loads((folder / "meta.json").read_text())["name"] == "tiny"
    assert not any("hidden" in name or "git" in name or "pyc" in name or "link" in name for name in names)
