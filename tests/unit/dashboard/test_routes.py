"""Every route that changes something: not without the token of its form, and not by those whom it is not for."""

import pytest

from clouddeploy.dashboard.web.page_table import PAGES
from clouddeploy.dashboard.web.rest import CALLS
from tests.unit.dashboard.visitors import API, World

FORMS = [one for one in PAGES if one.method == "POST"]
CHANGES = [one for one in CALLS if one.method != "GET"]
PLACES = {"{id}": "1", "{kind}": "server", "{name}": "hybrid", "{ticket}": "guessed"}
FOR_EVERYBODY = {
    *("/", "/login", "/logout", "/sign-up", "/proof", "/users", "/sites", "/downloads", "/live", "/live/events"),
    *("/account", "/users.csv", "/sites.csv", "/downloads/take/{ticket}", "/users/invite"),
}
"""Of `/account/…` all; what each of the others shows or takes has tests of its own."""
FIELDS = {
    "sure": "yes",
    "ids": "1",
    "decision": "approve",
    "role": "lead",
    "organization": "org_b",
    "verb": "plan",
    "title": "Theirs",
    "name": "theirs",
}


def path_of(page):
    found = page.path
    for place, value in PLACES.items():
        found = found.replace(place, value)
    return found


@pytest.fixture(scope="module")
def browsers(tmp_path_factory):
    """The project admin's, and those of an admin and of a member of another organisation."""
    with World(tmp_path_factory.mktemp("routes") / "dashboard") as world:
        root = world.configure(freeze=True)
        world.person("ann").site(approved_by=root)
        world.person("bob", org="org_b")
        world.person("cat", org="org_b", role="member")
        place = world.desk.folder / "deployments"
        place.mkdir(mode=0o700)
        (place / "hybrid.yml").write_text("version: 1\n")
        found = world.browser(), world.browser("bob@org-b.example"), world.browser("cat@org-b.example")
        for one in found:
            one.get("/account")
        yield found


@pytest.mark.parametrize("page", FORMS, ids=lambda one: one.path)
def test_a_form_without_its_token_changes_nothing(browsers, page):
    root, bob, _ = browsers
    for token in ("", bob.token):
        assert root.client.post(path_of(page), data={**FIELDS, "form_token": token}).status_code == 403


@pytest.mark.parametrize("call", CHANGES, ids=lambda one: f"{one.method} {one.path}")
def test_a_cookie_without_the_token_changes_nothing_by_the_api(browsers, call):
    answer = browsers[0].client.request(call.method, API + path_of(call), json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize(
    "page",
    [one for one in PAGES if one.path not in FOR_EVERYBODY and not one.path.startswith("/account")],
    ids=lambda one: f"{one.method} {one.path}",
)
def test_what_is_the_project_admins_or_another_organisations_is_refused(browsers, page):
    for one in browsers[1:]:
        if page.method == "GET":
            assert one.client.get(path_of(page)).status_code == 403
        else:
            upload = {"file": ("x.zip", b"none", "application/zip")}
            assert one.send(path_of(page), files=upload, **FIELDS).status_code == 403
