"""Whose wishes a site follows, whatever the server says: judged by signatures, its own list and its own policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest
from clouddeploy_runtime import audit, jobs, keys, signing, tls
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.client import used_statements
from clouddeploy_runtime.client.admission import MEMORY, Admission
from clouddeploy_runtime.client.used_statements import UsedStatements
from clouddeploy_runtime.errors import AuthorizationRefused
from clouddeploy_runtime.signing import CommandStatement, JobStatement, Manifest, SignatureRefused, UnsignedJob
from clouddeploy_runtime.wire import federation_pb2 as pb

from tests.integration.federation import POLICY, PROJECT, SERVER, Authority, tiny_job

NOW = datetime.now(UTC)


@dataclass
class Person:
    kit: kits.Kit
    peer: tls.Peer = field(init=False)

    def __post_init__(self):
        self.pem = self.kit.cert_file.read_bytes()
        self.peer = tls.peer_from_pem(self.pem)

    def sign(self, statement):
        return signing.sign(keys.load_private_key(self.kit.key_file), self.pem, statement)

    def job(self, folder, *, nonce="1", study=""):
        files = signing.digests(folder, jobs.members(folder))
        return self.sign(JobStatement(PROJECT, SERVER, nonce, NOW, study, files))

    def command(self, name, *, number=1, time=None, server=SERVER, **arguments):
        time = time or datetime.now(UTC)  # not when the tests were read, which may be long ago
        return self.sign(CommandStatement(PROJECT, server, f"nonce of {self.peer.name}", number, time, name, arguments))


class World:
    """A site's kit, and people of three roles."""

    def __init__(self, folder):
        authority = Authority(folder / "kits", port=1)
        self.site = kits.load(authority.client("site-1"))
        people = {"lead": "lead", "other": "lead", "root": "project_admin", "member": "member"}
        self.people = {
            name: Person(kits.load(authority.admin(f"{name}@org.example", role))) for name, role in people.items()
        }
        self.job = tiny_job(folder / "job")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


class Site:
    """The site in a workspace of its own; it can be started again."""

    def __init__(self, world, workspace, *, policy=POLICY):
        self.world, self.workspace = world, workspace
        self.revoked = set()
        local = workspace / "local"
        local.mkdir()
        (local / "authorization.json").write_text(json.dumps(policy))
        startup = workspace / "startup"
        startup.mkdir()
        given = world.site
        changed = {"local": local, "startup": startup}
        names = ("kind", "name", "org", "project", "server_name", "root_cert_file", "host")
        self.kit = SimpleNamespace(**{name: getattr(given, name) for name in names}, **changed)
        self.require("true")
        self.restart()

    def restart(self, *, studies=None):
        log = audit.AuditLog(self.workspace / "audit.jsonl")
        self.admission = Admission(self.kit, self.workspace, log, revoked=self.revoked, studies=studies)

    def require(self, word):
        path = self.kit.startup / "fed_client.json"
        path.write_text(f'{{"require_signed_jobs": {word}}}')
        path.chmod(0o600)

    def start(self, job_id, manifest, *, said="lead", study=""):
        peer = self.world.people[said].peer
        return self.admission.job(
            pb.StartJob(
                job_id=job_id,
                app="app",
                submitter=peer.name,
                submitter_org=peer.org,
                submitter_role=peer.role,
                manifest=manifest,
                study=study,
            )
        )

    def ask(self, job_id, manifest):
        self.admission.question(pb.CheckResources(job_id=job_id, manifest=manifest))

    def recorded(self):
        path = self.workspace / "audit.jsonl"
        assert audit.first_broken_line(path) is None
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return [(one["user"].partition("@")[0], one["action"], one["result"], one["detail"]) for one in entries]


@pytest.fixture
def site(world, tmp_path):
    return Site(world, tmp_path)


def manifest(job, clone=b""):
    return msgspec.msgpack.encode(Manifest(job, clone))


@pytest.fixture(scope="module")
def signed(world):
    """The lead's statement of the job."""
    return world.people["lead"].job(world.job)


