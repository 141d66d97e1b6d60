"""Lists, searches and tables of them; where requests come from; what is refused stands in the log."""

import csv
import io

import pytest

from clouddeploy.dashboard import model, tables
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.web import app
from clouddeploy.dashboard.web.addresses import networks, origin
from clouddeploy.dashboard.web.rest import CALLS
from tests.unit.dashboard.visitors import API, World


def table(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_people_and_sites_come_as_tables(world):
    root = world.configure()
    ann = world.person()
    ann.site(approved_by=root)
    browser = world.browser()
    people = table(browser.get("/users.csv"))
    assert [(one["email"], one["role"]) for one in people][1] == ("ann@org-a.example", "org_admin")
    (site,) = table(browser.get("/sites.csv"))
    assert (site["name"], site["organization"], site["num_of_gpus"]) == ("site-1", "org_a", "2")
    assert table(browser.get("/users.csv?q=nobody")) == []
    assert 'href="/users.csv?' in browser.get("/users?q=ann").text


def test_a_table_has_what_its_reader_may_see(world):
    world.configure()
    world.person()
    world.person("bob", org="org_b")
    assert [one["email"] for one in table(world.browser("bob@org-b.example").get("/users.csv"))] == [
        "bob@org-b.example"
    ]
    assert world.client().get("/users.csv").headers["location"] == "/"


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://evil.example")']
)
def test_a_name_is_no_formula(world, name):
    world.configure()
    ann = world.person()
    assert ann.patch(f"/users/{ann.id}", {"name": name}).status_code == 200
    (row,) = [one for one in table(world.browser().get("/users.csv")) if one["name"]]
    assert row["name"].startswith("'")


def test_numbers_stay_numbers():
    assert tables.safe(-1) == "-1"
    assert tables.safe("plain") == "plain"


def test_each_row_of_a_list_is_on_one_page(world):
    world.configure()
    ann = world.person()
    for number in range(7):
        ann.site(f"site-{number}")
    pages = [ann.get("/clients", page=number, per_page=3).json() for number in (1, 2, 3, 4)]
    assert [len(one["client_list"]) for one in pages] == [3, 3, 1, 0]
    assert {one["paging"]["total"] for one in pages} == {7}
    names = [one["name"] for page in pages for one in page["client_list"]]
    assert sorted(names) == [f"site-{number}" for number in range(7)]


def test_a_search_takes_signs_as_they_are(world):
    world.configure()
    ann = world.person()
    ann.site("Site_1")
    ann.site("site-2")
    found = {
        word: [one["name"] for one in ann.get("/clients", q=word).json()["client_list"]]
        for word in ("site_", "SITE", "%", "' OR 1=1 --", "\\", "org_a")
    }
    assert found == {
        "site_": ["Site_1"],
        "SITE": ["Site_1", "site-2"],
        "%": [],
        "' OR 1=1 --": [],
        "\\": [],
        "org_a": ["Site_1", "site-2"],
    }


@pytest.mark.parametrize("query", ["page=0", "page=x", "per_page=0", "page=-1", "state=lost", "page=99999999999"])
def test_a_page_that_cannot_be_is_refused(world, query):
    root = world.program()
    assert root.client.get(f"{API}/users?{query}").status_code == 400


def test_what_cannot_be_done_now_stands_in_the_log(world):
    root = world.configure()
    ann = world.person()
    site = ann.site(approved_by=root)
    assert ann.patch(f"/clients/{site}", {"name": "another"}).status_code == 409
    (entry,) = world.audited("PATCH /clients/{id}")
    assert (entry["user"], entry["result"], entry["code"]) == ("ann@org-a.example", "refused", "CONFLICT")


TRUSTED = networks(["10.0.0.0/24", "::1"])


