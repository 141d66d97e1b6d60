"""What ends the identity that a participant has asks whether it is you; to take a kit once more does not."""

import pytest
from clouddeploy_runtime.enrolment import formats, request

from clouddeploy.dashboard.rules import SENSITIVE, Action
from tests.unit.dashboard.visitors import API, PASSWORD


@pytest.fixture
def ann(world):
    root = world.configure(freeze=True)
    person = world.person()
    person.site(approved_by=root)
    return person


def revoked(world):
    return [one for one in world.program().get("/certificates").json()["certificate_list"] if one["state"] == "revoked"]


@pytest.mark.parametrize("kind", ["user", "client"])
def test_a_browser_that_was_left_alone_reissues_nothing(world, ann, kind):
    path = f"/downloads/{kind}/{ann.id if kind == 'user' else 1}"
    browser = world.browser("ann@org-a.example")
    browser.get("/downloads")
    assert "is ready" in browser.send(f"{path}/prepare").text
    world.clock.move(minutes=16)
    browser.get("/downloads")
    assert "is ready" in browser.send(f"{path}/prepare").text, "to take the same kit again ends nothing"
    asked = browser.send(f"{path}/reissue", sure="yes")
    assert asked.status_code == 403
    assert "Is it you?" in asked.text
    assert 'name="back" value="/downloads"' in asked.text
    assert not revoked(world)
    assert browser.send("/proof", password=PASSWORD, back="/downloads").status_code == 303
    browser.get("/downloads")
    assert browser.send(f"{path}/reissue", sure="yes").status_code == 303
    assert len(revoked(world)) == 1


def test_nor_does_it_put_a_key_of_its_own_in_the_place_of_a_site_s(world, ann, tmp_path):
    assert ann.post("/clients/1/blob").status_code == 200
    made = request.make(formats.Site("trial", "site-1", "org_a", "client"), tmp_path).archive.read_bytes()
    files = {"request": ("site-1.request.zip", made, "application/zip")}
    browser = world.browser("ann@org-a.example")
    world.clock.move(minutes=16)
    browser.get("/downloads")
    assert "Is it you?" in browser.send("/downloads/client/1/enrol", files=files).text
    browser.client.headers["x-csrf-token"] = browser.token
    for what in ("enrolment", "reissue"):
        zipped = {"content": made, "headers": {"content-type": "application/zip"}}
        refused = browser.client.post(f"{API}/clients/1/{what}", **(zipped if what == "enrolment" else {}))
        assert refused.json()["code"] == "PROOF_NEEDED"
    assert not revoked(world)
    assert browser.send("/proof", password=PASSWORD, back="/downloads").status_code == 303
    browser.get("/downloads")
    assert browser.send("/downloads/client/1/enrol", files=files).status_code == 200
    assert len(revoked(world)) == 1


def test_whatever_revokes_is_sensitive():
    assert {one for one in Action if one.name.endswith(("_REISSUE", "_ENROL"))} <= SENSITIVE