def test_a_signed_job_is_admitted_for_its_signer_as_often_as_it_starts(site, signed):
    for _ in range(2):
        admitted = site.start("j1", manifest(signed))
        assert (admitted.submitter.name, admitted.submitter.role) == ("lead@org.example", "lead")
        site.ask("j1", manifest(signed))
        site.restart()
    assert site.recorded() == [("lead", "submit_job j1", "allowed", "")] * 2


def test_a_job_stays_in_the_study_that_it_was_signed_for(site, world, signed):
    heart = manifest(world.people["lead"].job(world.job, nonce="2", study="heart"))
    for envelope, said, was in ((heart, "lung", "heart"), (heart, "", "heart"), (manifest(signed), "heart", "default")):
        with pytest.raises(SignatureRefused, match=f"of the study {said or 'default'}, and {was} was signed"):
            site.start("j1", envelope, study=said)
    site.start("j1", heart, study="heart")
    site.start("j2", manifest(signed), study="default")


def test_a_site_that_names_studies_takes_jobs_of_no_other(site, world, signed):
    heart = manifest(world.people["lead"].job(world.job, nonce="2", study="heart"))
    site.restart(studies=frozenset({"heart"}))
    site.ask("j1", heart)
    site.start("j1", heart, study="heart")
    for attempt in (site.start, site.ask):
        with pytest.raises(AuthorizationRefused, match="takes no jobs of the study default"):
            attempt("j2", manifest(signed))
    assert [entry[2] for entry in site.recorded()] == ["allowed", "refused", "refused"]
    site.require("false")
    with pytest.raises(AuthorizationRefused):
        site.start("j3", b"", study="lung")
    site.restart(studies=frozenset())
    with pytest.raises(AuthorizationRefused):
        site.start("j1", heart, study="heart")


def test_an_unsigned_job_is_refused_unless_the_site_says_otherwise_at_that_moment(site, world):
    for word in ("true", '"no"', "null"):
        site.require(word)
        for attempt in (site.start, site.ask):
            with pytest.raises(UnsignedJob) as caught:
                attempt("j1", b"")
            assert caught.value.error_code == "UNSIGNED_JOB_REJECTED"
    site.require("false")
    site.ask("j1", b"")
    admitted = site.start("j1", b"")
    assert (admitted.submitter.name, admitted.permit) == ("lead@org.example", None)
    site.admission.folder(admitted, world.job, "app")
    assert site.admission.may_bring_code(admitted)
    words = "not signed: who it is, is the server's word"
    assert site.recorded()[-2:] == [("lead", "submit_job j1", "allowed", words), ("lead", "byoc j1", "allowed", words)]
    with pytest.raises(SignatureRefused):
        site.start("j2", b"?")  # what is signed is checked all the same


def test_a_server_that_names_another_submitter_is_refused(site, world, signed):
    with pytest.raises(SignatureRefused, match=r"a job of root@org\.example, and lead@org\.example signed it"):
        site.start("j1", manifest(signed), said="root")
    member = world.people["member"].job(world.job)
    with pytest.raises(AuthorizationRefused, match=r"policy refuses jobs of member@org\.example"):
        site.start("j2", manifest(member), said="member")
    with pytest.raises(AuthorizationRefused):
        site.ask("j2", manifest(member))
    assert [entry[2] for entry in site.recorded()] == ["refused"] * 3


def test_a_revoked_signer_is_refused_by_the_sites_own_list(site, world, signed):
    site.revoked.add(world.people["lead"].peer.serial)
    for attempt in (site.start, site.ask):
        with pytest.raises(SignatureRefused, match="was revoked"):
            attempt("j1", manifest(signed))


def test_what_was_signed_for_one_job_starts_no_other_even_after_a_restart(site, world, signed):
    site.start("j1", manifest(signed))
    site.restart()
    for attempt in (site.start, site.ask):
        with pytest.raises(SignatureRefused, match="is for the job j1, not for j2"):
            attempt("j2", manifest(signed))
    with pytest.raises(SignatureRefused, match="something else was signed"):
        site.start("j1", manifest(world.people["lead"].job(world.job, nonce="2")))


