"""Pages of a federation with many sites: every kit is found, and a decision leads back to where it was."""

import pytest

from clouddeploy.dashboard import model
from tests.unit.dashboard.visitors import PASSWORD


@pytest.fixture
def many(world):
    """Two organisations, of one with 60 approved sites, and one that waits."""
    world.configure(freeze=True)
    ann, bob = world.person(), world.person("bob", org="org_b")
    bob.site("theirs", approved_by=world.program())
    with world.desk.database.begin() as db:
        owner = db.get_one(model.User, ann.id)
        for number in range(61):
            db.add(
                model.Site(
                    name=f"site-{number:02}",
                    organization=owner.organization,
                    creator_id=owner.id,
                    approval_state=100 if number < 60 else 0,
                    created_at=world.clock(),
                )
            )
    return world


def names(page):
    return [part.partition("</h2>")[0] for part in page.text.split('<li class="card">\n<h2>')[1:]]


def test_an_admin_of_an_organisation_turns_the_pages_of_its_kits(many):
    browser = many.browser("ann@org-a.example")
    first = browser.get("/downloads")
    assert names(first) == ["ann@org-a.example", *(f"site-{number:02}" for number in range(50))]
    assert "Page 1 of 2" in first.text
    second = browser.get("/downloads?page=2")
    assert names(second) == [f"site-{number:02}" for number in range(50, 60)], "what waits has no kit"
    assert names(browser.get("/downloads?q=site-55")) == ["site-55"]
    assert "No site is found" in browser.get("/downloads?q=theirs").text
    one = second.text.split("/downloads/client/", 1)[1].partition("/")[0]
    assert "is ready" in browser.send(f"/downloads/client/{one}/prepare?page=2").text
    again = browser.get("/downloads?page=2").text
    assert again.count("Last: kit") == 1
    assert "by ann@org-a.example" in again
    sent = browser.send(f"/downloads/client/{one}/reissue?page=2", sure="yes")
    assert sent.headers["location"] == "/downloads?page=2"


def test_the_project_admin_finds_the_kit_of_every_site(many):
    browser = many.browser()
    first = names(browser.get("/downloads"))
    assert first[:2] == ["fl.example.com", "root@hub.example"]
    assert names(browser.get("/downloads?q=theirs")) == ["theirs"]


def test_a_member_has_one_kit_and_nothing_to_search(many):
    many.person("cat", role="member")
    page = many.browser("cat@org-a.example").get("/downloads")
    assert names(page) == ["cat@org-a.example"]
    assert 'role="search"' not in page.text


def test_somebody_else_s_kit_is_reissued_at_people(many):
    ann = many.program("ann@org-a.example")
    browser = many.browser()
    form = f'action="/downloads/user/{ann.id}/reissue"'
    assert form not in browser.get("/users").text, "there is none yet"
    assert ann.post(f"/users/{ann.id}/blob").status_code == 200
    assert form in browser.get("/users").text
    answer = browser.send(f"/downloads/user/{ann.id}/reissue", sure="yes")
    assert (answer.status_code, answer.headers["location"]) == (303, "/users")
    assert many.audited("reissue_user")[-1]["result"] == "allowed"
    assert form not in many.browser("ann@org-a.example").get("/users").text


def test_a_decision_leads_back_to_the_same_part_of_the_list(many):
    browser = many.browser()
    text = browser.get("/sites?state=pending&q=site").text
    assert 'action="/sites/decide?q=site&amp;state=pending"' in text
    tick = text.split('name="ids" value="', 1)[1].partition('"')[0]
    answer = browser.send("/sites/decide?q=site&state=pending&evil=//x", ids=tick, decision="approve")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sites?q=site&state=pending")
    one = tick.partition("-")[0]
    edited = browser.send(f"/sites/{one}/edit?page=2", description="new", num_of_gpus="1")
    assert edited.headers["location"] == "/sites?page=2"
    refused = browser.send("/sites/decide?q=site-60", decision="approve")
    assert refused.status_code == 400
    assert 'value="site-60"' in refused.text, "the search is still there beside the error"


def test_a_page_says_beforehand_that_the_password_will_be_asked_for(many):
    browser = many.browser()
    (many.desk.folder / "deployments").mkdir(mode=0o700)
    deploy = b"version: 1\nproject: project.yml\nsites:\n  server1: {provider: aws, region: us-west-2}\n"
    (many.desk.folder / "deployments" / "Lab.yml").write_bytes(deploy)
    pages = ("/project", "/users", "/sites", "/deployments", "/deployments/Lab", "/account", "/downloads")
    assert [path for path in pages if "/proof?back=" in browser.get(path).text] == []
    many.clock.move(minutes=16)
    assert [path for path in pages if f'href="/proof?back={path}"' in browser.get(path).text] == list(pages)
    asked = browser.send("/deployments/Lab/start", verb="apply", sure="yes")
    assert 'name="back" value="/deployments/Lab"' in asked.text, "and it leads back there"
    assert "Nothing was changed" in asked.text
    assert browser.send("/proof", password=PASSWORD, back="/deployments/Lab").headers["location"] == "/deployments/Lab"
    assert "/proof?back=" not in browser.get("/deployments/Lab").text
