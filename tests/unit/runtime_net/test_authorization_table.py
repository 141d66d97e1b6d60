"""What policies decide: tables of role, organisation, submitter and right; laws for every policy; and their files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import clouddeploy_provision
import pytest
from clouddeploy_runtime import authorization
from clouddeploy_runtime.authorization import CATEGORIES, OTHER_RIGHTS, PolicyError, PolicyFile, Request
from clouddeploy_runtime.tls import Peer
from hypothesis import given
from hypothesis import strategies as st

KIT = Path(clouddeploy_provision.__file__).parent / "kit_files" / "authorization.json.default"
"""What every kit is made with."""


def policy(permissions):
    return authorization.parse({"format_version": "1.0", "permissions": permissions})


def request(role, right, *, name="ann", org="lab", submitter="ann", submitter_org="lab", site_org="lab"):
    user = Peer(name=name, org=org, role=role)
    return Request(user, right, site_org, submitter_name=submitter, submitter_org=submitter_org)


OWN, COLLEAGUE, STRANGER = {}, {"submitter": "bob"}, {"submitter": "eve", "submitter_org": "clinic"}
ELSEWHERE = {"site_org": "clinic"}
DEFAULT = [
    ("project_admin", "submit_job", OWN, True),
    ("project_admin", "abort_job", STRANGER, True),
    ("project_admin", "shutdown", ELSEWHERE, True),
    ("project_admin", "end_sessions", ELSEWHERE, True),
    ("project_admin", "byoc", OWN, True),
    ("project_admin", "what_comes_later", OWN, True),
    ("org_admin", "submit_job", OWN, False),
    ("org_admin", "clone_job", OWN, False),
    ("org_admin", "byoc", OWN, False),
    ("org_admin", "abort_job", COLLEAGUE, True),
    ("org_admin", "delete_job", STRANGER, False),
    ("org_admin", "configure_job_log", STRANGER, False),
    ("org_admin", "download_job", COLLEAGUE, True),
    ("org_admin", "download_job", STRANGER, False),
    ("org_admin", "list_jobs", STRANGER, True),
    ("org_admin", "show_errors", STRANGER, True),
    ("org_admin", "sys_info", OWN, True),
    ("org_admin", "restart", ELSEWHERE, False),
    ("org_admin", "configure_site_log", OWN, True),
    ("org_admin", "cat", OWN, True),
    ("org_admin", "tail", ELSEWHERE, False),
    ("lead", "submit_job", OWN, True),
    ("lead", "byoc", OWN, True),
    ("lead", "clone_job", OWN, True),
    ("lead", "clone_job", COLLEAGUE, False),
    ("lead", "abort_job", COLLEAGUE, False),
    ("lead", "delete_job", OWN, True),
    ("lead", "download_job", COLLEAGUE, False),
    ("lead", "get_job_meta", STRANGER, True),
    ("lead", "report_version", OWN, True),
    ("lead", "disable_client", ELSEWHERE, False),
    ("lead", "end_sessions", ELSEWHERE, False),
    ("lead", "grep", OWN, True),
    ("lead", "what_comes_later", OWN, False),
    ("member", "list_jobs", STRANGER, True),
    ("member", "check_status", ELSEWHERE, True),
    ("member", "submit_job", OWN, False),
    ("member", "abort_job", OWN, False),
    ("member", "download_job", OWN, False),
    ("member", "ls", OWN, False),
    ("member", "list_sessions", OWN, False),
    ("guest", "list_jobs", OWN, False),
    ("super", "list_jobs", OWN, False),
    ("", "list_jobs", OWN, False),
]


@pytest.mark.parametrize(("role", "right", "who", "expected"), DEFAULT)
def test_the_policy_of_every_kit(role, right, who, expected):
    assert authorization.read(KIT.read_bytes()).permits(request(role, right, **who)) is expected


def test_the_policy_of_every_kit_has_no_slip_of_the_pen():
    assert authorization.read(KIT.read_bytes()).unknown == ()
    assert policy({"lead": {"shutdwn": "none", "operate": "any"}}).unknown == ("shutdwn",)


@pytest.mark.parametrize(
    ("permissions", "right", "who", "expected"),
    [
        ({"lead": "any"}, "byoc", OWN, True),
        ({"lead": "none"}, "list_jobs", OWN, False),
        ({"lead": ["o:lab", "not n:ann"]}, "list_jobs", OWN, False),
        ({"lead": {"*": "o:site"}}, "shutdown", OWN, True),
        ({"lead": {"*": "o:site"}}, "shutdown", ELSEWHERE, False),
        ({" LEAD ": {"  List_Jobs ": " ALL "}}, "list_jobs", OWN, True),
        ({"lead": {"view": "none", "list_jobs": "any"}}, "list_jobs", OWN, True),
        ({"lead": {"view": "any", "list_jobs": "not any"}}, "list_jobs", OWN, False),
        ({"lead": {"operate": "o:site", "shutdown": "none"}}, "restart", OWN, True),
        ({"lead": {"view": "not o:clinic"}}, "list_jobs", OWN, True),
        ({"lead": {"view": "not o:lab"}}, "list_jobs", OWN, False),
        ({"lead": {"view": ["not o:clinic", "n:bob"]}}, "list_jobs", OWN, False),
        ({"lead": {"view": ["not n:bob", "o:lab", "none"]}}, "list_jobs", OWN, True),
        ({"lead": {"view": ["none", "none"]}}, "list_jobs", OWN, False),
        ({"lead": {"view": "not none"}}, "list_jobs", OWN, True),
        ({"lead": {"manage_job": "not  name : submitter"}}, "abort_job", OWN, False),
        ({"lead": {"manage_job": "org:submitter"}}, "abort_job", COLLEAGUE, True),
        ({"lead": {"manage_job": "n:submitter"}}, "list_jobs", OWN, False),
        ({"lead": {"abort": "any"}}, "abort_job", OWN, False),
        ({"lead": {"view": "n:Ann"}}, "list_jobs", {"name": "ANN"}, True),
        ({"lead": {"view": "o:city  lab"}}, "list_jobs", {"org": "City Lab"}, True),
        ({"lead": {"view": "any"}}, "", OWN, False),
        ({}, "list_jobs", OWN, False),
    ],
)
def test_each_rule_of_the_format(permissions, right, who, expected):
    assert policy(permissions).permits(request("lead", right, **who)) is expected


@pytest.mark.parametrize(
    ("permissions", "right", "who", "rule"),
    [
        ({"lead": "any"}, "byoc", OWN, "role lead, every right: any holds"),
        ({"lead": {"manage_job": "n:submitter"}}, "abort_job", OWN, "role lead, manage_job: n:submitter holds"),
        (
            {"lead": {"abort_job": ["n:submitter", "o:x"]}},
            "abort_job",
            COLLEAGUE,
            "role lead, abort_job: does not hold: n:submitter, o:x",
        ),
        ({"lead": {"view": ["any", "not o:lab"]}}, "list_jobs", OWN, "role lead, view: not o:lab holds"),
        ({"lead": {"view": "not o:x"}}, "list_jobs", OWN, "role lead, view: nothing that blocks holds"),
        ({"lead": {"view": "any"}}, "abort_job", OWN, "role lead has no abort_job nor manage_job"),
        ({"lead": {"view": "any"}}, "byoc", OWN, "role lead has no byoc"),
        ({"other": "any"}, "byoc", OWN, "the policy has no role 'lead'"),
    ],
)
def test_a_decision_names_the_rule_that_made_it(permissions, right, who, rule):
    assert policy(permissions).explain(request("lead", right, **who)).rule == rule


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b'{"format_version": "1.0", "permissions": {"lead": "none", "lead": "any"}}', "twice"),
        (b'{"format_version": "1.0", "permissions": {"lead": "none", "Lead ": "any"}}', "stands there twice"),
        (b'{"format_version": "1.0", "permissions": {"lead": {"view": "any", "VIEW": "none"}}}', "stands there twice"),
        (b'{"format_version": "1.0", "permissions": {"lead": {"*": "any", "shutdown": "none"}}}', "would not count"),
        (b'{"format_version": "1.0", "permissions": {"": "any"}}', "without a name"),
        (b'{"format_version": "1.0", "permissions": {"lead": {" ": "any"}}}', "without a name"),
        (b'{"format_version": 1.0, "permissions": {}}', "format_version"),
        (b'{"a":' * 60_000, "nested"),
        (b"\xff\xfe", "Expecting value"),
    ],
)
def test_what_can_be_read_in_two_ways_is_no_policy(document, why):
    with pytest.raises(PolicyError, match=why):
        authorization.read(document)


RIGHTS = st.sampled_from(sorted({right for rights in CATEGORIES.values() for right in rights} | OTHER_RIGHTS))
NAMES = st.sampled_from(["ann", "bob", "submitter"])
CONDITIONS = st.sampled_from(["any", "none", "o:site", "o:submitter", "o:lab", "o:x", "n:submitter", "n:ann", "n:bob"])
CONTROLS = st.lists(st.tuples(st.booleans(), CONDITIONS).map(lambda one: f"{'not ' * one[0]}{one[1]}"), min_size=1)
USERS = st.fixed_dictionaries(
    {"name": NAMES, "org": st.sampled_from(["lab", "x", ""]), "submitter": NAMES, "site_org": st.sampled_from(["lab"])}
)


@given(CONTROLS, CONDITIONS, RIGHTS, USERS)
def test_one_more_not_never_allows_more(control, condition, right, who):
    before = policy({"lead": {right: control}}).permits(request("lead", right, **who))
    after = policy({"lead": {right: [*control, f"not {condition}"]}}).permits(request("lead", right, **who))
    assert before or not after


@given(CONTROLS, RIGHTS, USERS, st.sampled_from(["", "guest", "super", "leads", "le ad"]))
def test_a_role_that_is_not_in_the_policy_never_may(control, right, who, role):
    assert not policy({"lead": control}).permits(request(role, right, **who))


@given(CONTROLS, RIGHTS, USERS)
def test_capitals_and_spaces_make_no_difference(control, right, who):
    loud = [f"  {one.upper().replace(':', ' : ')} " for one in control]
    usual = policy({"lead": {right: control}}).explain(request("lead", right, **who))
    assert policy({" LEAD": {right.upper(): loud}}).explain(request("Lead", right, **who)) == usual


@given(CONTROLS, CONTROLS, RIGHTS, USERS)
def test_an_explicit_right_is_all_that_counts(explicit, general, right, who):
    category = next((name for name, rights in CATEGORIES.items() if right in rights and name != right), None)
    rights = {right: explicit} | ({category: general} if category else {})
    expected = policy({"lead": {right: explicit}}).permits(request("lead", right, **who))
    assert policy({"lead": rights}).permits(request("lead", right, **who)) is expected


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_policy_or_an_error(content):
    try:
        authorization.read(content)
    except PolicyError:
        return


def written(path, permissions, *, age_s=10.0):
    path.write_text(json.dumps({"format_version": "1.0", "permissions": permissions}))
    old = path.stat().st_mtime - age_s
    os.utime(path, (old, old))


def test_an_edit_holds_from_the_next_question_on(tmp_path):
    file, path = PolicyFile(tmp_path), tmp_path / "authorization.json"
    for number in range(20):
        written(path, {"lead": "any" if number % 2 else "none"})  # of one size, and of one time
        assert file.current().permits(request("lead", "byoc")) is bool(number % 2)


def test_a_file_that_was_not_changed_is_read_once(tmp_path, monkeypatch):
    file, path = PolicyFile(tmp_path), tmp_path / "authorization.json"
    written(path, {"lead": "any"})
    monkeypatch.setattr(authorization, "_SETTLED_S", -1.0)
    first = file.current()
    assert file.current() is first
    written(tmp_path / "new", {"lead": "none"})
    (tmp_path / "new").replace(path)
    assert not file.current().permits(request("lead", "byoc"))


def test_the_kits_policy_counts_again_when_the_sites_own_goes(tmp_path):
    file = PolicyFile(tmp_path)
    written(tmp_path / "authorization.json.default", {"lead": "none"})
    written(tmp_path / "authorization.json", {"lead": "any"})
    assert file.current().permits(request("lead", "byoc"))
    (tmp_path / "authorization.json").unlink()
    assert not file.current().permits(request("lead", "byoc"))


def test_half_a_file_allows_nothing_whatever_stood_there_before(tmp_path):
    file, path = PolicyFile(tmp_path), tmp_path / "authorization.json"
    written(path, {"lead": "any"})
    whole = path.read_bytes()
    assert file.current().permits(request("lead", "byoc"))
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert not file.current().permits(request("lead", "byoc"))
        assert file.current().problem
    path.write_bytes(whole)
    assert file.current().permits(request("lead", "byoc"))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).write_bytes(b" " * (2 << 20))])
def test_what_is_no_small_file_allows_nothing(tmp_path, make):
    make(tmp_path / "authorization.json")
    assert PolicyFile(tmp_path).current().problem
