"""The REST interface does what its OpenAPI document says: with made-up requests, and in every answer of a workflow."""

import io
import json
import zipfile
from urllib.parse import quote

import jsonschema
import pytest
import schemathesis
from clouddeploy_rehearsal.probe import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from clouddeploy.dashboard.live import look
from clouddeploy.dashboard.web.rest import CALLS
from tests.unit.dashboard.test_deployments import DEPLOY, Process
from tests.unit.dashboard.test_live import Server
from tests.unit.dashboard.visitors import API, HOST, PASSWORD, World

EXAMPLES = 12
"""For each call; what was found once has a test of its own below."""
HEADERS = {"host": HOST.partition("//")[2]}


@schemathesis.serializer("application/zip", "application/yaml")
def as_file(_context, value):
    """A body that is a file has no schema: some bytes."""
    return repr(value).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with World(tmp_path_factory.mktemp("contract") / "dashboard") as world:
        root = world.configure(freeze=True)
        ann = world.person()
        ann.site(approved_by=root)
        hybrid(world)
        world.desk.runs._launch = Ended
        schema = schemathesis.openapi.from_asgi(f"{API}/openapi.json", world.app, headers=HEADERS)
        yield world, schema, (root, ann)


@pytest.mark.parametrize("call", CALLS, ids=lambda one: f"{one.method} {one.path}")
def test_made_up_requests_get_answers_that_the_document_has(served, call):
    world, schema, persons = served
    if call.path == "/logout":
        persons = (world.program(),)
    known = [None, *(one.client.headers["authorization"] for one in persons)]
    operation = schema[call.path][call.method]

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
    )
    @given(case=operation.as_strategy(), who=st.sampled_from(known), one=st.sampled_from([0, 1, 2, 3, 999]))
    def check(case, who, one):
        if case.path_parameters.get("name"):
            case.path_parameters["name"] = "hybrid" if one % 2 else "none"
        if "id" in case.path_parameters:
            case.path_parameters["id"] = one  # else hardly any request would meet something that there is
        headers = {**HEADERS, **({"authorization": who} if who else {})}
        # What else is demanded, as of a password, no schema can say; such a request is refused with 400. And that
        # somebody must be logged in is what test_matrix.py is for: this check sends our header too.
        answer = case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance, ignored_auth])
        assert who or call.is_open or answer.status_code in {401, 405}

    check()


CHANGE = {**dict.fromkeys(("action", "node", "name", "place", "size", "reason"), "x"), "usd_per_hour": None}


class Ended:
    """A run's process that is over before it has said anything."""

    def send_bytes(self, message):
        pass

    def recv_bytes(self):
        raise EOFError

    def close(self):
        pass


def hybrid(world):
    """A deployment, and what stands for the process of its runs."""
    place = world.desk.folder / "deployments"
    place.mkdir(mode=0o700)
    (place / "hybrid.yml").write_bytes(DEPLOY)
    world.desk.runs._launch = process = Process()
    return process


class Checked:
    """Calls the REST interface, and holds each answer against the document."""

    def __init__(self, world, program, seen):
        self.document = world.client().get(f"{API}/openapi.json").json()
        self.program, self.seen = program, seen

    def __call__(self, method, path, body=None, **more):
        answer = self.program.call(method, path, body, **more)
        parts = [
            "{id}" if part.isdecimal() else {"hybrid": "{name}", "j-1": "{job}"}.get(part, part)
            for part in path.split("/")
        ]
        place = "/".join(parts)
        found = self.document["paths"][place][method.lower()]["responses"][str(answer.status_code)]
        demanded = {name for name, one in found.get("headers", {}).items() if one.get("required")}
        assert demanded <= {name.title().replace("Etag", "ETag").replace("Www-", "WWW-") for name in answer.headers}
        told = found["content"]
        media = answer.headers["content-type"].partition(";")[0]
        assert media in told
        assert not demanded or answer.status_code != 429 or int(answer.headers["retry-after"]) >= 1
        if media == "application/json":
            whole = {"$ref": told[media]["schema"]["$ref"], "components": self.document["components"]}
            jsonschema.validate(answer.json(), whole, format_checker=jsonschema.FormatChecker())
            known = self.document["components"]["schemas"][told[media]["schema"]["$ref"].rpartition("/")[2]]
            assert set(answer.json()) <= set(known["properties"]), "nothing is told that the document does not have"
        self.seen.add((method, place, answer.status_code < 300))
        return answer

    def approve(self, path):
        tag = self("GET", path).headers["etag"]
        assert self("PATCH", path, {"approval_state": 100}, headers={"if-match": tag}).status_code == 200


