"""What somebody tries who means no good."""

import re

import pytest
from clouddeploy_runtime.audit import first_broken_line
from starlette.testclient import TestClient

from clouddeploy.dashboard import people
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Forbidden
from clouddeploy.dashboard.web import guard
from tests.unit.dashboard.visitors import ADMIN, API, PASSWORD, World


def test_a_wrong_password_and_an_unknown_account_get_the_same_answer(world):
    answers = [
        world.client().post(f"{API}/login", json={"email": email, "password": "not the right one"})
        for email in (ADMIN, "nobody@hub.example")
    ]
    assert [one.status_code for one in answers] == [401, 401]
    assert answers[0].content == answers[1].content
    assert answers[0].json()["status"] == "unauthenticated"


def test_an_account_is_locked_for_a_while_and_frees_itself(world):
    client = world.client()
    for _ in range(5):
        assert client.post(f"{API}/login", json={"email": ADMIN, "password": "wrong one"}).status_code == 401
    locked = client.post(f"{API}/login", json={"email": ADMIN, "password": PASSWORD})
    assert locked.status_code == 429
    assert locked.headers["retry-after"] == "30"
    world.clock.move(seconds=31)
    assert client.post(f"{API}/login", json={"email": ADMIN, "password": PASSWORD}).status_code == 200
    assert len(world.audited("login")) == 6


def test_a_session_is_another_one_after_the_login(world):
    client = world.client()
    client.cookies.set("clouddeploy_session", "chosen by somebody else", domain="127.0.0.1")
    client.get("/")
    token = client.cookies["clouddeploy_form"]
    answer = client.post("/login", data={"form_token": token, "email": ADMIN, "password": PASSWORD})
    set_to = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
    assert set_to != "chosen by somebody else"
    stranger = world.client()
    stranger.cookies.set("clouddeploy_session", "chosen by somebody else", domain="127.0.0.1")
    assert stranger.get("/account").headers["location"] == "/"