def test_a_clone_is_a_job_of_its_cloner_once(site, world, signed):
    arguments = {"job_id": "j1", "statement": signing.fingerprint(signed)}
    site.start("j1", manifest(signed))
    clone = manifest(signed, world.people["root"].command("clone_job", **arguments))
    with pytest.raises(SignatureRefused, match=r"a job of lead@org\.example, and root"):
        site.start("j2", clone)
    assert site.start("j2", clone, said="root").submitter.name == "root@org.example"
    with pytest.raises(SignatureRefused, match="is for the job j2"):
        site.start("j3", clone, said="root")
    again = manifest(signed, world.people["root"].command("clone_job", number=2, **arguments))
    assert site.start("j3", again, said="root").permit.cloned_from == "j1"
    member = manifest(signed, world.people["member"].command("clone_job", **arguments))
    with pytest.raises(AuthorizationRefused):
        site.start("j4", member, said="member")


def test_a_clone_of_a_job_that_this_site_knows_as_another_is_refused(site, world, signed):
    site.start("j1", manifest(signed))
    other = world.people["lead"].job(world.job, nonce="2")
    command = world.people["root"].command("clone_job", job_id="j1", statement=signing.fingerprint(other))
    with pytest.raises(SignatureRefused, match="no clone of j1"):
        site.start("j2", manifest(other, command), said="root")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda job: (job / "app/custom/train.py").write_text("evil\n"), "train.py was changed"),
        (lambda job: (job / "app/custom/evil.py").write_text(""), "evil.py was added"),
        (lambda job: (job / "app/custom/.evil.py").write_text(""), "evil.py was added"),
        (lambda job: (job / "app/custom/model.py").unlink(), "model.py is missing"),
    ],
)
def test_a_job_that_was_changed_on_its_way_is_refused(site, signed, tmp_path, change, why):
    admitted = site.start("j1", manifest(signed))
    folder = tiny_job(tmp_path / "job")
    site.admission.folder(admitted, folder, "app")
    change(folder)
    with pytest.raises(SignatureRefused, match=f"does not pass signature verification: .*{why}"):
        site.admission.folder(admitted, folder, "app")
    assert site.recorded()[-1][:3] == ("lead", "submit_job j1", "refused")


def test_a_site_runs_the_app_that_the_job_has_for_it_and_no_other(site, world, tmp_path):
    folder = tiny_job(tmp_path / "job")
    (folder / "app").rename(folder / "mine")
    meta = {"name": "two", "deploy_map": {"mine": ["server", "site-1"], "theirs": ["site-2"]}, "min_clients": 1}
    (folder / "meta.json").write_text(json.dumps(meta))
    tiny_job(tmp_path / "more")
    (tmp_path / "more" / "app").rename(folder / "theirs")
    admitted = site.start("j1", manifest(world.people["lead"].job(folder)))
    jobs.unpack(jobs.pack(folder, apps={"mine"}), tmp_path / "mine")
    site.admission.folder(admitted, tmp_path / "mine", "mine")
    jobs.unpack(jobs.pack(folder, apps={"theirs"}), tmp_path / "theirs")
    with pytest.raises(SignatureRefused, match="wants 'theirs' to run here, and the job has 'mine'"):
        site.admission.folder(admitted, tmp_path / "theirs", "theirs")


def test_the_right_to_bring_code_is_the_signers(world, tmp_path, signed):
    policy = {"format_version": "1.0", "permissions": {"lead": {"submit_job": "any", "byoc": "none"}}}
    site = Site(world, tmp_path, policy=policy)
    assert not site.admission.may_bring_code(site.start("j1", manifest(signed)))


def abort(site, command, job_id="j1", admitted=None):
    site.admission.abort(pb.AbortJob(job_id=job_id, reason="enough", command=command), admitted)


