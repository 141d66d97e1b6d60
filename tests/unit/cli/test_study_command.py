"""`study …` without a server."""

from __future__ import annotations

import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.study import study


def test_a_study_is_registered_with_sites_and_members(run):
    words = ("register", "new", "--site-org", "org_a:site-1,org_a:site-2", "--sites", "site-3")
    made = run(study, *words, "--user", "a@x.org", "--user", "b@x.org:lead")["data"]["study"]
    assert made == {
        "name": "new",
        "site_orgs": {"org_a": ["site-1", "site-2"], "?": ["site-3"]},
        "users": {"a@x.org": "", "b@x.org": "lead"},
    }


def test_studies_are_listed_and_shown(run):
    assert [one["name"] for one in run(study, "list")["data"]["studies"]] == ["trial"]
    assert "lead@x.org (lead)" in run(study, "show", "trial", form="text")
    run.session.studies.known.clear()
    assert "No study" in run(study, "list", form="text")


def test_sites_and_members_come_and_go(run):
    assert run(study, "add-site", "trial", "--sites", "site-2")["data"]["study"]["site_orgs"]["?"] == ["site-2"]
    run(study, "remove-site", "trial", "--site-org", "org_a:site-1")
    assert "c@x.org" in run(study, "add-user", "trial", "c@x.org", "--role", "lead")["data"]["study"]["users"]
    assert "c@x.org" not in run(study, "remove-user", "trial", "c@x.org")["data"]["study"]["users"]


@pytest.mark.parametrize("words", [("--sites", ","), ("--site-org", "site-1"), ()])
def test_a_site_has_to_be_named_as_one(run, words):
    run(study, "add-site", "trial", *words, expected=ExitCode.BAD_INPUT)


def test_a_removal_is_asked_about(run):
    run(study, "remove", "trial", expected=ExitCode.BAD_INPUT)
    run(study, "remove", "trial", "--yes")
    assert run.session.studies.known == {}
