"""Deployments by program: the same runs as in the page, with a right and a scope of their own."""

import json

import pytest
from clouddeploy_rehearsal.probe import until

from tests.unit.dashboard.test_deployments import DEPLOY, Process

RUNS = "/deployments/hybrid/runs"


@pytest.fixture
def process(world):
    place = world.desk.folder / "deployments"
    place.mkdir(mode=0o700)
    for name in ("hybrid", "other"):
        (place / f"{name}.yml").write_bytes(DEPLOY)
    world.desk.runs._launch = one = Process()
    return one


def test_a_program_follows_a_run_from_start_to_end(world, process):
    deploy = world.robot("read", "deploy")
    begun = deploy.post(RUNS, {"verb": "plan"})
    assert begun.status_code == 202
    assert begun.json()["deployment"]["state"] == "running"
    until(lambda: process.told)
    assert json.loads(process.told[0])["verb"] == "plan"
    for number in range(5):
        process.says(line=f"line {number}")
    until(lambda: deploy.get("/deployments/hybrid").json()["run"]["num_events"] == 5)
    page = deploy.get("/deployments/hybrid/events", page=2, per_page=2).json()
    assert (page["event_list"], page["busy"], page["paging"]["total"]) == (["line 2", "line 3"], True, 5)
    process.says(end={"error": None, "text": "1 change(s)", "resources": 3, "usd_per_hour": 0.25})
    until(lambda: not deploy.get("/deployments/hybrid").json()["deployment"]["busy"])
    found = deploy.get("/deployments").json()
    assert [(one["name"], one["state"], one["usd_per_hour"]) for one in found["deployment_list"]] == [
        ("hybrid", "done", 0.25),
        ("other", "", None),
    ]
    assert deploy.get("/deployments", q="oth").json()["paging"]["total"] == 1
    assert deploy.get("/deployments/hybrid").json()["run"]["text"] == "1 change(s)"
    until(lambda: world.audited("deploy_plan_ended"))
    assert [one["user"] for one in world.audited("deploy_plan")] == ["root@hub.example"]


@pytest.mark.parametrize("verb", ["apply", "destroy"])
def test_what_costs_or_ends_something_must_be_said_twice(world, process, verb):
    deploy = world.robot("read", "deploy")
    refused = deploy.post(RUNS, {"verb": verb})
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID")
    assert "sure" in refused.json()["hint"]
    assert not process.told
    assert deploy.post(RUNS, {"verb": verb, "sure": True}).status_code == 202
    process.says(end={"error": {"code": "QUOTA", "message": "too few", "hint": "ask for more"}})
    until(lambda: world.audited(f"deploy_{verb}_ended"))
    error = deploy.get("/deployments/hybrid").json()["run"]["error"]
    assert error == {"code": "QUOTA", "message": "too few", "hint": "ask for more"}


def test_a_program_stops_a_run_and_starts_one_at_a_time(world, process):
    deploy = world.robot("read", "deploy")
    assert deploy.post("/deployments/hybrid/stop", {}).status_code == 409
    deploy.post(RUNS, {"verb": "rehearse"})
    assert deploy.post(RUNS, {"verb": "plan"}).status_code == 409
    until(lambda: process.told)
    assert deploy.post("/deployments/hybrid/stop", {}).json()["run"]["cancelled"]
    assert process.told[-1] == b"cancel"
    process.says(end={"error": None})
    until(lambda: world.audited("deploy_rehearse_ended"))


@pytest.mark.parametrize("scopes", [["read"], ["read", "write", "kits", "approve"]])
def test_who_may_only_look_starts_and_stops_nothing(world, process, scopes):
    watcher = world.robot(*scopes)
    assert watcher.get("/deployments").json()["paging"]["total"] == 2
    assert watcher.get("/deployments/hybrid/events").status_code == 200
    for path, body in ((RUNS, {"verb": "plan"}), (RUNS, {"verb": "apply", "sure": True}), (f"{RUNS[:-4]}stop", {})):
        answer = watcher.post(path, body)
        assert answer.status_code == 403
        assert "scope deploy" in answer.json()["message"]
    assert not process.told


@pytest.mark.parametrize("role", ["org_admin", "lead", "member"])
def test_no_other_role_sees_or_runs_any(world, process, role):
    world.configure()
    eve = world.person("eve", role=role)
    for path in ("/deployments", "/deployments/hybrid", "/deployments/none", "/deployments/hybrid/events"):
        assert eve.get(path).status_code == 403
    for path, body in ((RUNS, {"verb": "plan"}), (f"{RUNS[:-4]}stop", {})):
        assert eve.post(path, body).status_code == 403
    assert not process.told


def test_what_there_is_not_is_not_found(world, process):
    root = world.program()
    for path in ("/deployments/none", "/deployments/none/events", "/deployments/..%2f..%2fetc", "/deployments/.runs"):
        assert root.get(path).status_code == 404
    assert root.post("/deployments/none/runs", {"verb": "plan"}).status_code == 404
    assert root.post(RUNS, {"verb": "format"}).status_code == 400
