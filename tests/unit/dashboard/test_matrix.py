"""Every call of the REST interface by every kind of person: what is let in is written down, all else is refused."""

import pytest

from clouddeploy.dashboard.web.rest import CALLS, PREFIXES
from tests.unit.dashboard.visitors import API, World

WHO = ("nobody", "root", "ann", "cat", "bob", "waiting", "denied")
"""Nobody logged in; the project admin; the admin of org_a; a member of org_a; the admin of org_b; an admin of org_a who
waits; one who was denied and still has a token."""
NONE, EVERYBODY = "", "nobody root ann cat bob waiting denied"
KNOWN = "root ann cat bob"
ALLOWED = {
    "POST /login": EVERYBODY,
    "POST /logout": "root ann cat bob waiting",
    "GET /project": EVERYBODY,
    "PATCH /project": "root",
    "GET /organizations": EVERYBODY,
    "POST /users": EVERYBODY,
    "GET /users": KNOWN,
    "GET /users/{id}": "root ann cat",
    "PATCH /users/{id}": "root cat",
    "DELETE /users/{id}": "root cat",
    "POST /users/{id}/blob": "root cat",
    "POST /users/{id}/enrolment": "root cat",
    "POST /users/{id}/reissue": "root cat",
    "POST /clients": "root ann bob waiting",
    "GET /clients": KNOWN,
    "GET /clients/{id}": KNOWN,
    "PATCH /clients/{id}": "root ann",
    "DELETE /clients/{id}": "root ann",
    "POST /clients/{id}/blob": "root ann",
    "POST /clients/{id}/enrolment": "root ann",
    "POST /clients/{id}/reissue": "root ann",
    "POST /servers/{id}/blob": "root",
    "POST /servers/{id}/enrolment": "root",
    "POST /servers/{id}/reissue": "root",
    "POST /invitations": "root ann",
    "GET /tokens": KNOWN,
    "POST /tokens": KNOWN,
    "DELETE /tokens/{id}": KNOWN,
    "GET /certificates": "root",
    "GET /audit": "root",
    "GET /live": KNOWN,
    "GET /live/clients": KNOWN,
    "GET /live/jobs": KNOWN,
    "GET /live/jobs/{job}/rounds": KNOWN,
    "GET /deployments": "root",
    "GET /deployments/{name}": "root",
    "GET /deployments/{name}/events": "root",
    "PUT /deployments/{name}": "root",
    "POST /deployments/{name}/runs": "root",
    "POST /deployments/{name}/stop": "root",
}
"""Call → who; `{id}` is cat's account, a site of org_a, the server; an invitation is for org_a."""
BODIES = {
    "POST /login": {"email": "x@x.example", "password": "wrong"},
    "POST /users": {
        "email": "new@org-a.example",
        "password": "four words in a row",
        "organization": "org_a",
        "role": "lead",
    },
    "POST /clients": {"name": "another"},
    "POST /invitations": {"role": "member", "organization": "org_a"},
    "POST /tokens": {"name": "one", "scopes": ["read"]},
    "POST /deployments/{name}/runs": {"verb": "plan"},
}
TOKENS = {
    "read": {"GET"},
    "write": {
        "PATCH /users/{id}",
        "DELETE /users/{id}",
        "POST /clients",
        "PATCH /clients/{id}",
        "DELETE /clients/{id}",
    },
    "approve": {"PATCH /project", "POST /invitations"},
    "deploy": {"PUT /deployments/{name}", "POST /deployments/{name}/runs", "POST /deployments/{name}/stop"},
    "kits": {
        f"POST /{kind}/{{id}}/{what}"
        for kind in ("users", "clients", "servers")
        for what in ("blob", "enrolment", "reissue")
    },
}
"""Scope → what the project admin's token for it may call besides what everybody may; `GET`: all that only looks."""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    with World(tmp_path_factory.mktemp("matrix") / "dashboard") as world:
        root = world.configure(freeze=True)
        ann, cat = world.person("ann"), world.person("cat", role="member")
        denied = world.person("dan", approved=False)
        found = {
            "nobody": None,
            "root": root,
            "ann": ann,
            "cat": cat,
            "bob": world.person("bob", org="org_b"),
            "waiting": world.person("wim", approved=False),
            "denied": denied,
        }
        assert root.patch(f"/users/{denied.id}", {"approval_state": -1}).status_code == 200
        site = ann.site(approved_by=root)
        yield world, found, {"users": cat.id, "clients": site, "servers": 1, "tokens": 999}


