"""The policy evaluator: who may do what, and that nothing else may."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime import authorization
from clouddeploy_runtime.authorization import PolicyError, Request
from clouddeploy_runtime.tls import Peer
from hypothesis import given
from hypothesis import strategies as st

DEFAULT = {
    "project_admin": "any",
    "org_admin": {
        "submit_job": "none",
        "manage_job": "o:submitter",
        "download_job": "o:submitter",
        "view": "any",
        "operate": "o:site",
    },
    "lead": {"submit_job": "any", "manage_job": "n:submitter", "view": "any"},
    "member": {"view": ["any"]},
}


def ask(role, right, *, permissions=None, name="ann", org="lab", submitter="ann", submitter_org="lab", site_org="lab"):
    policy = authorization.parse({"format_version": "1.0", "permissions": permissions or DEFAULT})
    return policy.permits(
        Request(
            user=Peer(name=name, org=org, role=role),
            right=right,
            site_org=site_org,
            submitter_name=submitter,
            submitter_org=submitter_org,
        )
    )


@pytest.mark.parametrize(
    ("role", "right", "others", "expected"),
    [
        ("project_admin", "shutdown", {}, True),
        ("Project_Admin", "shutdown", {}, True),
        ("org_admin", "submit_job", {}, False),
        ("org_admin", "abort_job", {}, True),
        ("org_admin", "abort_job", {"submitter_org": "elsewhere"}, False),
        ("org_admin", "shutdown", {"site_org": "elsewhere"}, False),
        ("lead", "submit_job", {}, True),
        ("lead", "abort_job", {"submitter": "bob"}, False),
        ("lead", "delete_job", {}, True),
        ("lead", "shutdown", {}, False),
        ("member", "list_jobs", {}, True),
        ("member", "abort_job", {}, False),
        ("", "list_jobs", {}, False),
        ("stranger", "list_jobs", {}, False),
    ],
)
def test_the_default_policy(role, right, others, expected):
    assert ask(role, right, **others) is expected


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("ALL", True),
        ("no", False),
        ("org: Lab", True),
        ("name:ann", True),
        ("N : bob", False),
        ("not n:ann", False),
        ("not name:bob", True),
        (["any", "not o:lab"], False),
        (["n:bob", "o:lab"], True),
        (["n:bob", "none"], False),
    ],
)
def test_each_form_of_control(control, expected):
    assert ask("lead", "list_jobs", permissions={"lead": {"view": control}}) is expected


def test_an_explicit_right_overrides_its_category():
    permissions = {"lead": {"view": "any", "list_jobs": "none"}}
    assert not ask("lead", "list_jobs", permissions=permissions)
    assert ask("lead", "check_status", permissions=permissions)


def test_an_empty_organisation_matches_nothing():
    assert not ask("org_admin", "shutdown", org="", site_org="")


@pytest.mark.parametrize("control", ["", [], "x:lab", "o:", "n:site", 5, [None], "not", {"a": {}}])
def test_a_malformed_control_is_an_error(control):
    with pytest.raises(PolicyError):
        authorization.parse({"format_version": "1.0", "permissions": {"lead": {"view": control}}})


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_document_is_a_policy_or_an_error(document):
    try:
        authorization.parse({"format_version": "1.0", "permissions": document})
    except PolicyError:
        return


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format_version": "2.0", "permissions": {}}'])
def test_a_missing_or_broken_file_denies_everything(tmp_path, content):
    if content is not None:
        (tmp_path / "authorization.json").write_text(content)
        sound = {"format_version": "1.0", "permissions": {"lead": "any"}}
        (tmp_path / "authorization.json.default").write_text(json.dumps(sound))
    policy = authorization.load(tmp_path)
    assert policy.problem
    assert not policy.permits(Request(user=Peer(name="ann", org="lab", role="lead"), right="list_jobs", site_org="lab"))


def test_the_sites_own_file_wins_over_the_default(tmp_path):
    for name, control in (("authorization.json", "none"), ("authorization.json.default", "any")):
        (tmp_path / name).write_text(json.dumps({"format_version": "1.0", "permissions": {"lead": control}}))
    request = Request(user=Peer(name="ann", org="lab", role="lead"), right="list_jobs", site_org="lab")
    assert not authorization.load(tmp_path).permits(request)
