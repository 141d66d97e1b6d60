"""The second factor: what gets in with it, what does not, and what needs the password once more."""

import base64
import re

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import text

from clouddeploy.dashboard import key_file, second_factor
from clouddeploy.dashboard.opening import open_desk
from clouddeploy.dashboard.rules import MATRIX, SENSITIVE, Action, Role
from clouddeploy.secrets import Secret
from tests.unit.dashboard.visitors import ADMIN, API, PASSWORD, World

FACTOR = "/account/second-factor"


def code_of(world, offer, *, steps=0):
    """What an authenticator shows now, or `steps` later."""
    raw = base64.b32decode(offer)
    return TOTP(raw, 6, SHA1(), 30).generate(int(world.clock().timestamp()) + steps * 30).decode()  # noqa: S303


def set_up(world, browser):
    """Turns a second factor on; returns its secret and the recovery codes."""
    browser.get(FACTOR)
    page = browser.send(f"{FACTOR}/offer").text
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page).group(1)
    answer = browser.send(f"{FACTOR}/confirm", code=code_of(world, secret))
    assert answer.status_code == 200, answer.text
    codes = re.findall(r"<li><code>([a-z2-7-]{19})</code>", answer.text)
    assert len(codes) == second_factor.RECOVERY_CODES
    world.clock.move(seconds=90)
    return secret, codes


def log_in(world, code="", password=PASSWORD, address="192.0.2.1"):
    body = {"email": ADMIN, "password": password, "code": code}
    return world.client(address).post(f"{API}/login", json=body)


def test_the_picture_holds_the_same_address_as_the_secret(world):
    browser = world.browser()
    browser.get(FACTOR)
    page = browser.send(f"{FACTOR}/offer").text
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page).group(1)
    assert f"secret={secret}" in page
    assert "<svg" in page
    assert "style=" not in page
    assert secret in browser.get(FACTOR).text, "a page that was closed too early can be opened again"


def test_with_a_second_factor_the_password_is_not_enough(world):
    secret, _ = set_up(world, world.browser())
    missing = log_in(world)
    assert (missing.status_code, missing.json()["code"]) == (401, "CODE_NEEDED")
    assert log_in(world, code_of(world, secret), password="not the right one").json()["code"] == "UNAUTHENTICATED"
    assert log_in(world, code_of(world, secret)).status_code == 200
    assert log_in(world, code=" ").status_code == 401


def test_an_offer_that_was_not_confirmed_asks_for_nothing(world):
    browser = world.browser()
    browser.get(FACTOR)
    browser.send(f"{FACTOR}/offer")
    assert browser.send(f"{FACTOR}/confirm", code="000000").status_code in {403, 200}
    world.program()


def test_the_key_of_second_factors_is_whole_or_not_there(tmp_path):
    """Two who come at once get the same one, and a kill while it is made leaves none."""
    path = tmp_path / "second_factor.key"

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        key_file.read(path, killed)
    assert not path.exists()

    def made_by_another_meanwhile():
        path.write_bytes(b"theirs")
        return b"ours"

    assert key_file.read(path, made_by_another_meanwhile) == b"theirs"
    path.unlink()
    assert key_file.read(path, lambda: b"ours") == b"ours"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_code_gets_in_once(world):
    secret, _ = set_up(world, world.browser())
    code = code_of(world, secret)
    assert log_in(world, code).status_code == 200
    assert log_in(world, code).status_code == 401
    assert log_in(world, code_of(world, secret, steps=-1)).status_code == 401, "nor does an earlier one"
    assert log_in(world, code_of(world, secret, steps=1)).status_code == 200


def test_the_code_that_turned_it_on_does_not_get_in(world):
    browser = world.browser()
    browser.get(FACTOR)
    page = browser.send(f"{FACTOR}/offer").text
    code = code_of(world, re.search(r"<code>([A-Z2-7]{32})</code>", page).group(1))
    browser.send(f"{FACTOR}/confirm", code=code)
    assert log_in(world, code).status_code == 401


