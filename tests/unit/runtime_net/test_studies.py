"""One study and the files that hold them: strict about names, and what is written is read again."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.kit_settings import KitSettings
from clouddeploy_runtime import authorization, studies
from clouddeploy_runtime.admin.replies import _ERRORS
from clouddeploy_runtime.server import logins as server_logins
from clouddeploy_runtime.server import studies as server_studies
from clouddeploy_runtime.server.study_commands import StudyCommands
from clouddeploy_runtime.studies import Study
from clouddeploy_runtime.studies.registry_file import Change, digest, encode_changes, parse_changes, parse_kit

from tests.packaging.pages import page, section, tables

HEART = Study("heart", {"org_a": ("site-1", "site-2"), "org_b": ("site-3",)}, {"ann@a.com": "", "bob@b.com": "lead"})
PROJECT = """
api_version: 4
name: p
studies:
  heart: {sites: [site-1, site-3], admins: {admin@a.com: lead, lead@b.com: member}}
  lung: {site_orgs: {org_a: [site-1, site-2]}, admins: [lead@b.com]}
  empty:
participants:
  - {name: server1, type: server, org: org_s}
  - {name: site-1, type: client, org: org_a}
  - {name: site-2, type: client, org: org_a}
  - {name: site-3, type: client, org: org_b}
  - {name: admin@a.com, type: admin, org: org_a, role: org_admin}
  - {name: lead@b.com, type: admin, org: org_b, role: lead}
