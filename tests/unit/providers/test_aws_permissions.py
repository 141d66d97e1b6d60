import json
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers.aws.permissions import ACTIONS, BIRTH, OWNED, Trial, trials_of_owned, tried
from clouddeploy_providers.errors import AuthenticationError
from clouddeploy_providers.resources import Kind, ResourceRef

DOCUMENT = Path(__file__).parents[3] / "docs/permissions.md"
INSTANCE = ResourceRef(Kind.MACHINE, "m", "i-1")


class Ec2:
    """Answers every trial with one code."""

    def __init__(self, code, message="said AWS"):
        self.code, self.message, self.asked = code, message, []

    def __getattr__(self, verb):
        def call(**given):
            self.asked.append((verb, given))
            raise ClientError({"Error": {"Code": self.code, "Message": self.message}}, verb)

        return call


def statements():
    section = DOCUMENT.read_text(encoding="utf-8").split("## AWS", 1)[1]
    policy = json.loads(re.search(r"```json\n(.*?)```", section, re.DOTALL)[1])
    return {one["Sid"]: one for one in policy["Statement"]}


def actions(statement):
    given = statement["Action"]
    return {given} if isinstance(given, str) else set(given)


def test_the_documented_policy_grants_what_the_code_needs_and_no_more():
    assert set.union(*(actions(one) for one in statements().values())) == set(ACTIONS)


def test_the_policy_changes_and_deletes_only_what_carries_our_tag_and_tags_only_at_birth():
    for one in statements().values():
        if actions(one) & set(OWNED):
            assert one["Condition"] == {"Null": {"aws:ResourceTag/clouddeploy:deployment": "false"}}
        if "ec2:CreateTags" in actions(one):
            assert set(one["Condition"]["StringEquals"]["ec2:CreateAction"]) == {
                action.removeprefix("ec2:") for action in BIRTH if action != "ec2:CreateTags"
            }


def test_every_trial_is_of_an_action_that_is_listed_and_asks_for_nothing_to_be_done():
    ec2 = Ec2("DryRunOperation")
    trials = trials_of_owned({"i": INSTANCE})
    assert tried(ec2, trials) == []
    assert {trial.action for trial in trials} <= set(ACTIONS)
    assert all(given["DryRun"] is True for _, given in ec2.asked)


def test_a_refusal_is_a_finding_that_names_the_action_that_aws_named():
    message = (
        "You are not authorized to perform this operation. User: u is not authorized to perform: ec2:CreateTags on"
    )
    [found] = tried(Ec2("UnauthorizedOperation", message), [Trial("ec2:RunInstances", "run_instances", {})])
    assert (found.name, found.is_warning) == ("permissions", False)
    assert "allow ec2:CreateTags" in found.hint


def test_a_refusal_without_a_name_is_that_of_the_action_that_was_tried():
    [found] = tried(Ec2("UnauthorizedOperation"), [Trial("ec2:RunInstances", "run_instances", {})])
    assert "ec2:RunInstances" in found.problem


def test_refused_for_a_thing_that_is_not_there_is_a_warning_since_a_policy_limited_to_our_tag_does_that():
    trials = trials_of_owned({"i": INSTANCE})
    found = tried(Ec2("UnauthorizedOperation"), trials)
    refusals = [one for one in found if not one.is_warning]
    assert [one.problem.split()[0] for one in refusals] == ["ec2:TerminateInstances", "ec2:StartInstances"]
    [warning] = [one for one in found if one.is_warning]
    assert "ec2:DeleteSecurityGroup" in warning.problem


@pytest.mark.parametrize(
    ("code", "count"), [("InvalidInstanceID.NotFound", 0), ("InternalError", 1), ("NeverHeardOf", 1)]
)
def test_any_other_answer_is_at_most_one_warning_for_all(code, count):
    found = tried(Ec2(code), trials_of_owned({}))
    assert [one.is_warning for one in found] == [True] * count


def test_credentials_that_are_refused_raise():
    with pytest.raises(AuthenticationError):
        tried(Ec2("AuthFailure"), trials_of_owned({}))