@pytest.mark.parametrize("code", ["12345", "1234567", "abcdef", "\x00" * 6, "é" * 6, "0" * 30])
def test_what_is_no_code_is_a_wrong_one(world, code):
    set_up(world, world.browser())
    assert log_in(world, code).status_code in {400, 401}


def test_codes_cannot_be_tried_out(world):
    secret, _ = set_up(world, world.browser())
    right = code_of(world, secret)
    for number in range(5):
        assert log_in(world, f"{(int(right) + 1 + number) % 1000000:06}").status_code == 401
    assert log_in(world, right).status_code == 429


def test_a_recovery_code_gets_in_once(world):
    _, codes = set_up(world, world.browser())
    assert log_in(world, codes[0]).status_code == 200
    assert log_in(world, codes[0]).status_code == 401
    assert log_in(world, codes[1].upper().replace("-", " ")).status_code == 200


def test_new_recovery_codes_end_the_old_ones(world):
    browser = world.browser()
    secret, codes = set_up(world, browser)
    browser.get(FACTOR)
    page = browser.send(f"{FACTOR}/renew", code=code_of(world, secret)).text
    new = re.findall(r"<li><code>([a-z2-7-]{19})</code>", page)
    assert log_in(world, codes[0]).status_code == 401
    assert log_in(world, new[0]).status_code == 200


def test_it_is_turned_off_with_a_code_only(world):
    browser = world.browser()
    secret, _ = set_up(world, browser)
    browser.get(FACTOR)
    assert browser.send(f"{FACTOR}/remove", code="").status_code == 403
    assert browser.send(f"{FACTOR}/remove", code=code_of(world, secret)).status_code == 303
    assert log_in(world).status_code == 200


def logins_of_admin(world):
    """A session of another browser, one of this browser before, a token of a login, and one for automation."""
    other, program = world.browser(), world.program()
    made = program.post("/tokens", {"name": "robot", "scopes": ["read"]}).json()["token"]
    robot = world.client()
    robot.headers["authorization"] = f"Bearer {made}"
    return other, program, robot


def are_in(other, program, robot):
    codes = other.get("/account").status_code, program.get("/tokens").status_code
    return codes[0] == 200, codes[1] == 200, robot.get(f"{API}/clients").status_code == 200


def test_turning_it_on_and_off_ends_every_older_session_and_token(world):
    for_on = logins_of_admin(world)
    browser = world.browser()
    before = browser.client.cookies["clouddeploy_session"]
    assert are_in(*for_on) == (True, True, True)
    secret, codes = set_up(world, browser)
    assert are_in(*for_on) == (False, False, False)
    assert browser.get(FACTOR).status_code == 200
    assert browser.client.cookies["clouddeploy_session"] != before
    stolen = world.client()
    stolen.cookies.set("clouddeploy_session", before, domain="127.0.0.1")
    assert stolen.get("/account").status_code == 303
    made = browser.client.post(
        f"{API}/tokens", json={"name": "x", "scopes": ["read"]}, headers={"x-csrf-token": browser.token}
    )
    robot = world.client()
    robot.headers["authorization"] = f"Bearer {made.json()['token']}"
    assert robot.get(f"{API}/clients").status_code == 200
    browser.get(FACTOR)
    assert browser.send(f"{FACTOR}/remove", code=codes[0]).status_code == 303
    assert robot.get(f"{API}/clients").status_code == 401
    assert browser.get("/account").status_code == 200
    assert secret


