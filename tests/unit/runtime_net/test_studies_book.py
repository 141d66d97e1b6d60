"""What a server knows of its studies: the kit's word until a command changes it, nothing at all from a broken file."""

from __future__ import annotations

import json
import stat

import pytest
from clouddeploy_runtime import jobs, studies
from clouddeploy_runtime.errors import AuthenticationRefused, JobNotFound
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.studies import StudyBook
from clouddeploy_runtime.studies import Study
from clouddeploy_runtime.tls import Peer

from tests.unit.runtime_net.scheduling_world import World, play

ENTRIES = {
    "heart": {
        "site_orgs": {"org_a": ["site-1"], "org_b": ["site-2"]},
        "admins": ["ann", "bob"],
        "roles": {"bob": "lead"},
    },
    "lung": {"site_orgs": {"org_b": ["site-2"]}},
}
ANN = Peer("ann", "org_a", "member", 7)
BOB = Peer("bob", "org_b", "member", 8)


class Server:
    def __init__(self, folder):
        self.local, self.workspace = folder / "local", folder / "workspace"
        self.local.mkdir()
        self.workspace.mkdir()
        self.write(ENTRIES)

    def write(self, entries):
        document = {"format_version": "1.0", "studies": entries}
        (self.local / "study_registry.json").write_text(json.dumps(document))

    def start(self):
        self.registry = Registry()
        return StudyBook(self.local, self.workspace, self.registry)

    @property
    def file(self):
        return self.workspace / "studies.json"


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def names(book):
    return [study.name for study in book.all()]


def code(book, peer, study):
    with pytest.raises(AuthenticationRefused) as caught:
        book.admit(peer, study)
    return caught.value.error_code


def test_a_server_begins_with_the_studies_of_its_kit_or_with_none(server):
    assert names(server.start()) == ["heart", "lung"]
    (server.local / "study_registry.json").unlink()
    assert names(server.start()) == []


def test_changes_outlive_the_server_and_are_for_its_own_eyes(server):
    book = server.start()
    book.add(Study("new", {"org_a": ("site-1",)}))
    book.change(book.find("heart").with_user("cid", role="lead"))
    book.remove("lung")
    assert stat.S_IMODE(server.file.stat().st_mode) == 0o600
    again = server.start()
    assert again.all() == book.all()
    assert names(again) == ["heart", "new"]
    assert again.find("heart").users == {"ann": "", "bob": "lead", "cid": "lead"}


def test_a_later_kit_counts_for_what_no_command_has_changed_and_the_log_says_where_not(server, caplog):
    book = server.start()
    book.change(book.find("heart").without_user("bob"))
    server.write({"heart": {}, "lung": {"admins": ["ann"]}, "liver": {}})
    again = server.start()
    assert names(again) == ["heart", "liver", "lung"]
    assert again.find("heart").users == {"ann": ""}
    assert again.find("lung").users == {"ann": ""}
    assert [record.args for record in caplog.records] == [("heart",)]


def test_a_removed_study_does_not_come_back_with_the_next_kit(server):
    book = server.start()
    book.remove("heart")
    book.add(Study("brief"))
    book.remove("brief")
    assert names(server.start()) == ["lung"]
    assert list(json.loads(server.file.read_bytes())["changes"]) == ["heart"], "what no kit has is simply gone"


@pytest.mark.parametrize("which", ["kit", "workspace"])
def test_with_a_broken_file_there_is_only_default(server, which, caplog):
    file = server.local / "study_registry.json" if which == "kit" else server.file
    file.write_text('{"format_version": "1.0"}')
    book = server.start()
    assert "missing required field" in book.problem
    assert book.problem in caplog.text
    assert code(book, ANN, "heart") == "AUTH_STUDY_NOT_CONFIGURED"
    assert book.admit(ANN, "default") == "member"
    for attempt in (book.all, lambda: book.find("heart"), lambda: book.add(Study("new"))):
        with pytest.raises(studies.StudyRegistryUnusable):
            attempt()
    assert file.read_text() == '{"format_version": "1.0"}', "nothing writes over it"


def test_a_link_that_leads_nowhere_is_a_broken_file(server):
    (server.local / "study_registry.json").unlink()
    (server.local / "study_registry.json").symlink_to("gone.json")
    assert server.start().problem


def test_a_disk_that_takes_nothing_changes_nothing(server):
    book = server.start()
    server.workspace.rmdir()
    with pytest.raises(studies.StudyRegistryUnusable, match="No such file"):
        book.remove("lung")
    assert names(book) == ["heart", "lung"]


