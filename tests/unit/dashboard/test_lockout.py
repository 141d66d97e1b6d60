"""Wrong passwords: nobody locks somebody else out, and nobody finds out who has an account."""

import pytest

from clouddeploy.dashboard import devices
from tests.unit.dashboard.visitors import ADMIN, API, PASSWORD, Browser


def fail(world, times, *, address=None):
    """Types wrong passwords for the admin's account, from one address or from one each."""
    for number in range(times):
        client = world.client(address or f"198.51.100.{number}")
        body = {"email": ADMIN, "password": "not the right one"}
        assert client.post(f"{API}/login", json=body).status_code in {401, 429}


def test_a_stranger_locks_nobody_out(world):
    fail(world, 40, address="198.51.100.7")
    assert world.client().post(f"{API}/login", json={"email": ADMIN, "password": PASSWORD}).status_code == 200


def test_strangers_everywhere_lock_nobody_out_who_was_there_before(world):
    browser = world.browser()
    browser.get("/")
    browser.send("/logout")
    program = {"email": ADMIN, "password": PASSWORD}
    fail(world, 60)
    elsewhere = world.client("203.0.113.9")
    assert elsewhere.post(f"{API}/login", json=program).status_code == 429, "nobody knows who that is"
    assert world.client().post(f"{API}/login", json=program).status_code == 200, "the address is known"
    moved = Browser(elsewhere)
    moved.get("/")
    assert moved.send("/login", email=ADMIN, password=PASSWORD).status_code == 429
    name = "clouddeploy_device"
    elsewhere.cookies.set(name, browser.client.cookies[name], domain="127.0.0.1")
    assert moved.send("/login", email=ADMIN, password=PASSWORD).status_code == 303, "the browser is known"


@pytest.mark.parametrize("change", [lambda one: one[:-1] + ("0" if one[-1] != "0" else "1"), lambda _: "a.b.c"])
def test_a_cookie_that_was_made_up_is_no_known_browser(world, change):
    shown = devices.issue(world.desk, ADMIN)
    assert devices.recognised(world.desk, shown, ADMIN)
    assert not devices.recognised(world.desk, change(shown), ADMIN)
    assert not devices.recognised(world.desk, shown, "ann@org-a.example"), "it is of one account"
    world.clock.move(days=181)
    assert not devices.recognised(world.desk, shown, ADMIN)
    assert (world.desk.folder / "device.key").stat().st_mode & 0o777 == 0o600


def test_sign_ups_keep_nobody_from_logging_in(world):
    world.configure()
    client = world.client("198.51.100.9")
    body = {"password": PASSWORD, "organization": "org_a", "role": "lead"}
    for one in range(32):
        client.post(f"{API}/users", json={**body, "email": f"u{one}@a.example"})
    assert client.post(f"{API}/login", json={"email": "u0@a.example", "password": PASSWORD}).status_code == 200


def test_which_addresses_have_accounts_is_not_found_out_in_bulk_and_takes_a_hash_each_time(world, monkeypatch):
    world.configure()
    hashed = []
    monkeypatch.setattr(world.desk.passwords, "hash", lambda password: hashed.append(password) or "hash")
    client = world.client("198.51.100.9")
    body = {"email": ADMIN, "password": PASSWORD, "organization": "org_a", "role": "lead"}
    codes = [client.post(f"{API}/users", json=body).status_code for _ in range(7)]
    assert codes == [409] * 5 + [429] * 2
    assert len(hashed) == 5, "as many as for an address that is free"


@pytest.mark.parametrize("email", [ADMIN, "nobody@hub.example"])
def test_a_refused_login_takes_one_hash_whether_there_is_an_account_or_not(world, monkeypatch, email):
    checked = []
    is_right = world.desk.passwords.is_right
    monkeypatch.setattr(
        world.desk.passwords, "is_right", lambda known, password: checked.append(email) or is_right(known, password)
    )
    answer = world.client().post(f"{API}/login", json={"email": email, "password": "not the right one"})
    assert (answer.status_code, checked) == (401, [email])