def test_a_cookie_is_out_of_reach_for_scripts_and_other_sites(tmp_path):
    with World(tmp_path / "dashboard", is_tls=True) as world:
        client = world.client()
        client.get("/")
        token = client.cookies["__Host-clouddeploy_form"]
        answer = client.post("/login", data={"form_token": token, "email": ADMIN, "password": PASSWORD})
        cookies = answer.headers.get_list("set-cookie")
        assert {one.partition("=")[0] for one in cookies} == {
            "__Host-clouddeploy_session",
            "__Host-clouddeploy_device",
        }
        assert all({"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(one.split("; ")) for one in cookies)
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_form_without_the_sessions_token_is_refused(world):
    browser = world.browser()
    for token in ("", "guessed", world.browser().token):
        browser.token = token
        assert browser.send("/project", title="Theirs", public="yes").status_code == 403
    with world.desk.visit() as visit:
        assert project_of(visit.db).title == ""


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://["}, {"sec-fetch-site": "cross-site"}],
)
def test_a_form_that_another_site_sends_is_refused(world, headers):
    browser = world.browser()
    browser.get("/project")
    browser.client.headers.update(headers)
    assert browser.send("/project", title="Theirs").status_code == 403


@pytest.mark.parametrize("path", ["/", f"{API}/project"])
def test_a_defect_is_told_with_the_headers_of_every_answer(world, monkeypatch, path):
    monkeypatch.setattr("clouddeploy.dashboard.settings.counts", lambda _: 1 / 0)
    client = TestClient(world.app, base_url=world.host, raise_server_exceptions=False)
    with world.desk.visit() as visit:
        project_of(visit.db).is_public = True
    with client:
        answer = client.get(path)
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert guard.HEADERS.items() <= dict(answer.headers).items()
    assert answer.headers["cache-control"] == "no-store"


def test_a_login_form_of_another_site_is_refused(world):
    answer = world.client().post("/login", data={"email": ADMIN, "password": PASSWORD})
    assert answer.status_code == 403


def test_a_cookie_alone_changes_nothing_by_the_api(world):
    browser = world.browser()
    assert browser.client.get(f"{API}/users").status_code == 200
    assert browser.client.patch(f"{API}/project", json={"title": "Theirs"}).status_code == 403
    headers = {"x-csrf-token": browser.get("/account") and browser.token}
    assert browser.client.patch(f"{API}/project", json={"title": "Ours"}, headers=headers).status_code == 200


def test_another_organisations_kit_is_out_of_reach(world):
    root = world.configure(freeze=True)
    ann, bob = world.person("ann"), world.person("bob", org="org_b")
    site = ann.site(approved_by=root)
    assert bob.post(f"/clients/{site}/blob").status_code == 403
    assert bob.post(f"/clients/{site}/reissue", {}).status_code == 403
    assert bob.post(f"/users/{ann.id}/blob").status_code == 403
    assert bob.get(f"/users/{ann.id}").status_code == bob.get("/users/9999").status_code == 403
    assert [one["email"] for one in bob.get("/users").json()["user_list"]] == ["bob@org-b.example"]
    assert {one["code"] for one in world.audited("download_site_kit")} == {"FORBIDDEN"}


def test_a_ticket_is_of_one_person_and_of_one_use(world):
    root = world.configure(freeze=True)
    world.person("ann")
    assert root.get("/project").status_code == 200
    ann, bob = world.browser("ann@org-a.example"), world.browser()
    ann.get("/downloads")
    page = ann.send(f"/downloads/user/{_id(world, 'ann@org-a.example')}/prepare")
    assert page.status_code == 200
    link = page.text.split('href="/downloads/take/', 1)[1].partition('"')[0]
    assert bob.get(f"/downloads/take/{link}").status_code == 404
    assert ann.client.get(f"/downloads/take/{link}").status_code == 200
    assert ann.client.get(f"/downloads/take/{link}").status_code == 404


def test_a_ticket_ends(world):
    world.configure(freeze=True)
    browser = world.browser()
    browser.get("/downloads")
    page = browser.send("/downloads/server/1/prepare")
    link = page.text.split('href="/downloads/take/', 1)[1].partition('"')[0]
    world.clock.move(minutes=11)
    assert browser.get(f"/downloads/take/{link}").status_code == 404


def test_an_approved_site_is_neither_renamed_nor_moved_nor_deleted(world):
    root = world.configure()
    ann = world.person()
    site = ann.site(approved_by=root)
    for program in (ann, root):
        assert program.patch(f"/clients/{site}", {"name": "other"}).status_code == 409
        assert program.delete(f"/clients/{site}").status_code == 409
    assert root.patch(f"/clients/{site}", {"organization": "org_b"}).status_code == 409
    assert ann.patch(f"/clients/{site}", {"organization": "org_b"}).status_code == 403
    assert ann.patch(f"/clients/{site}", {"capacity": {"num_of_gpus": 4}}).json()["client"]["name"] == "site-1"


def test_who_only_says_to_be_of_an_organisation_has_nothing_of_it(world):
    root = world.configure()
    ann = world.person("ann")
    site = ann.site("site-1")
    claims = world.person("eve", org="org_a", approved=False)
    assert claims.patch(f"/clients/{site}", {"capacity": {"num_of_gpus": 0}}).status_code == 403
    assert claims.delete(f"/clients/{site}").status_code == 403
    assert claims.get(f"/users/{ann.id}").status_code == 403
    own = claims.site("site-2")
    page = world.browser("eve@org-a.example").get("/sites").text
    assert "site-2" in page
    assert "site-1" not in page
    assert claims.patch(f"/clients/{own}", {"name": "site-3"}).status_code == 200
    assert root.get("/clients").json()["paging"]["total"] == 2


def test_accounts_are_not_made_in_bulk(world):
    world.configure()
    client = world.client("198.51.100.9")
    body = {"password": PASSWORD, "organization": "org_a", "role": "lead"}
    codes = [client.post(f"{API}/users", json={**body, "email": f"u{one}@a.example"}).status_code for one in range(32)]
    assert codes == [201] * 30 + [429] * 2


def test_an_approval_is_for_what_the_page_showed(world):
    world.configure()
    ann = world.person("ann", approved=False)
    site = ann.site("site-1")
    browser = world.browser()
    tick = re.search(rf'name="ids" value="({site}-[0-9a-f]+)"', browser.get("/sites").text).group(1)
    assert ann.patch(f"/clients/{site}", {"name": "hospital"}).status_code == 200
    assert browser.send("/sites/decide", ids=tick, decision="approve").status_code == 412
    assert ann.delete(f"/clients/{site}").status_code == 200
    tick = re.search(rf'name="ids" value="({ann.id}-[0-9a-f]+)"', browser.get("/users").text).group(1)
    assert ann.delete(f"/users/{ann.id}").status_code == 200
    eve = world.person("eve", org="hospital", approved=False)
    assert eve.id == ann.id, "SQLite gives the id again"
    assert browser.send("/users/decide", ids=tick, decision="approve").status_code == 412
    now = re.search(rf'name="ids" value="({eve.id}-[0-9a-f]+)"', browser.get("/users").text).group(1)
    assert browser.send("/users/decide", ids=now, decision="approve").status_code == 303


def test_nobody_makes_a_site_elsewhere(world):
    root = world.configure()
    ann = world.person()
    world.person("bob", org="org_b")
    for program in (ann, root):
        assert program.post("/clients", {"name": "theirs", "organization": "org_b"}).status_code == 403
    assert world.person("cat", role="lead").post("/clients", {"name": "mine"}).status_code == 403


def test_nobody_lifts_themselves(world):
    world.configure()
    ann = world.person(approved=False)
    for change in ({"approval_state": 100}, {"role": "lead"}, {"organization": "org_b"}):
        assert ann.patch(f"/users/{ann.id}", change).status_code == 403
    body = {"email": "x@x.example", "password": PASSWORD, "organization": "hub", "role": "project_admin"}
    assert world.client().post(f"{API}/users", json=body).status_code == 403
    assert world.client().post(f"{API}/users", json={**body, "approval_state": 200}).status_code == 400


def test_a_denial_ends_every_session_at_once(world):
    root = world.configure()
    ann = world.person()
    browser = world.browser("ann@org-a.example")
    assert root.patch(f"/users/{ann.id}", {"approval_state": -1}).status_code == 200
    assert ann.get("/project").status_code == 200
    assert ann.get("/clients").status_code == 401
    assert browser.get("/sites").headers["location"] == "/"
    login = {"email": "ann@org-a.example", "password": PASSWORD}
    assert world.client().post(f"{API}/login", json=login).status_code == 401


def test_a_session_ends_when_nobody_uses_it_and_in_any_case(world):
    browser = world.browser()
    for _ in range(25):
        world.clock.move(minutes=28)
        assert browser.get("/account").status_code == 200
    world.clock.move(minutes=28)
    assert browser.get("/account").status_code == 303
    browser = world.browser()
    world.clock.move(minutes=31)
    assert browser.get("/account").status_code == 303


def test_a_new_password_ends_the_other_sessions(world):
    here, there, program = world.browser(), world.browser(), world.program()
    here.get("/account")
    before = here.client.cookies["clouddeploy_session"]
    assert here.send("/account/password", old_password="not this", password="a new one with words").status_code == 403
    done = here.send("/account/password", old_password=PASSWORD, password="a new one with words")
    assert done.status_code == 303
    assert here.get("/account").status_code == 200
    stolen = world.client()
    stolen.cookies.set("clouddeploy_session", before, domain="127.0.0.1")
    assert stolen.get("/account").status_code == 303, "what somebody may have read of this browser is worthless too"
    assert there.get("/account").status_code == 303
    assert program.get("/users").status_code == 401


def test_a_new_password_by_rest_ends_the_token_that_sent_it_too(world):
    sender, other = world.program(), world.program()
    assert sender.patch(f"/users/{sender.id}", {"password": "a new one with words"}).status_code == 200
    assert sender.get("/users").status_code == 401
    assert other.get("/users").status_code == 401
    assert world.program(password="a new one with words").get("/users").status_code == 200


def test_a_new_password_by_a_script_of_the_page_gives_its_browser_another_session(world):
    browser, program = world.browser(), world.program()
    browser.get("/account")
    before = browser.client.cookies["clouddeploy_session"]
    browser.client.headers["x-csrf-token"] = browser.token
    answer = browser.client.patch(f"{API}/users/{program.id}", json={"password": "a new one with words"})
    assert answer.status_code == 200
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert browser.get("/account").status_code == 200
    stolen = world.client()
    stolen.cookies.set("clouddeploy_session", before, domain="127.0.0.1")
    assert stolen.get("/account").status_code == 303
    assert program.get("/users").status_code == 401


def test_a_new_password_of_somebody_else_ends_theirs_and_leaves_the_senders(world):
    root = world.configure()
    ann = world.person()
    assert root.patch(f"/users/{ann.id}", {"password": "a new one with words"}).status_code == 200
    assert ann.get("/clients").status_code == 401
    assert root.get("/users").status_code == 200


def test_a_token_does_what_it_was_made_for(world):
    root = world.configure()
    made = root.post("/tokens", {"name": "watcher", "scopes": ["read"], "days": 1}).json()["token"]
    assert made.startswith("cdd_")
    watcher = world.client()
    watcher.headers["authorization"] = f"Bearer {made}"
    assert watcher.get(f"{API}/clients").status_code == 200
    assert watcher.patch(f"{API}/project", json={"title": "x"}).status_code == 403
    assert made.encode() not in (world.desk.folder / "db.sqlite").read_bytes()
    world.clock.move(days=2)
    assert watcher.get(f"{API}/clients").status_code == 401


def test_a_token_makes_no_other_and_changes_no_password(world):
    root = world.configure()
    made = root.post("/tokens", {"name": "robot", "scopes": ["read", "write", "kits"]}).json()["token"]
    robot = world.client()
    robot.headers["authorization"] = f"Bearer {made}"
    assert robot.post(f"{API}/tokens", json={"name": "x", "scopes": ["kits"]}).status_code == 403
    assert robot.patch(f"{API}/users/{root.id}", json={"password": "taken over by this"}).status_code == 403


def test_an_invitation_is_for_one_person_and_says_what_they_are(world):
    root = world.program()
    made = root.post("/invitations", {"role": "lead", "organization": "org_a", "email": "ann@a.example"}).json()
    body = {"email": "eve@a.example", "password": PASSWORD, "role": "org_admin", "organization": "hub"}
    body["invitation"] = made["invitation"]
    assert world.client().post(f"{API}/users", json=body).status_code == 403
    answer = world.client().post(f"{API}/users", json={**body, "email": "ann@a.example"})
    assert (answer.json()["user"]["role"], answer.json()["user"]["organization"]) == ("lead", "org_a")
    assert world.client().post(f"{API}/users", json={**body, "email": "ann@a.example"}).status_code == 403
    late = root.post("/invitations", {"role": "lead", "organization": "org_a"}).json()["invitation"]
    world.clock.move(days=15)
    assert world.client().post(f"{API}/users", json={**body, "invitation": late}).status_code == 403


def test_of_two_who_use_an_invitation_at_once_one_gets_in(world):
    root = world.configure(public=False)
    secret = root.post("/invitations", {"role": "lead", "organization": "org_a"}).json()["invitation"]
    with world.desk.visit() as late:
        found = people.invitation(late, secret)
        body = {"email": "ann@a.example", "password": PASSWORD, "invitation": secret}
        assert world.client().post(f"{API}/users", json=body).status_code == 201
        with pytest.raises(Forbidden):
            people._use(late, found)


def test_an_invitation_ends_with_the_denial_of_who_made_it(world):
    root = world.configure()
    ann = world.person()
    secret = ann.post("/invitations", {"role": "lead", "organization": "org_a"}).json()["invitation"]
    assert root.patch(f"/users/{ann.id}", {"approval_state": -1}).status_code == 200
    body = {"email": "eve@a.example", "password": PASSWORD, "invitation": secret}
    assert world.client().post(f"{API}/users", json=body).status_code == 403


def test_a_project_that_is_not_public_tells_nothing(world):
    world.configure(public=False)
    client = world.client()
    assert client.get(f"{API}/project").json()["project"]["short_name"] == ""
    assert client.get(f"{API}/organizations").json()["client_list"] == []
    assert "Nobody can sign up now" in client.get("/sign-up").text


def test_every_answer_has_the_strict_headers(world):
    for path in ("/", "/static/style.css", "/nothing", f"{API}/users", f"{API}/nothing"):
        headers = world.client().get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "strict-transport-security" not in headers
        assert path.startswith("/static") or headers["cache-control"] == "no-store"


def test_a_name_is_shown_as_text(world):
    root = world.configure()
    ann = world.person()
    assert ann.patch(f"/users/{ann.id}", {"name": "<script>alert(1)</script>\x1b[31m"}).status_code == 200
    page = world.browser().get("/users").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert root.get("/users").status_code == 200


def test_no_page_has_anything_inline_or_from_elsewhere(world):
    world.configure(freeze=True)
    browser = world.browser()
    for path in ("/", "/downloads", "/sites", "/users", "/project", "/certificates", "/audit", "/account"):
        text = browser.get(path).text
        assert not [word for word in ("style=", "onclick", "http://", "https://", "<style") if word in text], path


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ('{"email": 1, "password": "x"}', "application/json", 400),
        ('{"email": "a", "password": "b", "more": 1}', "application/json", 400),
        ("email=a", "application/x-www-form-urlencoded", 400),
        ('{"email": "' + "a" * (3 << 20) + '"}', "application/json", 413),
        ("[" * 100_000, "application/json", 400),
    ],
)
def test_what_cannot_be_used_is_refused(world, body, content_type, status):
    answer = world.client().post(f"{API}/login", content=body, headers={"content-type": content_type})
    assert answer.status_code == status
    assert set(answer.json()) == {"status", "code", "message", "hint"}


