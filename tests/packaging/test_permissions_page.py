"""The recipes for policies decide what the page says; its tables, and the codes of refused logins, are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from clouddeploy_runtime import authorization
from clouddeploy_runtime.authorization import CATEGORIES, OTHER_RIGHTS, Request, parse_control
from clouddeploy_runtime.tls import Peer

from tests.packaging.pages import page, section, tables

KIT = Path(__file__).parents[2] / "provision/clouddeploy_provision/kit_files/authorization.json.default"
SITE_ORG = "lab"
_RECIPE = re.compile(
    r"^\*\*(\d+)\. ([^*]+)\*\*.*?^```json\n(.*?)^```\n(.*?)(?=^\*\*\d|^## |\Z)", re.DOTALL | re.MULTILINE
)


def recipes():
    return [(int(number), json.loads(policy), tables(rest)[0]) for number, _, policy, rest in _found()]


def _found():
    return _RECIPE.findall(page("permissions.md").split("### Recipes\n", 1)[1].split("\n## ", 1)[0])


CASES = [(number, policy, row) for number, policy, rows in recipes() for row in rows]


def test_there_are_ten_recipes_without_a_slip_of_the_pen():
    assert [number for number, _, _ in recipes()] == list(range(1, 11))
    assert {authorization.parse(policy).unknown for _, policy, _ in recipes()} == {()}
    assert recipes()[0][1] == json.loads(KIT.read_bytes())


@pytest.mark.parametrize(
    ("number", "policy", "row"), CASES, ids=[f"{one}-{'-'.join(row[:4])}" for one, _, row in CASES]
)
def test_a_recipe_decides_what_its_table_says(number, policy, row):
    who, org, right, job, answer = row
    role, name = who.split(" ", 1)
    submitter, _, submitter_org = job.partition(", ")
    request = Request(
        Peer(name=name, org=org, role=role),
        right.strip("`"),
        SITE_ORG,
        submitter_name=submitter,
        submitter_org=submitter_org,
    )
    assert authorization.parse(policy).permits(request) is {"yes": True, "no": False}[answer], number


def test_the_table_of_rights_is_the_codes():
    rights, _ = tables(section("permissions.md", "People"))
    found = {}
    for cells in rights:
        name, *more = re.findall(r"`([^`]+)`", cells[0])
        found[name] = set(more) or {name}
    categories = {name: found.pop(name) for name in CATEGORIES}
    assert categories == {name: set(rights) for name, rights in CATEGORIES.items()}
    assert set(found) == OTHER_RIGHTS - {"server-predeployed-flwr"}


def test_each_condition_of_the_page_is_one():
    _, conditions = tables(section("permissions.md", "People"))
    for cells in conditions:
        for text in re.findall(r"`([^`]+)`", cells[0]):
            assert parse_control(text.replace("…", "any"))


def test_the_codes_of_refused_logins_stand_on_the_page():
    runtime = Path(authorization.__file__).parent
    said = {code for path in runtime.rglob("*.py") for code in re.findall(r'"(AUTH_[A-Z_]+[A-Z])"', path.read_text())}
    (codes,) = tables(section("audit.md", "Sessions"))
    assert {cells[0].strip("`") for cells in codes} >= said | {"AUTHENTICATION_REFUSED"}