def test_an_abort_is_obeyed_once_for_the_submitter_and_for_whom_the_policy_names(site, world, signed):
    admitted = site.start("j1", manifest(signed))
    lead, other, root = (world.people[name].command("abort_job", job_id="j1") for name in ("lead", "other", "root"))
    for command in (lead, root):
        abort(site, command, admitted=admitted)
        site.restart()
        with pytest.raises(SignatureRefused, match="was obeyed here before"):
            abort(site, command, admitted=admitted)
    with pytest.raises(AuthorizationRefused, match=r"other@org\.example may not abort_job"):
        abort(site, other, admitted=admitted)
    before = len(site.recorded())
    abort(site, b"", admitted=admitted)  # the job has ended at the server
    assert len(site.recorded()) == before


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (lambda root: root.command("abort_job", job_id="j2"), "signed abort_job for j2"),
        (lambda root: root.command("delete_job", job_id="j1"), "something else than abort_job"),
        (lambda root: root.command("abort_job", job_id="j1", time=NOW - timedelta(minutes=11)), "s old"),
        (lambda root: root.command("abort_job", job_id="j1", server="server2"), "for the server server2"),
        (lambda _: b"?", "cannot be read"),
    ],
)
def test_an_abort_that_nobody_gave_for_this_job_now_is_refused(site, world, signed, command, why):
    admitted = site.start("j1", manifest(signed))
    with pytest.raises(SignatureRefused, match=why):
        abort(site, command(world.people["root"]), admitted=admitted)
    assert site.recorded()[-1][1:3] == ("abort_job j1", "refused")


def test_a_site_stops_or_restarts_for_a_command_that_names_it_once(site, world):
    root, lead = world.people["root"], world.people["lead"]

    def stop(command, *, restart=False):
        return site.admission.stop(pb.StopSite(restart=restart, user="root@org.example", command=command)).name

    for number, target in enumerate(("site-1", "@ALL")):
        command = root.command("restart", number=number, target=target)
        assert stop(command, restart=True) == "root@org.example"
        site.restart()  # as it does then: a server that says it again must not keep it from working
        with pytest.raises(SignatureRefused, match="was obeyed here before"):
            stop(command, restart=True)
    for command, why in (
        (b"", "the command shutdown is not signed"),
        (root.command("shutdown", target="site-2"), "signed shutdown for site-2"),
        (root.command("restart", target="site-1"), "something else than shutdown"),
    ):
        with pytest.raises(SignatureRefused, match=why):
            stop(command)
    with pytest.raises(AuthorizationRefused, match="does not allow"):
        stop(lead.command("shutdown", target="site-1"))
    site.revoked.add(root.peer.serial)
    with pytest.raises(SignatureRefused, match="was revoked"):
        stop(root.command("shutdown", target="site-1"))


def a_permit(number):
    time = NOW + timedelta(minutes=number)
    job = JobStatement(PROJECT, SERVER, str(number), time, "", {})
    return signing.Permit(job, tls.Peer("ann", "lab", "lead"), time, seal=f"s{number}", origin=f"s{number}")


def test_a_full_memory_forgets_the_oldest_and_takes_nothing_as_old_any_more(tmp_path):
    used = UsedStatements(tmp_path / "used", limit=3)
    for number in (2, 1, 3, 4):  # the first came with some delay
        used.note_job(f"j{number}", a_permit(number))
    used = UsedStatements(tmp_path / "used", limit=3)
    for number in (0, 1):
        with pytest.raises(SignatureRefused, match="before what this site remembers"):
            used.check_job("j9", a_permit(number))
    for number in (2, 3, 4):
        used.check_job(f"j{number}", a_permit(number))
        with pytest.raises(SignatureRefused, match=f"for the job j{number}, not for j9"):
            used.check_job("j9", a_permit(number))
    assert len(json.loads((tmp_path / "used").read_bytes())["jobs"]) == 3