def test_another_host_name_is_refused(world):
    assert world.client().get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_audit_log_is_one_chain_and_holds_no_secret(world):
    root = world.configure(freeze=True)
    ann = world.person()
    code = ann.post(f"/users/{ann.id}/blob").headers["x-kit-code"]
    assert root.get("/audit", q="freeze").json()["entry_list"][0]["action"] == "freeze_project"
    log = world.desk.folder / "audit.jsonl"
    assert first_broken_line(log) is None
    text = log.read_text()
    assert code not in text
    assert PASSWORD not in text
    assert "of the authority" not in text
    assert {"seed", "login", "sign_up", "approve_user", "download_user_kit"} <= {
        one["action"] for one in root.get("/audit", per_page=200).json()["entry_list"]
    }


def test_files_are_their_owners_alone(world):
    world.configure(freeze=True)
    assert world.desk.folder.stat().st_mode & 0o777 == 0o700
    open_files = [path for path in world.desk.folder.iterdir() if path.is_file() and path.stat().st_mode & 0o077]
    assert open_files == []
    key = (world.desk.folder / "workspace/trial/state/rootCA.key").read_bytes()
    assert b"ENCRYPTED" in key


def _id(world, email):
    found = world.program().get("/users", q=email).json()["user_list"]
    return found[0]["id"]
