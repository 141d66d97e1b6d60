"""`auth …`: what a policy allows."""

from __future__ import annotations

import json

import pytest
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.auth import auth
from tests.unit.cli.admin_sessions import invoke


@pytest.fixture
def policy(home, tmp_path):
    """The policy that kits are made with."""
    file = tmp_path / "authorization.json"
    file.write_bytes(packaged("authorization.json.default"))
    return file


def ask(policy, right, *words, expected=0):
    return invoke(auth, "can-i", right, "--policy", policy, *words, expected=expected)["data"]


@pytest.mark.parametrize(
    ("right", "role", "more", "is_allowed"),
    [
        ("submit_job", "lead", (), True),
        ("submit_job", "org_admin", (), False),
        ("abort_job", "lead", ("--submitter", "me@x.org"), True),
        ("abort_job", "lead", ("--submitter", "you@x.org"), False),
        ("delete_job", "org_admin", ("--submitter-org", "x"), True),
        ("shutdown", "org_admin", ("--site-org", "x"), True),
        ("shutdown", "org_admin", ("--site-org", "y"), False),
        ("list_jobs", "member", (), True),
        ("cat", "member", (), False),
        ("anything", "project_admin", (), True),
        ("list_jobs", "nobody", (), False),
    ],
)
def test_the_policy_of_kits_decides_and_says_by_which_rule(policy, right, role, more, is_allowed):
    words = ("--as", "me@x.org", "--role", role, "--org", "x", *more)
    found = ask(policy, right, *words, expected=ExitCode.OK if is_allowed else ExitCode.FAILED)
    assert found["allowed"] is is_allowed
    assert found["rule"]


def test_a_person_without_a_role_is_asked_for_one(policy):
    invoke(auth, "can-i", "cat", "--policy", policy, "--as", "me@x.org", expected=ExitCode.BAD_INPUT)


def test_without_a_name_it_is_about_the_admin_of_the_kit(policy):
    envelope = invoke(auth, "can-i", "cat", "--policy", policy, expected=ExitCode.BAD_INPUT)
    assert envelope["error_code"] == "STARTUP_KIT_NOT_CONFIGURED"


def test_a_policy_has_to_be_named_and_to_be_one(policy, tmp_path):
    for words in ((), ("--policy", policy, "--kit", tmp_path)):
        invoke(auth, "show", *words, expected=ExitCode.BAD_INPUT)
    policy.write_text('{"format_version": "1.0", "permissions": {"lead": "sometimes"}}')
    envelope = invoke(auth, "show", "--policy", policy, expected=ExitCode.BAD_INPUT)
    assert "sometimes" in envelope["message"]


def test_a_policy_is_shown_as_a_table(policy):
    document = json.loads(policy.read_bytes())
    document["permissions"]["lead"]["cat"] = ["not o:x", "any"]
    policy.write_text(json.dumps(document))
    found = invoke(auth, "show", "--policy", policy)["data"]
    assert found["roles"] == ["lead", "member", "org_admin", "project_admin"]
    assert found["matrix"]["submit_job"] == {
        "lead": "any",
        "member": "-",
        "org_admin": "none",
        "project_admin": "any",
    }
    assert found["matrix"]["cat"]["lead"] == "not o:x, any"
    assert "right or category" in invoke(auth, "show", "--policy", policy, form="text")


def test_what_runs_is_asked_about_oneself(run):
    found = run(auth, "can-i", "cat", "--site", "client", "--submitter", "you@x.org")["data"]
    assert (found["allowed"], set(found["sites"])) == (True, {"site-1", "site-2"})
    assert run.session.sites.asked == [("can_i", "client", "cat", {"submitter": "you@x.org", "submitter_org": ""})]
    assert not run(auth, "can-i", "ls", "--site", "site-1", expected=ExitCode.FAILED)["data"]["allowed"]
    run(auth, "can-i", "cat", "--site", "site-1", "--role", "lead", expected=ExitCode.BAD_INPUT)
