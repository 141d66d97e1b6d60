"""The pages as a browser without scripts uses them."""

import pytest
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment import formats, request

from tests.unit.dashboard.visitors import PASSWORD, Browser, unpack


def test_the_whole_workflow_in_pages(world, tmp_path):
    root = world.browser()
    assert "Describe the project" in root.get("/").text
    root.get("/project")
    fields = {"short_name": "trial", "title": "A trial", "server": "fl.example.com", "server_port": "8002"}
    assert root.send("/project", **fields, public="yes").status_code == 303
    ann = _signed_up(world, "ann@a.example")
    assert "Wait for your approval" in ann.get("/").text
    ann.get("/sites")
    assert ann.send("/sites", name="site-1", num_of_gpus="2", mem_per_gpu_in_gib="16").status_code == 303
    assert "not approved you" in ann.get("/downloads").text
    overview = root.get("/").text
    assert "Approve people" in overview
    assert "Approve sites" in overview
    for path in ("/users", "/sites"):
        text = root.get(f"{path}?state=pending").text
        ids = [part.partition('"')[0] for part in text.split('name="ids" value="')[1:]]
        assert len(ids) == 1
        assert root.send(f"{path}/decide", decision="approve", ids=ids).status_code == 303
    assert "not frozen" in ann.get("/downloads").text
    root.get("/project")
    assert "tick the box" in root.send("/project/freeze").text
    assert root.send("/project/freeze", sure="yes").status_code == 303
    assert "Download the server&#39;s kit" in root.get("/").text
    assert kits.load(_downloaded(root, "server/1", tmp_path / "server")).kind is kits.Kind.SERVER
    site = ann.get("/downloads").text.split("/downloads/client/", 1)[1].partition("/")[0]
    assert kits.load(_downloaded(ann, f"client/{site}", tmp_path / "site")).name == "site-1"
    assert "by ann@a.example" in ann.get("/downloads").text
    assert "download_site_kit" in root.get("/audit").text
    assert "site-1" in root.get("/certificates").text


def test_a_request_is_answered_in_the_page(world, tmp_path):
    world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=world.program())
    browser = world.browser("ann@org-a.example")
    browser.get("/downloads")
    assert browser.send(f"/downloads/client/{site}/enrol").status_code == 400
    made = request.make(formats.Site("trial", "site-1", "org_a", "client"), tmp_path)
    files = {"request": ("site-1.request.zip", made.archive.read_bytes(), "application/zip")}
    answer = browser.send(f"/downloads/client/{site}/enrol", files=files)
    assert answer.headers["content-type"] == "application/zip"
    assert "a key of its own" in browser.get("/downloads").text
    assert browser.send(f"/downloads/client/{site}/reissue", sure="yes").status_code == 303
    assert "revoked" in world.browser().get("/certificates").text


def test_an_invitation_leads_to_an_account(world):
    root = world.browser()
    root.get("/users")
    shown = root.send("/users/invite", role="org_admin", organization="org_a", email="").text
    link = "/sign-up?invitation=" + shown.split("/sign-up?invitation=", 1)[1].partition("<")[0]
    guest = _guest(world)
    assert "org_admin" in guest.get(link).text
    answer = guest.send("/sign-up", invitation=link.partition("=")[2], email="ann@a.example", password=PASSWORD)
    assert answer.status_code == 303
    assert "Wait for your approval" in guest.get("/").text
    assert _guest(world).get(link).status_code == 403


def test_a_refused_form_is_shown_again_with_the_error(world):
    root = world.browser()
    root.get("/project")
    answer = root.send("/project", short_name="not a name", title="A trial", server="", server_port="8002")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "letters, digits and underscores" in answer.text
    assert 'action="/project"' in answer.text
    wrong = _guest(world)
    wrong.get("/")
    answer = wrong.send("/login", email="root@hub.example", password="not the one")
    assert answer.status_code == 401
    assert "do not belong together" in answer.text


def test_a_token_is_shown_once(world):
    browser = world.browser()
    browser.get("/account")
    page = browser.send("/account/tokens", name="watcher", scopes=["read"], days="7").text
    token = page.split('<code id="secret">', 1)[1].partition("<")[0]
    assert token.startswith("cdd_")
    again = browser.get("/account").text
    assert token not in again
    assert "watcher" in again


def test_people_and_sites_are_searched_and_come_in_pages(world):
    world.configure()
    ann = world.person()
    for number in range(60):
        ann.site(f"site-{number:02}")
    root = world.browser()
    first = root.get("/sites").text
    assert "site-49" in first
    assert "site-50" not in first
    assert "Page 1 of 2" in first
    assert "site-59" in root.get("/sites?page=2").text
    found = root.get("/sites?q=site-05").text
    assert "site-05" in found
    assert "site-06" not in found
    assert "1 found" in found
    assert root.get("/sites?page=0").status_code == 400
    assert "100%" not in root.get("/sites?q=%25").text
    assert "0 found" in root.get("/sites?q=%25").text


@pytest.mark.parametrize("path", ["/users", "/sites", "/downloads", "/project", "/account", "/audit", "/certificates"])
def test_a_page_is_for_who_logged_in(world, path):
    answer = _guest(world).get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("path", ["/project", "/audit", "/certificates"])
def test_a_page_of_the_project_admin_is_refused_to_others(world, path):
    world.configure()
    world.person()
    browser = world.browser("ann@org-a.example")
    assert browser.get(path).status_code == 403
    assert f'href="{path}"' not in browser.get("/").text


def test_an_empty_list_says_what_to_do(world):
    root = world.browser()
    assert "Add one of your organisation below" in root.get("/sites").text
    assert "made when the project is frozen" in root.get("/certificates").text
    assert "Nothing is found" in root.get("/audit?q=nonesuch").text
    assert "Freeze it" in root.get("/downloads").text


def test_logging_out_ends_the_session(world):
    browser = world.browser()
    browser.get("/")
    cookie = browser.client.cookies["clouddeploy_session"]
    assert browser.send("/logout").status_code == 303
    stranger = _guest(world)
    stranger.client.cookies.set("clouddeploy_session", cookie, domain="127.0.0.1")
    assert stranger.get("/account").status_code == 303


def test_every_field_has_a_label_and_every_page_a_language(world):
    world.configure(freeze=True)
    world.person(approved=False)
    browser = world.browser()
    for path in ("/", "/downloads", "/sites", "/users", "/project", "/account", "/audit"):
        text = browser.get(path).text
        assert '<html lang="en">' in text
        assert text.count("<h1>") == 1
        for part in text.split("<input ")[1:]:
            tag, before = part.partition(">")[0], text.partition(part)[0]
            is_inside = before.rfind("<label") > before.rfind("</label>")
            assert 'type="hidden"' in tag or "aria-label" in tag or is_inside, (path, tag)


def _guest(world):
    return Browser(world.client())


def _signed_up(world, email):
    guest = _guest(world)
    guest.get("/sign-up")
    fields = {"email": email, "password": PASSWORD, "organization": "org_a", "role": "org_admin", "name": "Ann"}
    assert guest.send("/sign-up", **fields).status_code == 303
    return guest


def _downloaded(browser, what, folder):
    browser.get("/downloads")
    page = browser.send(f"/downloads/{what}/prepare").text
    code = page.split('<code id="secret">', 1)[1].partition("<")[0]
    link = page.split('href="/downloads/take/', 1)[1].partition('"')[0]
    kit = unpack(browser.get(f"/downloads/take/{link}").content, code, folder)
    kits.verify(kit)
    return kit
