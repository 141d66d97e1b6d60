"""How quick `dashboard start` answers, by HTTPS, with 100 organisations of ten sites and ten people each."""

import ssl
import time
from datetime import UTC, datetime

import httpx2
import pytest

from clouddeploy.dashboard import model
from clouddeploy.dashboard.database import Database, project_of
from tests.integration.dashboard.browsing import EMAIL, PASSWORD, clouddeploy

pytestmark = pytest.mark.xdist_group("dashboard")
LIMIT_S = 0.2
PAGES = (
    "/",
    "/live",
    "/users",
    "/users?q=org_042",
    "/sites",
    "/sites?page=20",
    "/sites?state=pending",
    "/downloads",
    "/downloads?page=15",
    "/certificates",
    "/audit",
    "/deployments",
    "/account",
)
CALLS = ("/users", "/clients", "/clients?q=org_042", "/organizations", "/live/clients", "/certificates", "/audit")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pace") / "dashboard"
    clouddeploy(folder, "init")
    database, now = Database(f"sqlite:///{folder}/db.sqlite"), datetime.now(UTC)
    with database.begin() as db:
        project = project_of(db)
        project.short_name, project.server, project.is_public = "trial", "fl.example.com", True
        for number in range(100):
            common = {
                "organization": model.Organization(name=f"org_{number:03}"),
                "approval_state": 100,
                "created_at": now,
            }
            db.add_all(
                model.User(email=f"p{one}@o{number}.example", password_hash="x", role="lead", **common)
                for one in range(10)
            )
            db.add_all(model.Site(name=f"s-{number:03}-{one}", creator_id=1, **common) for one in range(10))
    database.close()
    told = clouddeploy(folder, "start", "--host", "127.0.0.1", "-p", "0")["data"]
    yield told["url"], ssl.create_default_context(cafile=str(folder / "cert" / "web.crt"))
    clouddeploy(folder, "stop")


@pytest.fixture(scope="module")
def program(large):
    url, trusted = large
    with httpx2.Client(base_url=url, verify=trusted) as client:
        answer = client.post("/api/v1/login", json={"email": EMAIL, "password": PASSWORD})
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        assert client.patch("/api/v1/project", json={"frozen": True}).status_code == 200
        yield client


@pytest.fixture(scope="module")
def browser(large):
    url, trusted = large
    with httpx2.Client(base_url=url, verify=trusted) as client:
        form = client.get("/").text.split('name="form_token" value="', 1)[1].partition('"')[0]
        sent = {"form_token": form, "email": EMAIL, "password": PASSWORD}
        assert client.post("/login", data=sent, headers={"origin": url.rstrip("/")}).status_code == 303
        yield client


def took(get, path):
    """The best of five: what else this machine does is no matter of the dashboard."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        answer = get(path)
        found.append(time.perf_counter() - begin)
        assert answer.status_code == 200, (path, answer.text)
    return min(found)


def test_the_first_page_with_its_connection_comes_in_200_ms(large):
    url, trusted = large

    def fresh(path):
        with httpx2.Client(base_url=url, verify=trusted) as client:
            return client.get(path)

    assert took(fresh, "/") < LIMIT_S


def test_every_list_comes_in_200_ms(program, browser):
    slow = {path: one for path in PAGES if (one := took(browser.get, path)) >= LIMIT_S}
    slow |= {path: one for path in CALLS if (one := took(program.get, f"/api/v1{path}")) >= LIMIT_S}
    assert slow == {}


def test_a_kit_among_a_thousand_is_no_matter_of_minutes(program):
    begin = time.perf_counter()
    assert program.post("/api/v1/servers/1/blob", json={}).status_code == 200
    assert program.post("/api/v1/clients/500/blob", json={}).status_code == 200
    assert time.perf_counter() - begin < 20