builders: [{path: nvflare.lighter.impl.cert.CertBuilder}]
"""


@pytest.mark.parametrize("name", ["a", "a-b_c", "0", "a" * 63, "cancer-research"])
def test_a_name_that_follows_the_rule_is_one(name):
    studies.check_name(name)


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "_", "a" * 64, "a b", "a\n", "ä", "default", "../x", "a/b"])
def test_what_breaks_the_rule_is_no_name(name):
    with pytest.raises(studies.InvalidStudyName):
        studies.check_name(name)


def test_sites_come_and_go_and_an_organisation_without_any_is_forgotten():
    more = HEART.with_sites({"org_b": ["site-4"], "org_c": ["site-5"]})
    assert more.site_orgs == {"org_a": ("site-1", "site-2"), "org_b": ("site-3", "site-4"), "org_c": ("site-5",)}
    assert more.without_sites(["site-3", "site-4", "site-5"]).site_orgs == {"org_a": ("site-1", "site-2")}
    assert (more.org_of("site-5"), more.org_of("site-9")) == ("org_c", None)
    assert HEART.with_sites({}) == HEART


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda one: one.with_sites({"org_c": ["site-1"]}), studies.SiteAlreadyInStudy),
        (lambda one: one.with_sites({"org_a": ["site-4", "site-4"]}), studies.InvalidSite),
        (lambda one: one.with_sites({"org_a": ["../x"]}), studies.InvalidSite),
        (lambda one: one.with_sites({"": ["site-4"]}), studies.InvalidSite),
        (lambda one: one.without_sites(["site-4"]), studies.SiteNotInStudy),
        (lambda one: one.with_user("ann@a.com"), studies.UserAlreadyInStudy),
        (lambda one: one.with_user(""), studies.InvalidStudyUser),
        (lambda one: one.with_user("eve\x1b[2J"), studies.InvalidStudyUser),
        (lambda one: one.with_user("eve", role="no role"), studies.InvalidStudyUser),
        (lambda one: one.without_user("eve"), studies.UserNotInStudy),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_its_own_code(change, error):
    with pytest.raises(error) as caught:
        change(HEART)
    assert type(caught.value) is error
    assert _ERRORS[error.error_code] is error, "the admin's side raises it again"


def test_who_counts_with_one_organisation_only_is_no_member_with_another():
    study = HEART.with_user("cid@a.com", org="org_a")
    assert study.has_member("cid@a.com", org="org_a")
    assert not study.has_member("cid@a.com", org="org_b")
    assert study.has_member("ann@a.com", org="whichever")
    assert study.without_user("cid@a.com") == HEART


def test_the_registry_of_a_provisioned_kit_is_read(tmp_path):
    file = tmp_path / "project.yml"
    file.write_text(PROJECT)
    assert parse_kit(KitSettings(project.load(file)).study_registry()) == {
        "heart": Study(
            "heart",
            {"org_a": ("site-1",), "org_b": ("site-3",)},
            {"admin@a.com": "lead", "lead@b.com": "member"},
        ),
        "lung": Study("lung", {"org_a": ("site-1", "site-2")}, {"lead@b.com": ""}),
        "empty": Study("empty"),
    }


def test_roles_may_stand_in_place_of_the_list_of_members():
    entry = {"admins": {"ann@a.com": "lead", "bob@b.com": ""}}
    found = parse_kit(json.dumps({"format_version": "1.0", "studies": {"s": entry, "none": None}}).encode())
    assert found["s"].users == {"ann@a.com": "lead", "bob@b.com": ""}
    assert found["none"] == Study("none")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"sites": ["site-1"]}, "unknown field `sites`"),
        ({"site_orgs": {"a": ["x"], "b": ["x"]}}, "'s'.*named twice"),
        ({"site_orgs": {"a": "x"}}, "Expected `array`"),
        ({"roles": {"ann": "lead"}}, "'s'.*'ann', who is no member"),
        ({"admins": ["a"], "user_orgs": {"b": "org"}}, "'s'.*no member"),
        ({"admins": [""]}, "'s'.*Nobody is called"),
    ],
)
def test_a_registry_that_is_not_sound_says_what_is_wrong(entry, why):
    with pytest.raises(studies.InvalidStudy) as caught:
        parse_kit(json.dumps({"format_version": "1.0", "studies": {"s": entry}}).encode())
    assert caught.match(why)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        pytest.param(b"[" * 100_000, id="deep"),
        b"[]",
        b"\xff",
        b'{"studies": {}}',
        b'{"format_version": "2.0", "studies": {}}',
        b'{"format_version": "1.0", "studies": {"default": null}}',
        b'{"format_version": "1.0", "studies": {"A": null}}',
    ],
)
def test_what_is_no_registry_raises_nothing_else(content):
    for parse in (parse_kit, parse_changes):
        with pytest.raises(studies.InvalidStudy):
            parse(content)


def test_what_is_written_is_read_again():
    changes = {"heart": Change(HEART.with_user("cid", org="org_a"), ""), "lung": Change(None, digest(HEART))}
    assert parse_changes(encode_changes(changes)) == changes
    assert digest(HEART) != digest(HEART.without_user("ann@a.com")) != digest(None) == ""


def test_the_page_has_every_code_and_right():
    refusals, logins = tables(section("studies.md", "Errors"))
    assert {row[0].strip("`") for row in refusals} == {error.error_code for error in studies.ERRORS}
    for code in (row[0].strip("`") for row in logins):
        assert any(code in inspect.getsource(module) for module in (server_studies, server_logins)), code
    text = section("studies.md", "Who may change it")
    for name, command in StudyCommands(None, None, changed=None).table.items():
        assert f"`{name}`" in text
        category = "view" if command.right in authorization.CATEGORIES["view"] else "manage_study"
        assert command.right in authorization.CATEGORIES[category]
        assert command.is_signed is (category == "manage_study")


def test_the_project_file_of_the_page_is_one(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", page("studies.md"), re.DOTALL)
    people = "\n".join(PROJECT.splitlines()[7:]).replace("admin@a.com", "ann@a.example")
    file = tmp_path / "project.yml"
    file.write_text(f"name: p\n{example}{people.replace('lead@b.com', 'lead@b.example')}\n")
    (study,) = parse_kit(KitSettings(project.load(file)).study_registry()).values()
    assert study.users == {"lead@b.example": "lead", "ann@a.example": "member"}
    assert study.site_orgs == {"org_a": ("site-1", "site-2"), "org_b": ("site-3",)}


def test_a_study_that_stands_there_twice_is_none():
    entry = '{"site_orgs": {}, "admins": []}'
    twice = f'{{"format_version": "1.0", "studies": {{"heart": {entry}, "heart": {entry}}}}}'
    with pytest.raises(studies.InvalidStudy, match="twice"):
        parse_kit(twice.encode())