def test_every_answer_of_a_workflow_is_as_the_document_says(world):
    seen = set()
    root = Checked(world, world.program(), seen)
    root("PATCH", "/project", {"short_name": "trial", "server1": "fl.example.com", "public": True})
    root("GET", "/project")
    sign_up = {"email": "ann@a.example", "password": PASSWORD, "organization": "org_a", "role": "org_admin"}
    ann_id = root("POST", "/users", sign_up).json()["user"]["id"]
    assert root("POST", "/users", sign_up).status_code == 409
    assert root("POST", "/users", {}).status_code == 400
    assert root("PATCH", f"/users/{ann_id}", {"approval_state": 100}).status_code == 428
    assert root("PATCH", f"/users/{ann_id}", {"approval_state": 100}, headers={"if-match": '"old"'}).status_code == 412
    root.approve(f"/users/{ann_id}")
    for path in ("/organizations", "/users", f"/users/{ann_id}"):
        root("GET", path)
    ann = Checked(world, world.program("ann@a.example"), seen)
    site = ann("POST", "/clients", {"name": "site-1"}).json()["client"]["id"]
    spare = ann("POST", "/clients", {"name": "site-2"}).json()["client"]["id"]
    ann("DELETE", f"/clients/{spare}")
    ann("PATCH", f"/clients/{site}", {"capacity": {"num_of_gpus": 1}})
    for path in ("/clients", f"/clients/{site}"):
        ann("GET", path)
    assert ann("GET", "/certificates").status_code == 403
    assert ann("POST", f"/users/{ann_id}/blob", {}).status_code == 409
    root("PATCH", "/project", {"frozen": True})
    root.approve(f"/clients/{site}")
    for path in (f"/users/{ann_id}", f"/clients/{site}", "/servers/1"):
        root("POST", f"{path}/blob", {})
        root("POST", f"{path}/reissue", {})
        assert root("POST", f"{path}/enrolment", content=_no_request(), headers=_ZIP).status_code == 400
    root("POST", "/invitations", {"role": "lead", "organization": "org_a"})
    root("POST", "/tokens", {"name": "one", "scopes": ["read"]})
    token = root("GET", "/tokens").json()["token_list"][0]["id"]
    root("DELETE", f"/tokens/{token}")
    for path in ("/certificates", "/audit"):
        root("GET", path)
    world.desk.live.put(**look(Server(), world.desk.live.seen))
    for path in ("/live", "/live/clients", "/live/jobs", "/live/jobs/j-1/rounds"):
        ann("GET", path)
    _run(world, root)
    extra = root("POST", "/users", {**sign_up, "email": "bob@a.example"}).json()["user"]["id"]
    root("DELETE", f"/users/{extra}")
    assert root("GET", "/users/999").status_code == 404
    login = {"email": "ann@a.example", "password": PASSWORD}
    root("POST", "/login", login)
    for _ in range(5):
        assert root("POST", "/login", {**login, "password": "wrong"}).status_code == 401
    assert root("POST", "/login", login).status_code == 429
    ann("POST", "/logout")
    assert ann("GET", "/users").status_code == 401
    done = {(method, path) for method, path, went_well in seen if went_well}
    assert {(one.method, one.path) for one in CALLS} - done == {
        ("POST", f"/{folder}/{{id}}/enrolment") for folder in ("users", "clients", "servers")
    }, "an answer to a request is an archive; tests/integration/dashboard has one"


def _run(world, root):
    """Starts a run of a deployment, has it stopped, and looks at what came of it."""
    process = hybrid(world)
    (world.desk.folder / "deployments" / "hybrid.yml").unlink()
    for status in (201, 200):
        assert root("PUT", "/deployments/hybrid", content=DEPLOY, headers=_YAML).status_code == status
    runs = "/deployments/hybrid/runs"
    assert root("POST", runs, {"verb": "apply"}).status_code == 400
    assert root("POST", runs, {"verb": "plan"}).status_code == 202
    assert root("POST", runs, {"verb": "rehearse"}).status_code == 409
    assert root("POST", "/deployments/hybrid/stop").status_code == 202
    process.says(line="server1 create machine done")
    process.says(end={"error": None, "text": "1 change", "changes": [CHANGE], "resources": 3, "usd_per_hour": 0.25})
    until(lambda: not world.desk.runs.is_busy("hybrid"))
    for path in ("/deployments", "/deployments/hybrid", "/deployments/hybrid/events"):
        root("GET", path)


_ZIP, _YAML = {"content-type": "application/zip"}, {"content-type": "application/yaml"}


def _no_request():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("request.json", "{}")
    return buffer.getvalue()


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800"])
def test_text_that_no_database_takes_is_refused(world, text):
    ann = world.configure() and world.person()
    given = {"content": json.dumps({"name": text}), "headers": {"content-type": "application/json"}}
    assert ann.client.patch(f"{API}/users/{ann.id}", **given).status_code == 400
    query = quote(text, errors="surrogatepass")
    assert ann.client.get(f"{API}/clients?q={query}").status_code in {200, 400}
    browser = world.browser()
    browser.get("/account")
    body = f"form_token={browser.token}&name={query}"
    form = {"content": body, "headers": {"content-type": "application/x-www-form-urlencoded"}}
    replaced = text == "\ud800"  # as every form does it with what is no UTF-8
    assert browser.client.post("/account", **form).status_code == (303 if replaced else 400)
