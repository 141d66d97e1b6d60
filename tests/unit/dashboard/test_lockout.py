"""Wrong passwords: nobody locks somebody else out, and nobody finds out who has an account."""

import threading

import pytest
from clouddeploy_rehearsal.probe import until

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


def test_of_many_logins_at_once_no_more_reach_the_hash_than_may_fail_for_nothing(world, monkeypatch):
    waits, looked_at = threading.Barrier(9), []

    def slow(known, password):
        looked_at.append(password)
        until(lambda: len(looked_at) + sum(refused) >= 8)
        return False

    refused = []
    monkeypatch.setattr(world.desk.passwords, "is_right", slow)

    def guess(number):
        waits.wait()
        client = world.client("198.51.100.7")
        body = {"email": ADMIN, "password": f"guess number {number}"}
        if client.post(f"{API}/login", json=body).status_code == 429:
            refused.append(1)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    waits.wait()
    for one in threads:
        one.join()
    assert (len(looked_at), len(refused)) == (5, 3)


def test_a_password_alone_buys_no_further_guesses_of_the_second_factor(world):
    browser = world.browser()
    old = PASSWORD
    codes = []
    for number in range(8):
        browser.get("/account/second-factor")
        browser.send("/account/second-factor/remove", code="000000")
        browser.get("/account")
        new = f"{PASSWORD} {number}"
        answer = browser.send("/account/password", old_password=old, password=new)
        codes.append(answer.status_code)
        old = new if answer.status_code == 303 else old
    assert codes[:4] == [303] * 4
    assert set(codes[5:]) == {429}


def test_refused_sign_ups_do_not_fill_the_audit_log(world):
    client = world.client("198.51.100.9")
    body = {"password": PASSWORD, "organization": "org_a", "role": "lead", "email": "ann@a.example"}
    codes = [client.post(f"{API}/users", json=body).status_code for _ in range(40)]
    assert codes == [403] * 30 + [429] * 10
    assert len(world.audited("sign_up")) == 30