def test_the_table_has_every_call():
    assert {f"{one.method} {one.path}" for one in CALLS} == set(ALLOWED)


@pytest.mark.parametrize("call", CALLS, ids=lambda one: f"{one.method} {one.path}")
def test_a_call_lets_in_whom_the_table_says(people, call):
    world, persons, ids = people
    name = f"{call.method} {call.path}"
    path = _path(call, ids)
    refused, codes = [], {}
    for who in WHO:
        # An empty change and a body that is no request: whoever is let in is stopped by that, and nothing is changed.
        more = {"json": BODIES.get(name, {})} if call.takes else {}
        if call.takes_file:
            more = {"content": b"none", "headers": {"content-type": call.takes_file}}
        person = persons[who]
        client = world.client(address=f"192.0.2.{WHO.index(who) + 10}")
        if person is not None and name != "POST /logout":
            client.headers["authorization"] = person.client.headers["authorization"]
        elif person is not None:
            client.headers["authorization"] = _fresh(world, person, who)
        answer = client.request(call.method, API + path, **more)
        codes[who] = answer.status_code
        assert answer.status_code < 500, answer.text
        is_wrong_password = name == "POST /login" and answer.status_code == 401
        if answer.status_code in {401, 403} and not is_wrong_password:
            refused.append(who)
            assert {"status", "code", "message", "hint"} == set(answer.json())
    assert sorted(set(WHO) - set(refused)) == sorted(ALLOWED[name].split()), codes


def _path(call, ids):
    path = call.path.replace("{id}", str(ids.get(call.path.split("/")[1], "")))
    return path.replace("{name}", "none").replace("{job}", "none")


@pytest.mark.parametrize("scope", TOKENS)
def test_a_token_does_what_its_scope_says_and_nothing_else(people, scope):
    world, persons, ids = people
    made = persons["root"].post("/tokens", {"name": scope, "scopes": [scope]}).json()["token"]
    client = world.client(address="192.0.2.99")
    client.headers["authorization"] = f"Bearer {made}"
    allowed, open_ones = set(), set()
    for call in CALLS:
        name = f"{call.method} {call.path}"
        if call.is_open:
            open_ones.add(name)
            continue
        more = {"json": BODIES.get(name, {})} if call.takes else {}
        if call.takes_file:
            more = {"content": b"none", "headers": {"content-type": call.takes_file}}
        if name != "POST /logout" and client.request(call.method, API + _path(call, ids), **more).status_code != 403:
            allowed.add(name)
    expected = TOKENS[scope]
    if scope == "read":
        expected = {name for name in ALLOWED if name.startswith("GET")} - open_ones
    assert allowed == expected


def _fresh(world, person, who):
    """Another token of theirs: logging out ends it."""
    email = {"root": "root@hub.example", "bob": "bob@org-b.example", "waiting": "wim@org-a.example"}
    if who == "denied":
        return person.client.headers["authorization"]
    return world.program(email.get(who, f"{who}@org-a.example")).client.headers["authorization"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_both_prefixes_lead_to_the_same(people, prefix):
    world, _, _ = people
    assert world.client().get(f"{prefix}/project").json()["project"]["title"] == "A trial"


def test_the_document_has_what_is_served(people):
    world, _, _ = people
    document = world.client().get(f"{API}/openapi.json").json()
    served = {f"{method.upper()} {path}" for path, one in document["paths"].items() for method in one}
    assert served == set(ALLOWED)
    assert {one["url"] for one in document["servers"]} == set(PREFIXES)