@pytest.mark.parametrize(
    ("peer", "said", "expected"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # no proxy of ours: it is not believed
        ("10.0.0.5", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.5", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),  # the first was made up
        ("10.0.0.5", ["1.1.1.1", "198.51.100.7, 10.0.0.6"], "198.51.100.7"),
        ("10.0.0.5", [], "10.0.0.5"),
        ("10.0.0.5", ["nonsense"], "10.0.0.5"),
        ("10.0.0.5", ["198.51.100.7, nonsense, 10.0.0.6"], "10.0.0.6"),
        ("::ffff:10.0.0.5", ["2001:db8::1"], "2001:db8::1"),
        ("::1", ["10.0.0.9"], "10.0.0.9"),
    ],
)
def test_a_trusted_proxy_says_where_a_request_comes_from(peer, said, expected):
    assert origin(peer, [one.encode() for one in said], TRUSTED) == expected


def test_without_a_trusted_proxy_the_header_says_nothing():
    assert origin("10.0.0.5", [b"198.51.100.7"], ()) == "10.0.0.5"
    with pytest.raises(Invalid):
        networks(["10.0.0.0/40"])


def test_the_limit_per_address_sees_through_a_trusted_proxy(tmp_path):
    with World(tmp_path / "dashboard") as world:
        world.app = app.make(world.desk, is_tls=False, version="1", hosts=["127.0.0.1"], proxies=["192.0.2.1"])
        body = {"email": "nobody@hub.example", "password": "wrong"}
        world.client().post(f"{API}/login", json=body, headers={"x-forwarded-for": "198.51.100.7"})
        assert world.audited("login")[-1]["address"] == "198.51.100.7"


def test_every_list_of_the_api_comes_in_pages():
    for call in CALLS:
        lists = [one for one in getattr(call.gives, "model_fields", ()) if one.endswith("_list")]
        assert bool(lists) == call.is_list, call.path


@pytest.mark.parametrize(
    ("path", "key"),
    [("/organizations", "client_list"), ("/tokens", "token_list"), ("/certificates", "certificate_list")],
)
def test_lists_that_are_no_tables_have_pages_and_a_search_too(world, path, key):
    root = world.configure(freeze=True)
    for name in ("ann", "bob", "cat"):
        world.person(name, org=f"org_{name}")
        root.post("/tokens", {"name": f"org_{name}", "scopes": ["read"]})
        world.program(f"{name}@org-{name}.example").post(f"/users/{_id(root, name)}/blob")
    everything = root.get(path).json()
    pages = [root.get(path, page=number, per_page=2).json() for number in (1, 2, 3)]
    assert [one for page in pages for one in page[key]] == everything[key][:6]
    assert {one["paging"]["total"] for one in pages} == {len(everything[key])}
    assert root.get(path, q="org_BOB").json()["paging"]["total"] == 1


def _id(root, name):
    return root.get("/users", q=f"{name}@").json()["user_list"][0]["id"]


def test_a_thousand_sites_and_people_are_listed_quickly(world):
    """Of 100 organisations with 10 sites and people each, every first page comes within 200 ms."""
    root, now = world.configure(freeze=True), world.clock()
    with world.desk.visit() as visit:
        for number in range(100):
            org = model.Organization(name=f"org_{number:03}")
            common = {"organization": org, "approval_state": 100, "created_at": now}
            visit.db.add_all(
                model.User(email=f"p{one}@o{number}.example", password_hash="x", role="lead", **common)
                for one in range(10)
            )
            visit.db.add_all(model.Site(name=f"s-{number:03}-{one}", creator_id=1, **common) for one in range(10))
    browser = world.browser()
    for get, paths in (
        (browser.get, ("/", "/users", "/sites", "/downloads", "/live", "/users?q=org_042", "/sites?page=20")),
        (root.get, ("/users", "/clients", "/organizations", "/live/clients", "/live", "/certificates", "/audit")),
    ):
        for path in paths:
            get(path)  # templates are compiled once
            took = min(_took(get, path) for _ in range(3))
            assert took < 0.2, (path, took)
    assert root.get("/clients", q="org_042").json()["paging"]["total"] == 10
    assert root.get("/organizations").json()["paging"]["total"] == 101


def _took(get, path):
    answer = get(path)
    assert answer.status_code == 200
    return answer.elapsed.total_seconds()