def test_new_recovery_codes_end_older_sessions_and_no_token(world):
    browser = world.browser()
    secret, _ = set_up(world, browser)
    headers = {"x-csrf-token": browser.get(FACTOR) and browser.token}
    made = browser.client.post(f"{API}/tokens", json={"name": "x", "scopes": ["read"]}, headers=headers)
    robot, other = world.client(), world.client()
    robot.headers["authorization"] = f"Bearer {made.json()['token']}"
    login = {"email": ADMIN, "password": PASSWORD, "code": code_of(world, secret)}
    token = other.post(f"{API}/login", json=login).json()["access_token"]
    other.headers["authorization"] = f"Bearer {token}"
    world.clock.move(seconds=30)
    page = browser.send(f"{FACTOR}/renew", code=code_of(world, secret))
    assert page.status_code == 200
    assert robot.get(f"{API}/clients").status_code == 200
    assert other.get(f"{API}/clients").status_code == 401
    browser.token = re.search(r'name="form_token" value="([^"]*)"', page.text).group(1)
    world.clock.move(seconds=60)
    again = browser.send(f"{FACTOR}/renew", code=code_of(world, secret))
    assert again.status_code == 200, "the forms of that page are of the new session"


def test_the_database_alone_tells_no_secret(world):
    secret, codes = set_up(world, world.browser())
    with world.desk.visit() as visit:
        rows = str(visit.db.execute(text("SELECT * FROM second_factor")).all())
        rows += str(visit.db.execute(text("SELECT * FROM recovery_code")).all())
    assert secret not in rows
    assert codes[0].replace("-", "") not in rows
    assert (world.desk.folder / "second_factor.key").stat().st_mode & 0o777 == 0o600
    log = (world.desk.folder / "audit.jsonl").read_text()
    assert secret not in log


def test_a_project_admin_without_one_can_only_set_it_up_where_the_project_demands_it(world):
    root = world.configure()
    ann = world.person()
    assert root.patch("/project", {"require_second_factor": True}).status_code == 200
    assert root.get("/users").status_code == 403
    assert root.patch("/project", {"require_second_factor": False}).status_code == 403
    assert ann.get("/clients").status_code == 200, "it is demanded of project admins"
    browser = world.browser()
    assert "Set up your second factor" in browser.get("/").text
    assert browser.get("/users").status_code == 403
    secret, _ = set_up(world, browser)
    assert browser.get("/users").status_code == 200
    assert log_in(world, code_of(world, secret)).status_code == 200


def test_the_project_admin_turns_off_what_somebody_lost(world):
    world.configure()
    ann = world.person()
    hers = world.browser("ann@org-a.example")
    set_up(world, hers)
    browser = world.browser()
    assert "Second factor off" in browser.get("/users").text
    assert browser.send(f"/users/{ann.id}/reset-second-factor").status_code == 303
    assert hers.get("/account").status_code == 303, "her sessions have ended"
    world.browser("ann@org-a.example")
    assert browser.send("/users/1/reset-second-factor").status_code == 403, "not one's own"
    bob = world.person("bob", org="org_b")
    his = world.browser("bob@org-b.example")
    his.get("/account")
    assert his.send(f"/users/{ann.id}/reset-second-factor").status_code == 403
    assert bob.get("/clients").status_code == 200


def test_what_is_sensitive_asks_for_the_password_again_after_a_while(world):
    world.configure()
    browser = world.browser()
    world.clock.move(minutes=16)
    browser.get("/project")
    asked = browser.send("/project/freeze", sure="yes")
    assert asked.status_code == 403
    assert "Is it you?" in asked.text
    assert 'name="back" value="/project"' in asked.text
    assert browser.send("/project/freeze", sure="yes").status_code == 403
    wrong = browser.send("/proof", password="not the right one", back="/project")
    assert wrong.status_code == 403
    assert 'name="back" value="/project"' in wrong.text
    right = browser.send("/proof", password=PASSWORD, back="/project")
    assert (right.status_code, right.headers["location"]) == (303, "/project")
    assert browser.send("/project/freeze", sure="yes").status_code == 303
    assert [one.get("code", "") for one in world.audited("prove")] == ["UNAUTHENTICATED", ""]


