import json
import re
from pathlib import Path

import pytest
from clouddeploy_providers.azure import permissions

DOCUMENT = Path(__file__).parents[3] / "docs/permissions.md"
READ, WRITE = "Microsoft.Compute/virtualMachines/read", "Microsoft.Compute/virtualMachines/write"


def role(*actions, without=()):
    return {"actions": list(actions), "notActions": list(without)}


def test_the_role_to_copy_is_what_the_code_needs():
    azure = DOCUMENT.read_text(encoding="utf-8").split("## Azure", 1)[1]
    [block] = re.findall(r"```json\n(.*?)```", azure, re.DOTALL)
    assert json.loads(block)["Actions"] == list(permissions.ACTIONS)


def test_nothing_is_asked_for_twice_or_by_a_wildcard():
    assert len(set(permissions.ACTIONS)) == len(permissions.ACTIONS)
    assert not [action for action in permissions.ACTIONS if "*" in action]


@pytest.mark.parametrize(
    ("granted", "lacking"),
    [
        ([], [READ, WRITE]),
        ([role("*")], []),
        ([role("*/read")], [WRITE]),
        ([role("microsoft.compute/VIRTUALMACHINES/*")], []),
        ([role("Microsoft.Compute/*", without=["Microsoft.Compute/*/write"])], [WRITE]),
        # What one assignment takes away, another one may still give.
        ([role("Microsoft.Compute/*", without=["*/write"]), role(WRITE)], []),
        ([role("Microsoft.Network/*")], [READ, WRITE]),
        ([role("Microsoft.Compute/virtualMachines")], [READ, WRITE]),
        ([role("Microsoft.Compute.virtualMachines/read")], [READ, WRITE]),
        ([{}], [READ, WRITE]),
    ],
)
def test_what_role_assignments_leave_out_is_missing(granted, lacking):
    assert permissions.missing([READ, WRITE], granted) == lacking
