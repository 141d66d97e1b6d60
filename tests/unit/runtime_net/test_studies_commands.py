"""Who may do what with a study: a project admin everything, an organisation's admin what is his, others may look."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from clouddeploy_runtime import studies
from clouddeploy_runtime.admin.studies import Studies
from clouddeploy_runtime.errors import AuthorizationRefused, InvalidCommand
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.studies import StudyBook
from clouddeploy_runtime.server.study_commands import StudyCommands
from clouddeploy_runtime.studies import Study
from clouddeploy_runtime.tls import Peer

ROOT = Peer("root", "hub", "project_admin", 1)
ADA = Peer("ada", "org_a", "org_admin", 2)
BEN = Peer("ben", "org_b", "org_admin", 3)
LEA = Peer("lea", "org_a", "lead", 4)
SITES = {"site-1": "org_a", "site-2": "org_a", "site-3": "org_b"}


class Server:
    """The commands of one server, as its people call them."""

    def __init__(self, folder):
        self.registry = Registry()
        self.jobs = []
        self.changes = 0
        self.book = StudyBook(folder, folder, self.registry)
        for name, org in SITES.items():
            session = self.registry.register(name=name, address="", active_jobs=set(), peer=Peer(name, org, ""))
            self.registry.opened(session)
        store = SimpleNamespace(all=lambda: [SimpleNamespace(study=study) for study in self.jobs])
        self.table = StudyCommands(self.book, store, changed=self.changed).table

    def changed(self):
        self.changes += 1

    def of(self, peer):
        """The session's side of one person, without the line between."""

        def give(command, **arguments):
            assert self.table[command].is_signed, "what changes something is signed"
            assert all(isinstance(value, str) for value in arguments.values())
            return self.call(peer, command, **arguments)

        return Studies(ask=lambda command, **arguments: self.call(peer, command, **arguments), give=give)

    def call(self, peer, command, **arguments):
        answer = asyncio.run(self.table[command].handle(Call(peer=peer, arguments=arguments)))
        return json.loads(json.dumps(answer))


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def test_a_project_admin_makes_changes_and_removes_every_study(server):
    root = server.of(ROOT)
    made = root.register("heart", site_orgs={"org_a": ["site-1"]}, sites=["site-3"], users={"lea": "", "bob": "lead"})
    assert made == Study("heart", {"org_a": ("site-1",), "org_b": ("site-3",)}, {"lea": "", "bob": "lead"})
    assert root.add_site("heart", ["site-2"]).sites == set(SITES)
    assert root.remove_site("heart", ["site-1"], site_orgs={"org_b": ["site-3"]}).site_orgs == {"org_a": ("site-2",)}
    assert root.add_user("heart", "cid", "member").users == {"lea": "", "bob": "lead", "cid": "member"}
    assert root.remove_user("heart", "bob").users == {"lea": "", "cid": "member"}
    assert root.show("heart") == root.list()[0] == server.book.find("heart")
    root.remove("heart")
    assert (root.list(), server.changes) == ([], 6)


def test_an_organisations_admin_has_his_own_sites_and_people_in_a_study(server):
    ada = server.of(ADA)
    made = ada.register("heart", sites=["site-1"], users=["lea"])
    assert (made.users, made.user_orgs) == ({"ada": "", "lea": ""}, {"ada": "org_a", "lea": "org_a"})
    assert ada.add_site("heart", site_orgs={"org_a": ["site-2"]}).sites == {"site-1", "site-2"}
    assert ada.remove_site("heart", ["site-1"]).sites == {"site-2"}
    assert ada.add_user("heart", "max").user_orgs["max"] == "org_a"
    assert "max" not in ada.remove_user("heart", "max").users


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (lambda ada: ada.register("lung", sites=["site-3"]), studies.SiteNotInOrg),
        (lambda ada: ada.register("lung", users={"lea": "lead"}), AuthorizationRefused),
        (lambda ada: ada.add_site("both", ["site-3"]), studies.SiteNotInOrg),
        (lambda ada: ada.add_site("both", site_orgs={"org_a": ["site-3"]}), studies.SiteNotInOrg),
        (lambda ada: ada.remove_site("both", ["site-3"]), studies.SiteNotInOrg),
        (lambda ada: ada.add_user("both", "lea", "project_admin"), AuthorizationRefused),
        (lambda ada: ada.remove_user("both", "ben"), AuthorizationRefused),
        (lambda ada: ada.remove("both"), AuthorizationRefused),
        (lambda ada: ada.show("theirs"), studies.StudyNotFound),
        (lambda ada: ada.add_site("theirs", ["site-1"]), studies.StudyNotFound),
        (lambda ada: ada.remove_site("theirs", ["site-3"]), studies.StudyNotFound),
        (lambda ada: ada.add_user("theirs", "ada"), studies.StudyNotFound),
    ],
)
def test_an_organisations_admin_does_nothing_to_others(server, attempt, error):
    root = server.of(ROOT)
    root.register("both", sites=["site-1", "site-3"], users=["ben"])
    root.register("theirs", sites=["site-3"], users=["lea"])
    before, changes = server.book.all(), server.changes
    with pytest.raises(error):
        attempt(server.of(ADA))
    assert (server.book.all(), server.changes) == (before, changes)


