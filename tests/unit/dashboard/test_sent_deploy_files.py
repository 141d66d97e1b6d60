"""A deploy file that a program sends: the same checks as in the page, and it is there to be run."""

import pytest
from clouddeploy_rehearsal.probe import until

from tests.unit.dashboard.test_deployments import DEPLOY, Process
from tests.unit.dashboard.visitors import API

YAML = {"content-type": "application/yaml"}


@pytest.fixture
def process(world):
    world.desk.runs._launch = one = Process()
    return one


def put(program, name="hybrid", content=DEPLOY, headers=YAML):
    return program.client.put(f"{API}/deployments/{name}", content=content, headers=headers)


def test_it_is_kept_then_replaced_and_can_be_run(world, process):
    deploy = world.robot("read", "deploy")
    made = put(deploy)
    assert made.status_code == 201
    assert made.json()["deployment"]["client_list"] == [{"name": "server1", "provider": "aws"}]
    path = world.desk.folder / "deployments" / "hybrid.yml"
    assert (path.read_bytes(), path.stat().st_mode & 0o077) == (DEPLOY, 0)
    again = DEPLOY.replace(b"us-west-2", b"eu-west-1")
    assert put(deploy, content=again).status_code == 200
    assert path.read_bytes() == again
    assert [one["detail"] for one in world.audited("keep_deploy_file")] == ["hybrid"] * 2
    assert deploy.post("/deployments/hybrid/runs", {"verb": "plan"}).status_code == 202
    until(lambda: process.told)
    busy = put(deploy)
    assert (busy.status_code, busy.json()["code"]) == (409, "CONFLICT")
    process.says(end={"error": None})
    until(lambda: world.audited("deploy_plan_ended"))


def test_what_is_no_deploy_file_is_refused_and_the_earlier_one_stays(world, process):
    deploy = world.robot("deploy")
    assert put(deploy).status_code == 201
    here = DEPLOY.replace(b"{provider: aws, region: us-west-2}", b"{provider: local, directory: x}")
    for content in (b"", b"version: 1\nsites: 3\n", b"\xff\x00", here, DEPLOY + b"#" * (256 << 10)):
        refused = put(deploy, content=content)
        assert refused.status_code == 400, content[:40]
    assert [one.name for one in (world.desk.folder / "deployments").iterdir()] == ["hybrid.yml"]
    assert (world.desk.folder / "deployments" / "hybrid.yml").read_bytes() == DEPLOY
    (world.desk.folder / "deployments" / "cloud").mkdir()
    assert put(deploy, "cloud").status_code == 409
    for name in (".runs", "x" * 41, "..%2fup"):
        assert put(deploy, name).status_code in {400, 404}


@pytest.mark.parametrize("scopes", [["read"], ["read", "write", "kits", "approve"]])
def test_a_token_for_something_else_sends_none(world, process, scopes):
    refused = put(world.robot(*scopes))
    assert refused.status_code == 403
    assert "scope deploy" in refused.json()["message"]
    assert not (world.desk.folder / "deployments").exists()


def test_a_browser_that_was_left_alone_sends_none(world, process):
    browser = world.browser()
    world.clock.move(minutes=16)
    browser.get("/deployments")
    headers = {**YAML, "x-csrf-token": browser.token}
    refused = browser.client.put(f"{API}/deployments/hybrid", content=DEPLOY, headers=headers)
    assert refused.json()["code"] == "PROOF_NEEDED"
    assert browser.client.put(f"{API}/deployments/hybrid", content=DEPLOY, headers=YAML).status_code == 403


@pytest.mark.parametrize("role", ["org_admin", "lead", "member"])
def test_no_other_role_sends_any(world, process, role):
    world.configure()
    assert put(world.person("eve", role=role)).status_code == 403
    assert not (world.desk.folder / "deployments").exists()
