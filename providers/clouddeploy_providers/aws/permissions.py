"""What the operator's identity has to be allowed: one list, a policy in docs/permissions.md, and a trial beforehand.

A trial is the request itself with `DryRun`: EC2 says whether it would be allowed, and does nothing.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html (DryRun)
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import AccessDenied, AuthenticationError, NotFound, ProviderError
from clouddeploy_providers.resources import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clouddeploy_providers.resources import ResourceRef

READ = (
    "ec2:DescribeAddresses",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeRouteTables",
    "ec2:DescribeSecurityGroupRules",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:DescribeVpcs",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "ssm:GetParameter",
)
"""What looks and changes nothing. `sts:GetCallerIdentity` needs no grant. Without the last three, prices are those of
the snapshot, quotas are not checked, and the image comes from DescribeImages."""
BIRTH = ("ec2:AllocateAddress", "ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:RunInstances")
"""What makes something, always with our tags; CreateTags for nothing else."""
OWNED = (
    "ec2:AssociateAddress",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteVolume",
    "ec2:ReleaseAddress",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:StartInstances",
    "ec2:TerminateInstances",
)
"""What changes or deletes something; may be limited to what carries the tag `clouddeploy:deployment`."""
ACTIONS = (*READ, *BIRTH, *OWNED)
WHERE = "docs/permissions.md has the whole policy"
NAMED = re.compile(r"not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)")
NOBODYS = "0123456789abcdef0"
"""The end of an id that no resource has."""


@dataclass(frozen=True)
class Trial:
    """One request that is tried and not made."""

    action: str
    verb: str
    """The client's method."""
    given: Mapping[str, Any]
    is_certain: bool = True
    """Whether a refusal means that the action is not allowed. Asked about a thing that does not exist, a policy that is
    limited to our tag refuses too."""


def missing(error: AccessDenied, default: str = "") -> str:
    """Returns the action that an error of AWS says is not allowed."""
    named = NAMED.search(error.why)
    if named:
        return named[1]
    operation = getattr(error.__cause__, "operation_name", "")
    return default or f"ec2:{operation}"


def lacking(error: AccessDenied, default: str = "") -> Check:
    """Returns the finding that a permission is missing."""
    action = missing(error, default)
    hint = f"allow {action} in the IAM policy of the identity; {WHERE}"
    return Check("permissions", ok=False, problem=f"{action} is not allowed: {error.why}", hint=hint)


def trials_of_owned(owned: Mapping[str, ResourceRef]) -> list[Trial]:
    """Returns trials of the actions on what we have made.

    Args:
        owned: an instance, a group and an address of ours by the beginning of their ids, as far as there are any.
    """
    ids = {prefix: owned[prefix].id if prefix in owned else f"{prefix}-{NOBODYS}" for prefix in ("i", "sg", "eipalloc")}
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
    group = {"GroupId": ids["sg"]}
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("i", "terminate_instances", {"InstanceIds": [ids["i"]]}),
        ("i", "start_instances", {"InstanceIds": [ids["i"]]}),
        ("sg", "authorize_security_group_ingress", {**group, "IpPermissions": [rule]}),
        ("sg", "revoke_security_group_ingress", {**group, "IpPermissions": [rule]}),
        ("sg", "delete_security_group", group),
        ("eipalloc", "release_address", {"AllocationId": ids["eipalloc"]}),
    ]
    return [
        Trial(f"ec2:{''.join(word.title() for word in verb.split('_'))}", verb, arguments, is_certain=prefix in owned)
        for prefix, verb, arguments in given
    ]


TRIALS_AT_ONCE = 8


def tried(ec2: Any, trials: Iterable[Trial]) -> list[Check]:
    """Returns what the trials find: each missing permission, and in one warning all that could not be confirmed.

    Raises:
        AuthenticationError: the credentials themselves are refused.
    """
    found, unsure = [], []
    asked = list(trials)
    with ThreadPoolExecutor(max_workers=TRIALS_AT_ONCE, thread_name_prefix="trial") as pool:
        refusals = list(pool.map(partial(_refusal, ec2), asked))
    for trial, refusal in zip(asked, refusals, strict=True):
        if isinstance(refusal, AuthenticationError):
            raise refusal
        if isinstance(refusal, AccessDenied) and trial.is_certain:
            found.append(lacking(refusal, trial.action))
        elif isinstance(refusal, AccessDenied):
            unsure.append(f"{trial.action} (refused for a thing that is not there)")
        elif refusal is not None and not isinstance(refusal, NotFound):
            unsure.append(f"{trial.action} ({refusal.why})")
    if unsure:
        problem = f"not confirmed: {', '.join(unsure)}"
        hint = f"if the policy is that of docs/permissions.md, nothing is wrong; {WHERE}"
        found.append(Check("permissions", ok=False, problem=problem, hint=hint, is_warning=True))
    return found


def _refusal(ec2: Any, trial: Trial) -> ProviderError | None:
    try:
        with translated(f"{trial.action} could not be tried"):
            try:
                getattr(ec2, trial.verb)(DryRun=True, **trial.given)
            except ClientError as answer:
                if answer.response["Error"]["Code"] != "DryRunOperation":
                    raise
    except ProviderError as error:
        return error
    return None
