"""Approvals: for what was seen, by who has shown again who they are, and project admins only by people."""

import pytest

from clouddeploy.dashboard import approvals, model
from tests.unit.dashboard.visitors import API, PASSWORD


def told(program, path):
    answer = program.get(path)
    (record,) = (value for key, value in answer.json().items() if key in {"user", "client"})
    assert answer.headers["etag"] == f'"{record["digest"]}"'
    return record


def approve(program, path, tag):
    headers = {} if tag is None else {"if-match": tag}
    return program.call("PATCH", path, {"approval_state": 100}, headers=headers)


@pytest.fixture
def waiting(world):
    """The project admin, and an admin of an organisation who waits with a site."""
    root = world.configure()
    ann = world.person(approved=False)
    site = ann.site()
    return root, ann, {"users": f"/users/{ann.id}", "clients": f"/clients/{site}"}


@pytest.mark.parametrize("kind", ["users", "clients"])
def test_a_program_that_reads_and_then_approves_is_let(waiting, kind):
    root, _, paths = waiting
    (listed,) = root.get(f"/{kind}", state="pending").json()["user_list" if kind == "users" else "client_list"]
    assert listed["digest"] == told(root, paths[kind])["digest"]
    answer = approve(root, paths[kind], f'"{listed["digest"]}"')
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{told(root, paths[kind])["digest"]}"' != f'"{listed["digest"]}"'


@pytest.mark.parametrize("tag", [None, "*", ""])
@pytest.mark.parametrize("kind", ["users", "clients"])
def test_nothing_is_approved_by_its_id_alone(world, waiting, kind, tag):
    root, _, paths = waiting
    answer = approve(root, paths[kind], tag)
    assert (answer.status_code, answer.json()["code"]) == (428, "DIGEST_NEEDED")
    assert "If-Match" in answer.json()["hint"]
    assert told(root, paths[kind])["approval_state"] == 0
    assert world.audited(f"PATCH /{kind}/{{id}}")[-1]["code"] == "DIGEST_NEEDED"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("users", {"name": "Somebody else"}),
        ("users", {"description": "x"}),
        ("clients", {"name": "hospital"}),
        ("clients", {"capacity": {"num_of_gpus": 3}}),
        ("clients", {"description": "x"}),
    ],
)
def test_what_has_changed_since_it_was_read_is_not_approved(world, waiting, kind, change):
    root, ann, paths = waiting
    seen = told(root, paths[kind])["digest"]
    assert ann.patch(paths[kind], change).status_code == 200
    answer = approve(root, paths[kind], f'"{seen}"')
    assert (answer.status_code, answer.json()["code"]) == (412, "CHANGED")
    assert "has changed since it was seen" in answer.json()["message"]
    assert told(root, paths[kind])["approval_state"] == 0
    assert world.audited(f"PATCH /{kind}/{{id}}")[-1]["code"] == "CHANGED"


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_who_says_what_they_saw_changes_and_deletes_nothing_else(waiting, method):
    root, ann, paths = waiting
    for path in (paths["clients"], paths["users"]):
        body = {"description": "x"} if method == "PATCH" else None
        assert root.call(method, path, body, headers={"if-match": '"old"'}).status_code == 412
        tags = f'"old", "{told(root, path)["digest"]}"'
        assert ann.call(method, path, body, headers={"if-match": tags}).status_code == 200


def test_a_denial_needs_no_digest(waiting):
    root, _, paths = waiting
    assert root.call("PATCH", paths["clients"], {"approval_state": -1}).status_code == 200


def test_a_page_approves_nothing_by_its_id_alone(world, waiting):
    root, ann, _ = waiting
    browser = world.browser()
    for path, one in (("/users", ann.id), ("/sites", 1)):
        browser.get(path)
        for tick in (f"{one}", f"{one}-", f"{one}-0000"):
            for decision in ("approve", "deny", "delete"):
                assert browser.send(f"{path}/decide", ids=tick, decision=decision).status_code == 412
    assert root.get("/users", state="pending").json()["paging"]["total"] == 1


def test_a_digest_is_the_same_before_and_after_it_was_stored(world):
    root = world.configure()
    made = root.post("/clients", {"name": "site-1", "capacity": {"mem_per_gpu_in_GiB": 16}}).json()["client"]
    assert made["digest"] == told(root, f"/clients/{made['id']}")["digest"]
    with world.desk.visit() as visit:
        assert approvals.digest(visit.db.get_one(model.Site, made["id"])) == made["digest"]


FORMS = (
    ("/project", "/project", {"title": "Theirs"}),
    ("/project", "/project/freeze", {"sure": "yes"}),
    ("/users", "/users/invite", {"role": "lead", "organization": "org_a"}),
    ("/users", "/users/decide", {"ids": "2-x", "decision": "approve"}),
    ("/users", "/users/2/edit", {"role": "lead", "organization": "org_a"}),
    ("/sites", "/sites/decide", {"ids": "1-x", "decision": "approve"}),
)