def test_a_study_that_one_may_not_see_is_like_none(server):
    server.of(ROOT).register("theirs", sites=["site-3"])
    messages = []
    for name in ("theirs", "nothing"):
        with pytest.raises(studies.StudyNotFound) as caught:
            server.of(LEA).show(name)
        messages.append((str(caught.value).replace(name, "x"), caught.value.hint))
    assert messages[0] == messages[1]


def test_people_see_the_studies_that_they_are_in(server):
    root = server.of(ROOT)
    root.register("a", users=["lea"])
    root.register("b", sites=["site-1"])
    seen = {peer.name: [one.name for one in server.of(peer).list()] for peer in (ROOT, ADA, BEN, LEA)}
    assert seen == {"root": ["a", "b"], "ada": ["b"], "ben": [], "lea": ["a"]}


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (lambda root: root.register("heart"), studies.StudyAlreadyExists),
        (lambda root: root.register("default"), studies.InvalidStudyName),
        (lambda root: root.register("Heart!"), studies.InvalidStudyName),
        (lambda root: root.register("old"), studies.StudyHasJobs),
        (lambda root: root.register("lung", sites=["site-9"]), studies.UnknownSite),
        (lambda root: root.register("lung", site_orgs={"org_b": ["site-1"]}), studies.SiteNotInOrg),
        (lambda root: root.register("lung", sites=["site-1"], site_orgs={"org_a": ["site-1"]}), studies.InvalidSite),
        (lambda root: root.register("lung", users=[""]), studies.InvalidStudyUser),
        (lambda root: root.add_site("heart", ["site-1"]), studies.SiteAlreadyInStudy),
        (lambda root: root.add_site("heart"), InvalidCommand),
        (lambda root: root.add_site("gone", ["site-1"]), studies.StudyNotFound),
        (lambda root: root.remove_site("heart", ["site-2"]), studies.SiteNotInStudy),
        (lambda root: root.remove_site("heart", site_orgs={"org_b": ["site-1"]}), studies.SiteNotInOrg),
        (lambda root: root.remove_site("heart", ["site-9"]), studies.SiteNotInStudy),
        (lambda root: root.remove_user("heart", "bob"), studies.UserNotInStudy),
        (lambda root: root.add_user("heart", "lea"), studies.UserAlreadyInStudy),
        (lambda root: root.remove("heart"), studies.StudyHasJobs),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_own_code(server, attempt, error):
    root = server.of(ROOT)
    root.register("heart", sites=["site-1"], users=["lea"])
    server.jobs += ["", "heart", "old"]
    before = server.book.all()
    with pytest.raises(error) as caught:
        attempt(root)
    assert type(caught.value) is error
    assert server.book.all() == before


def test_a_site_that_is_away_is_known_by_the_studies_it_is_in(server, tmp_path):
    server.of(ROOT).register("heart", sites=["site-1"])
    restarted = Server.__new__(Server)
    restarted.registry, restarted.changes, restarted.jobs = Registry(), 0, []
    restarted.book = StudyBook(tmp_path, tmp_path, restarted.registry)
    store = SimpleNamespace(all=list)
    restarted.table = StudyCommands(restarted.book, store, changed=restarted.changed).table
    assert restarted.of(ROOT).register("lung", sites=["site-1"]).site_orgs == {"org_a": ("site-1",)}
    with pytest.raises(studies.UnknownSite):
        restarted.of(ROOT).add_site("lung", ["site-3"])


@pytest.mark.parametrize("text", ["{", "[]", '{"org_a": "site-1"}', pytest.param("[" * 10_000, id="deep"), "null"])
def test_arguments_that_are_not_as_they_should_be_are_refused(server, text):
    with pytest.raises(InvalidCommand):
        server.call(ROOT, "register_study", name="heart", site_orgs=text)


def test_an_answer_holds_all_that_a_study_is(server):
    study = Study("heart", {"org_a": ("site-1",)}, {"lea": "lead"}, {"lea": "org_a"})
    server.book.add(study)
    assert server.of(ROOT).show("heart") == study
    assert server.call(ROOT, "show_study", name="heart") == json.loads(json.dumps(asdict(study)))