def test_members_get_the_role_of_the_study_or_keep_their_own(server):
    book = server.start()
    assert (book.admit(ANN, "heart"), book.admit(BOB, "heart"), book.admit(BOB, "default")) == (
        "member",
        "lead",
        "member",
    )
    assert book.admit(Peer("bob", "org_b", ""), "heart") == "", "a site stays one"


def test_who_is_let_in_nowhere_is_told_why_by_a_code(server):
    book = server.start()
    assert code(book, ANN, "lung") == "AUTH_STUDY_USER_NOT_MAPPED"
    assert code(book, ANN, "liver") == "AUTH_UNKNOWN_STUDY"
    book.change(book.find("heart").without_user("ann").with_user("ann", org="org_z"))
    assert code(book, ANN, "heart") == "AUTH_STUDY_USER_NOT_MAPPED", "of another organisation"
    assert (book.role_of(ANN, "heart"), book.role_of(BOB, "heart")) == ("", "lead")


def spec(*sites, study="", mandatory=()):
    deploy_map = {"app": ["server", *sites] if sites else ["@ALL"]}
    document = {"name": "j", "deploy_map": deploy_map, "study": study, "mandatory_clients": list(mandatory)}
    return jobs.spec.parse_meta(document)


def test_a_job_names_sites_of_its_study_only(server):
    book = server.start()
    book.check_job("heart", spec("site-1", "site-2", study="heart"))
    book.check_job("heart", spec())
    book.check_job("default", spec("site-9", study="default"))
    for job in (spec("site-1", "site-9"), spec(mandatory=["site-9"])):
        with pytest.raises(studies.SiteNotInStudy, match="it names site-9, no site"):
            book.check_job("heart", job)
    with pytest.raises(studies.StudyMismatch, match="names the study 'heart'"):
        book.check_job("lung", spec(study="heart"))
    with pytest.raises(studies.StudyMismatch):
        book.check_job("default", spec(study="heart"))
    with pytest.raises(studies.StudyNotFound):
        book.check_job("gone", spec())


class StudyWorld(World):
    """A server with studies, whose sites have certificates."""

    def come(self, name, org):
        peer = Peer(name, org, "") if org else None
        session = self.registry.register(name=name, address="here", active_jobs=set(), peer=peer)
        session.is_streaming = True
        self.sessions[name] = session
        self.registry.opened(session)


def in_study(world, study, **more):
    job_id = world.submit(**more)
    world.store.update(job_id, study=study)
    return job_id


def test_the_jobs_of_a_study_go_to_its_sites_only(server, tmp_path):
    async def scenario():
        book = server.start()
        world = StudyWorld(tmp_path, registry=server.registry, takes=book.takes)
        for name, org in {"site-1": "org_a", "site-2": "org_x", "site-3": "org_a", "site-4": ""}.items():
            world.come(name, org)
        everywhere, heart, lung, gone = (in_study(world, study) for study in ("", "heart", "lung", "gone"))
        await world.look()
        assert world.store.get(everywhere).sites == ("site-1", "site-2", "site-3", "site-4")
        assert world.store.get(heart).sites == ("site-1",), "site-2 is there with another organisation's certificate"
        assert "0 of at least 1 sites" in world.why(lung)
        assert "0 of at least 1 sites" in world.why(gone)
        book.change(book.find("lung").with_sites({"org_a": ["site-3"]}))
        book.change(book.find("heart").without_sites(["site-1"]).with_sites({"org_a": ["site-3"]}))
        world.scheduler.wake()
        late = in_study(world, "heart")
        await world.look()
        assert world.store.get(lung).sites == ("site-3",)
        assert world.store.get(late).sites == ("site-3",)
        assert world.store.get(heart).sites == ("site-1",), "what runs goes on where it runs"

    play(scenario)


def test_a_job_of_another_study_cannot_be_told_from_none(tmp_path):
    world = World(tmp_path)
    job_id = in_study(world, "heart")
    assert world.store.get_in("heart", job_id).job_id == job_id
    with pytest.raises(JobNotFound) as there:
        world.store.get_in("default", job_id)
    with pytest.raises(JobNotFound) as not_there:
        world.store.get_in("default", "j-9")
    assert str(there.value).replace(job_id, "j-9") == str(not_there.value)
    assert there.value.hint == not_there.value.hint
