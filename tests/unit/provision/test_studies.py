"""Studies of a project: both forms mean the same, and every rule about who may be named in one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.errors import ProjectFileError
from clouddeploy_provision.kit_settings import KitSettings

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_provision.errors import Problem

PEOPLE = """
participants:
  - {name: server1, type: server, org: org_s}
  - {name: site-1, type: client, org: org_a}
  - {name: site-2, type: client, org: org_a}
  - {name: site-3, type: client, org: org_b}
  - {name: admin@a.com, type: admin, org: org_a, role: org_admin}
  - {name: lead@b.com, type: admin, org: org_b, role: lead}
builders: [{path: nvflare.lighter.impl.cert.CertBuilder}]
"""


def write(folder: Path, studies: str, *, version: int = 4) -> Path:
    file = folder / "project.yml"
    file.write_text(f"api_version: {version}\nname: p\nstudies:\n{studies}{PEOPLE}")
    return file


def registry(folder: Path, studies: str) -> dict:
    content = KitSettings(project.load(write(folder, studies))).study_registry()
    assert content is not None
    return json.loads(content)


def refused(folder: Path, studies: str, *, version: int = 4) -> tuple[Problem, ...]:
    file = write(folder, studies, version=version)
    with pytest.raises(ProjectFileError) as caught:
        project.load(file)
    return caught.value.problems


def test_both_forms_give_the_same_registry(tmp_path):
    coded = "  s: {site_orgs: {org_a: [site-1, site-2], org_b: [site-3]}, admins: [admin@a.com, lead@b.com]}\n"
    documented = "  s: {sites: [site-1, site-2, site-3], admins: [admin@a.com, lead@b.com]}\n"
    expected = {
        "format_version": "1.0",
        "studies": {
            "s": {
                "site_orgs": {"org_a": ["site-1", "site-2"], "org_b": ["site-3"]},
                "admins": ["admin@a.com", "lead@b.com"],
            }
        },
    }
    assert expected == registry(tmp_path, coded) == registry(tmp_path, documented)


def test_roles_of_the_documented_form_stand_beside_the_membership(tmp_path):
    found = registry(tmp_path, "  s: {sites: [site-3], admins: {admin@a.com: lead, lead@b.com: member}}\n")["studies"][
        "s"
    ]
    assert found == {
        "site_orgs": {"org_b": ["site-3"]},
        "admins": ["admin@a.com", "lead@b.com"],
        "roles": {"admin@a.com": "lead", "lead@b.com": "member"},
    }


def test_an_admin_who_is_named_twice_is_in_it_once(tmp_path):
    found = registry(tmp_path, "  s: {admins: [lead@b.com, lead@b.com]}\n")
    assert found["studies"]["s"] == {"admins": ["lead@b.com"]}


def test_a_study_without_anything_is_an_empty_mapping(tmp_path):
    assert registry(tmp_path, "  s:\n  t: {}\n")["studies"] == {"s": {}, "t": {}}


def test_a_project_without_studies_has_no_registry(tmp_path):
    file = write(tmp_path, "")
    assert KitSettings(project.load(file)).study_registry() is None


@pytest.mark.parametrize("name", ["a", "cancer-research", "0_9", "x" * 63])
def test_names_that_a_study_may_have(tmp_path, name):
    assert name in registry(tmp_path, f"  {name}: {{}}\n")["studies"]


@pytest.mark.parametrize("name", ["Upper", "-a", "a-", "_a", "a b", "x" * 64, "ä", '"a\\n"'])
def test_names_that_a_study_may_not_have(tmp_path, name):
    (problem,) = refused(tmp_path, f"  {name}: {{}}\n")
    assert "1 to 63 lower-case letters" in problem.rule
    assert (problem.line, problem.example[:9]) == (4, "studies: ")


@pytest.mark.parametrize(
    ("study", "key", "rule"),
    [
        ("s: {site_orgs: {org_z: []}}", "s.site_orgs.org_z", "no client has the organisation org_z"),
        ("s: {site_orgs: {org_s: []}}", "s.site_orgs.org_s", "no client has the organisation org_s"),
        ("s: {site_orgs: {org_a: [site-3]}}", "s.site_orgs.org_a[0]", "site-3 belongs to org_b, not to org_a"),
        ("s: {site_orgs: {org_a: [site-1, site-1]}}", "s.site_orgs.org_a[1]", "site-1 is named twice"),
        ("s: {site_orgs: {org_a: [server1]}}", "s.site_orgs.org_a[0]", "server1 is not a client"),
        ("s: {site_orgs: {org_a: site-1}}", "s.site_orgs.org_a", "must be a list, not 'site-1'"),
        ("s: {sites: [site-9]}", "s.sites[0]", "site-9 is not a client"),
        ("s: {sites: [site-1, site-1]}", "s.sites[1]", "site-1 is named twice"),
        ("s: {sites: [1]}", "s.sites[0]", "must be text, not 1; put it into quotes"),
        ("s: {sites: [], site_orgs: {}}", "s.sites", "says the same as site_orgs; keep one of the two"),
        ("s: {admins: [nobody@a.com]}", "s.admins[0]", "nobody@a.com is not an admin"),
        ("s: {admins: [site-1]}", "s.admins[0]", "site-1 is not an admin"),
        ("s: {admins: {nobody@a.com: lead}}", "s.admins.nobody@a.com", "nobody@a.com is not an admin"),
        ("s: {admins: lead@b.com}", "s.admins", "must be a list of admins, or a mapping"),
        ("s: {users: []}", "s.users", "unknown key, did you mean sites?; known here are admins, site_orgs, sites"),
        ("s: 3", "s", "must be a mapping, not 3"),
        ("default: {}", "default", "is a reserved name"),
    ],
)
def test_what_a_study_may_not_say(tmp_path, study, key, rule):
    (problem,) = refused(tmp_path, f"  {study}\n")
    assert problem.key == f"studies.{key}"
    assert rule in problem.rule
    assert problem.line == 4


def test_a_role_that_does_not_exist(tmp_path):
    (problem,) = refused(tmp_path, "  s: {admins: {lead@b.com: boss}}\n")
    assert "must be 'project_admin', 'org_admin', 'lead' or 'member', not 'boss'" in problem.rule


def test_studies_need_api_version_4(tmp_path):
    (problem,) = refused(tmp_path, "  s: {}\n", version=3)
    assert (problem.line, problem.key, problem.rule) == (3, "studies", "requires api_version: 4")


def test_studies_of_version_3_that_are_empty_are_refused_too(tmp_path):
    """The reference refuses the key itself."""
    assert refused(tmp_path, "  {}\n", version=3)
