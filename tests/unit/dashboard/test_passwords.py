"""Passwords, and how fast they can be tried."""

from contextlib import ExitStack

import pytest

from clouddeploy.dashboard import database, passwords
from clouddeploy.dashboard.attempts import Attempts, Limits
from clouddeploy.dashboard.errors import Invalid, TooMany
from clouddeploy.dashboard.passwords import Passwords
from tests.unit.dashboard.visitors import CHEAP, Clock


def test_a_password_is_kept_as_argon2id():
    kept = Passwords().hash("correct horse battery")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert "correct" not in kept


def test_an_account_that_is_not_there_takes_a_hash_too():
    calls = []

    class Counting(type(CHEAP)):
        def verify(self, *given):
            calls.append(given)
            return super().verify(*given)

    found = Passwords(Counting(time_cost=1, memory_cost=8, parallelism=1))
    assert not found.is_right(None, "whatever it is")
    assert not found.is_right(found.hash("another one"), "whatever it is")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "password", ["eleven sign", "ann@a.example 12", "my ann1 password", "aaaabbbbaaaabbbb", "x" * 257]
)
def test_a_weak_password_is_refused(password):
    with pytest.raises(Invalid):
        passwords.check(password, email="ann1@a.example" if "ann1" in password else "ann@a.example")


def test_a_long_one_is_taken():
    passwords.check("four words in a row", email="ann@a.example")
    passwords.check(passwords.made(), email="ann@a.example")


def test_each_failure_makes_the_next_try_wait_longer():
    clock = Clock()
    tries = Attempts(clock, Limits(account_failures=3, first_wait_s=30, longest_wait_s=100))
    waits = []
    for _ in range(6):
        tries.failed(tries.login(account="a", address="1"))
        try:
            tries.check(tries.login(account="a", address="1"))
            waits.append(0)
        except TooMany as error:
            waits.append(round(error.retry_after_s))
            clock.move(seconds=error.retry_after_s)
    assert waits == [0, 0, 30, 60, 100, 100]
    tries.check(tries.login(account="a", address="1"))


def test_an_address_that_tries_many_accounts_waits_too():
    tries = Attempts(Clock(), Limits(account_failures=3, address_failures=5))
    for number in range(5):
        tries.failed(tries.login(account=f"account {number}", address="1"))
    with pytest.raises(TooMany):
        tries.check(tries.login(account="another", address="1"))
    tries.check(tries.login(account="another", address="2"))


def test_a_stranger_at_one_address_locks_an_account_for_that_address_only():
    tries = Attempts(Clock(), Limits(account_failures=3))
    for _ in range(3):
        tries.failed(tries.login(account="a", address="1"))
    with pytest.raises(TooMany):
        tries.check(tries.login(account="a", address="1"))
    tries.check(tries.login(account="a", address="2"))
    tries.check(tries.login(account="b", address="1"))


def test_strangers_at_many_addresses_lock_an_account_for_strangers_only():
    tries = Attempts(Clock(), Limits(strange_failures=10))
    tries.remember(account="a", address="192.0.2.1")
    for number in range(10):
        tries.failed(tries.login(account="a", address=f"198.51.100.{number}"))
    with pytest.raises(TooMany):
        tries.check(tries.login(account="a", address="203.0.113.1"))
    tries.check(tries.login(account="a", address="203.0.113.1", device="known"))
    tries.check(tries.login(account="a", address="192.0.2.1"))
    tries.check(tries.login(account="b", address="203.0.113.1"))


@pytest.mark.parametrize("where", [{"address": "192.0.2.1"}, {"address": "2", "device": "known"}])
def test_what_is_known_gets_no_more_guesses_than_a_stranger(where):
    tries = Attempts(Clock(), Limits(account_failures=3))
    tries.remember(account="a", address="192.0.2.1")
    for _ in range(3):
        tries.failed(tries.login(account="a", **where))
    with pytest.raises(TooMany):
        tries.check(tries.login(account="a", **where))


def test_a_known_address_is_a_stranger_again_after_half_a_year():
    clock = Clock()
    tries = Attempts(clock, Limits(strange_failures=1))
    tries.remember(account="a", address="1")
    clock.move(days=181)
    tries.failed(tries.login(account="a", address="2"))
    with pytest.raises(TooMany):
        tries.check(tries.login(account="a", address="1"))