@pytest.mark.parametrize(("page", "form", "fields"), FORMS, ids=lambda one: one if isinstance(one, str) else "")
def test_a_browser_that_was_left_alone_decides_nothing(world, waiting, page, form, fields):
    browser = world.browser()
    world.clock.move(minutes=16)
    assert browser.get(page).status_code == 200, "to look takes no password"
    asked = browser.send(form, **fields)
    assert asked.status_code == 403
    assert "Is it you?" in asked.text
    assert f'name="back" value="{page}"' in asked.text
    assert browser.send("/proof", password=PASSWORD, back=page).status_code == 303
    browser.get(page)
    assert "Is it you?" not in browser.send(form, **fields).text


CALLS = (
    ("PATCH", "/project", {"title": "Theirs"}),
    ("PATCH", "/project", {"frozen": True}),
    ("POST", "/invitations", {"role": "lead", "organization": "org_a"}),
    ("PATCH", "/users/2", {"approval_state": 100}),
    ("PATCH", "/users/2", {"approval_state": -1}),
    ("PATCH", "/users/2", {"role": "lead"}),
    ("PATCH", "/users/2", {"role": "project_admin"}),
    ("PATCH", "/clients/1", {"approval_state": 100}),
)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_nor_does_it_by_the_api(world, waiting, method, path, body):
    browser = world.browser()
    world.clock.move(minutes=16)
    browser.get("/account")
    browser.client.headers["x-csrf-token"] = browser.token
    answer = browser.client.request(method, API + path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "PROOF_NEEDED")


def test_a_token_approves_if_it_was_made_for_that(world, waiting):
    _, _, paths = waiting
    for scopes in (("read", "write"), ("read", "approve")):
        robot = world.robot(*scopes)
        answer = approve(robot, paths["clients"], f'"{told(robot, paths["clients"])["digest"]}"')
        assert answer.status_code == 403
        assert "scope" in answer.json()["message"]
    robot = world.robot("read", "write", "approve")
    for path in paths.values():
        assert approve(robot, path, f'"{told(robot, path)["digest"]}"').status_code == 200
    assert robot.patch("/project", {"title": "A trial of ours"}).status_code == 200
    assert robot.post("/invitations", {"role": "lead", "organization": "org_a"}).status_code == 201


def test_no_token_makes_a_project_admin(world, waiting):
    root, _, paths = waiting
    robot = world.robot("read", "write", "approve", "deploy", "kits")
    answer = robot.patch(paths["users"], {"role": "project_admin"})
    assert answer.status_code == 403
    assert "no token does" in answer.json()["message"]
    assert robot.patch(paths["users"], {"role": "lead"}).status_code == 200
    assert root.patch(paths["users"], {"role": "project_admin"}).status_code == 200
    answer = approve(robot, paths["users"], f'"{told(robot, paths["users"])["digest"]}"')
    assert answer.status_code == 403, "nor is one let in by a token, whoever gave the role"
    assert told(root, paths["users"])["approval_state"] == 0


def test_a_project_admin_makes_another_one_who_waits_and_it_is_recorded(world, waiting):
    root, ann, paths = waiting
    assert root.patch(paths["users"], {"role": "project_admin"}).status_code == 200
    assert ann.get("/audit").status_code == 403, "until they are approved"
    assert root.patch(paths["users"], {"approval_state": 100}).status_code == 200
    assert ann.get("/audit").status_code == 200
    assert [one["detail"] for one in world.audited("make_project_admin")] == ["ann@org-a.example"] * 2
    assert ann.patch("/project", {"frozen": True}).status_code == 200
    assert ann.post("/servers/1/blob").status_code == ann.post(f"/users/{ann.id}/blob").status_code == 200


def test_a_page_offers_it_too(world, waiting):
    root, ann, paths = waiting
    browser = world.browser()
    assert "<option>project_admin</option>" in browser.get("/users").text.partition("Invite somebody")[0]
    sent = browser.send(f"/users/{ann.id}/edit", role="project_admin", organization="org_a")
    assert sent.status_code == 303
    assert told(root, paths["users"])["role"] == "project_admin"


def test_nobody_who_is_approved_becomes_project_admin_and_nobody_else_makes_one(world):
    root = world.configure()
    ann = world.person()
    wim = world.person("wim", approved=False)
    assert root.patch(f"/users/{ann.id}", {"role": "project_admin"}).status_code == 409
    for program in (ann, wim):
        assert program.patch(f"/users/{wim.id}", {"role": "project_admin"}).status_code == 403
    body = {"role": "project_admin", "organization": "org_a"}
    assert root.post("/invitations", body).status_code == 403