def test_with_a_second_factor_the_proof_takes_a_code(world):
    browser = world.browser()
    secret, _ = set_up(world, browser)
    browser.get("/proof")
    assert browser.send("/proof", password=PASSWORD).status_code == 403
    assert browser.send("/proof", password=PASSWORD, code=code_of(world, secret)).status_code == 303


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:1", "/a\nb"]
)
def test_the_proof_leads_to_no_other_host(world, back):
    browser = world.browser()
    browser.get("/proof")
    answer = browser.send("/proof", password=PASSWORD, back=back)
    assert answer.headers["location"] == "/"


def test_the_servers_kit_and_roles_are_sensitive_too(world):
    world.configure(freeze=True)
    waiting = world.person(approved=False)
    browser = world.browser()
    world.clock.move(minutes=16)
    browser.get("/downloads")
    assert "Is it you?" in browser.send("/downloads/server/1/prepare").text
    edit = browser.send(f"/users/{waiting.id}/edit", role="lead", organization="org_a")
    assert "Is it you?" in edit.text
    assert "Is it you?" in browser.send("/users/decide", ids=str(waiting.id), decision="approve").text
    assert {Action.SERVER_KIT, Action.PROJECT_FREEZE, Action.USER_ROLE} <= SENSITIVE


def test_a_browser_that_was_left_alone_makes_no_token_and_takes_no_account_over(world):
    world.configure()
    ann = world.person()
    browser = world.browser()
    world.clock.move(minutes=16)
    browser.get("/account")
    browser.client.headers["x-csrf-token"] = browser.token
    assert "Is it you?" in browser.send("/account/tokens", name="x", scopes=["write"], days="7").text
    made = browser.client.post(f"{API}/tokens", json={"name": "x", "scopes": ["write"]})
    assert made.json()["code"] == "PROOF_NEEDED"
    for one in (1, ann.id):
        answer = browser.client.patch(f"{API}/users/{one}", json={"password": "taken over by this"})
        assert answer.json()["code"] == "PROOF_NEEDED"
    changed = browser.send("/account/password", old_password=PASSWORD, password="a new one with words")
    assert changed.status_code == 303, "the old password is a proof"


def test_a_new_password_stands_for_no_code_in_a_browser_that_was_left_alone(world):
    browser = world.browser()
    set_up(world, browser)
    world.clock.move(minutes=16)
    browser.get("/account")
    assert browser.send("/account/password", old_password=PASSWORD, password="a new one with words").status_code == 303
    browser.get("/account")
    assert "Is it you?" in browser.send("/account/tokens", name="x", scopes=["write"], days="7").text


def test_a_token_for_automation_is_not_asked(world):
    root = world.configure(freeze=True)
    made = root.post("/tokens", {"name": "robot", "scopes": ["read", "write", "kits"]}).json()["token"]
    world.clock.move(days=2)
    client = world.client()
    client.headers["authorization"] = f"Bearer {made}"
    assert client.post(f"{API}/servers/1/blob", json={}).status_code == 200


def test_a_lock_outlasts_a_restart(tmp_path):
    with World(tmp_path / "dashboard") as world:
        for _ in range(5):
            assert log_in(world, password="not the right one").status_code == 401
        again = open_desk(
            world.desk.folder,
            passphrase=Secret("of the authority"),
            passwords=world.desk.passwords,
            now=world.clock,
        )
        with pytest.raises(Exception, match="too many tries"):
            again.attempts.check(again.attempts.login(account=ADMIN, address="192.0.2.1"))
        world.clock.move(hours=2)
        later = open_desk(
            world.desk.folder, passphrase=Secret("of the authority"), passwords=world.desk.passwords, now=world.clock
        )
        later.attempts.check(later.attempts.login(account=ADMIN, address="192.0.2.1"))
        with later.database.begin() as db:
            assert db.scalar(text("SELECT count(*) FROM attempt")) == 0
        for one in (again, later):
            one.database.close()


def test_every_role_may_have_one():
    assert set(MATRIX[Action.FACTOR_EDIT]) == set(Role)