def test_a_known_address_outlasts_a_restart(tmp_path):
    clock, opened = Clock(), database.open_in(tmp_path)
    Attempts(clock, database=opened).remember(account="a", address="1")
    again = Attempts(clock, Limits(strange_failures=1), database=opened)
    again.failed(again.login(account="a", address="2"))
    again.check(again.login(account="a", address="1"))
    clock.move(days=181)
    later = Attempts(clock, database=opened)
    assert not later._known
    opened.close()


def test_sign_ups_count_for_no_login():
    tries = Attempts(Clock(), Limits(sign_ups=2))
    for _ in range(2):
        tries.failed(tries.sign_up(address="1"))
    with pytest.raises(TooMany):
        tries.check(tries.sign_up(address="1"))
    tries.check(tries.sign_up(address="2"))
    tries.check(tries.login(account="a", address="1"))


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::1", "::2", True),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(first, second, is_one):
    tries = Attempts(Clock(), Limits(address_failures=1))
    tries.failed(tries.login(account="a", address=first))
    if is_one:
        with pytest.raises(TooMany):
            tries.check(tries.login(account="b", address=second))
    else:
        tries.check(tries.login(account="b", address=second))


def test_a_success_frees_the_account_at_the_address_and_nothing_else():
    tries = Attempts(Clock(), Limits(account_failures=2, address_failures=4, strange_failures=4))
    for _ in range(2):
        tries.failed(tries.login(account="a", address="1"))
    tries.succeeded(tries.login(account="a", address="1"))
    tries.check(tries.login(account="a", address="1"))
    for _ in range(2):
        tries.failed(tries.login(account="a", address="1"))
    tries.succeeded(tries.login(account="a", address="1"))
    for account, address in (("b", "1"), ("a", "2")):
        with pytest.raises(TooMany):
            tries.check(tries.login(account=account, address=address))


def test_an_hour_is_forgotten_and_so_is_the_oldest_of_many():
    clock = Clock()
    tries = Attempts(clock, Limits(account_failures=2, most_keys=6))
    tries.failed(tries.login(account="a", address="1"))
    clock.move(hours=2)
    tries.failed(tries.login(account="a", address="1"))
    tries.check(tries.login(account="a", address="1"))
    for number in range(10):
        tries.failed(tries.login(account=f"{number}", address=f"{number}"))
        tries.remember(account=f"{number}", address=f"{number}")
    assert len(tries._tries) == len(tries._known) == 6


def test_of_many_tries_at_once_so_many_are_looked_at_as_may_fail_for_nothing():
    tries = Attempts(Clock(), Limits(account_failures=3))
    keys = tries.login(account="a", address="1")
    with ExitStack() as under_way:
        for _ in range(3):
            under_way.enter_context(tries.trying(keys))
        with pytest.raises(TooMany, match="under way"), tries.trying(keys):
            pass
        for _ in range(3):
            tries.failed(keys)
    with pytest.raises(TooMany), tries.trying(keys):
        pass


def test_after_a_wait_one_try_at_a_time_is_looked_at():
    clock = Clock()
    tries = Attempts(clock, Limits(account_failures=2))
    keys = tries.login(account="a", address="1")
    for _ in range(2):
        tries.failed(keys)
    clock.move(seconds=31)
    with tries.trying(keys), pytest.raises(TooMany), tries.trying(keys):
        pass
    with tries.trying(keys):
        pass


def test_a_try_that_ends_well_or_in_a_defect_leaves_its_place():
    tries = Attempts(Clock(), Limits(account_failures=1, address_failures=1))
    keys = tries.login(account="a", address="1")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), tries.trying(keys):
            raise ZeroDivisionError
    assert not tries._under_way


def test_what_is_counted_whatever_comes_of_it_is_counted_before_the_next_is_looked_at():
    tries = Attempts(Clock(), Limits(taken=2))
    for _ in range(2):
        tries.counted(tries.taken(address="1"))
    with pytest.raises(TooMany):
        tries.counted(tries.taken(address="1"))


@pytest.mark.parametrize(("left_s", "told"), [(0.2, 1), (30.4, 31), (30.0, 30)])
def test_who_comes_back_when_told_is_not_too_early(left_s, told):
    assert TooMany(retry_after_s=left_s).retry_after_s == told