def test_a_memory_that_is_lost_is_no_licence_to_repeat(tmp_path):
    (tmp_path / "used").write_text("{")
    used = UsedStatements(tmp_path / "used", now=lambda: NOW + timedelta(minutes=5))
    with pytest.raises(SignatureRefused, match="before what this site remembers"):
        used.note_job("j1", a_permit(4))
    used.note_job("j2", a_permit(6))
    UsedStatements(tmp_path / "used").check_job("j2", a_permit(6))


def test_what_cannot_be_noted_is_not_done(site, signed, world):
    (site.workspace / MEMORY).mkdir()
    with pytest.raises(SignatureRefused, match="cannot note that it was used"):
        site.start("j1", manifest(signed))
    with pytest.raises(SignatureRefused, match="cannot note that it was used"):
        abort(site, world.people["root"].command("abort_job", job_id="j1"))


def test_commands_are_forgotten_when_nobody_would_obey_them_any_more(tmp_path):
    now = [NOW]
    used = UsedStatements(tmp_path / "used", now=lambda: now[0])
    used.note_command("one", NOW, signer=1)
    now[0] += timedelta(minutes=21)
    used.note_command("two", now[0], signer=1)
    assert list(json.loads((tmp_path / "used").read_bytes())["commands"]) == ["1.two"]


def test_a_clock_that_jumps_ahead_and_back_repeats_no_command(tmp_path):
    now = [NOW]
    used = UsedStatements(tmp_path / "used", now=lambda: now[0])
    used.note_command("one", NOW, signer=1)
    now[0] += timedelta(hours=1)
    used.note_command("two", now[0], signer=2)
    now[0] = NOW + timedelta(minutes=1)
    for again in (used, UsedStatements(tmp_path / "used", now=lambda: now[0])):
        with pytest.raises(SignatureRefused, match="before what this site remembers"):
            again.note_command("one", NOW, signer=1)
    used.note_command("three", now[0], signer=1)


def test_a_lost_memory_takes_no_command_of_before_and_one_of_an_earlier_version_counts(tmp_path):
    path = tmp_path / "used"
    path.write_text("{")
    used = UsedStatements(path, now=lambda: NOW)
    with pytest.raises(SignatureRefused, match="before what this site remembers"):
        used.note_command("one", NOW - timedelta(minutes=1), signer=1)
    path.write_text(json.dumps({"commands": {"old": NOW.isoformat()}}))
    with pytest.raises(SignatureRefused, match="obeyed here before"):
        UsedStatements(path, now=lambda: NOW).note_command("old", NOW, signer=1)


def test_somebody_who_asks_without_end_is_stopped_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(used_statements, "MAX_COMMANDS", 3)
    used = UsedStatements(tmp_path / "used", now=lambda: NOW)
    for number in range(3):
        used.note_command(f"{number}", NOW + timedelta(minutes=9), signer=1)
    with pytest.raises(SignatureRefused, match="3 commands"):
        used.note_command("more", NOW, signer=1)
    used.note_command("another's", NOW, signer=2)


def test_a_forced_stop_is_signed_as_such(site, world):
    root = world.people["root"]
    for number, more in enumerate(({}, {"force": "yes"}), 1):
        wish = pb.StopSite(command=root.command("shutdown", number=number, target="site-1", **more))
        assert site.admission.stop(wish).name == root.peer.name
    wish = pb.StopSite(command=root.command("shutdown", number=9, target="site-1", force="perhaps"))
    with pytest.raises(SignatureRefused):
        site.admission.stop(wish)


def test_a_server_that_names_a_submitter_without_end_breaks_no_audit_log(site, signed):
    site.world = SimpleNamespace(people={"lead": site.world.people["lead"]})
    site.world.people["long"] = SimpleNamespace(peer=tls.Peer(name="x" * 200_000, org="org", role="lead"))
    with pytest.raises(SignatureRefused):
        site.start("j1", manifest(signed), said="long")
    site.restart()
    with pytest.raises(SignatureRefused):
        site.start("j1", b"nonsense")
    assert len(site.recorded()) == 2
