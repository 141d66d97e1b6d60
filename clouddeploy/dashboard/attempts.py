"""Slows down whoever guesses passwords: each failure makes the next try wait longer.

Strangers must not be able to lock somebody out with wrong passwords. So failures are counted for an account *at an
address*; those of all addresses together count only for who comes from where the account was never logged in to. A
browser that was logged in with before (`devices`) has tries of its own.

What counts is in memory, since it is asked for with every try; the database has a copy, so that a restart, which an
update of the machine does too, frees nobody.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from clouddeploy.dashboard import model
from clouddeploy.dashboard.errors import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from clouddeploy.dashboard.database import Database

_OWN_BITS = 64


@dataclass(frozen=True)
class Limits:
    """How much is allowed."""

    account_failures: int = 5
    """So many wrong passwords in a row for one account cost nothing: from one address, or with one known browser."""
    address_failures: int = 30
    """Of one address, whatever the accounts; many people may share one."""
    strange_failures: int = 20
    """For one account from all addresses that it was never logged in to from, so that many addresses together do not
    guess either."""
    sign_ups: int = 30
    """From one address; a class of students may share one."""
    taken: int = 5
    """Sign-ups from one address for an e-mail address that has an account: the answer says so, and nobody is to find
    out about many."""
    first_wait_s: float = 30
    """After the next failure; it doubles with each further one."""
    longest_wait_s: float = 900
    """Nobody is kept waiting for longer than this."""
    forget_s: float = 3600
    """A failure that was so long ago does not count any more."""
    most_keys: int = 10_000
    """Of what is counted, and of known places; the oldest go first."""
    known_s: float = 180 * 86400
    """So long an address is known after the last login from it."""


Keys = tuple[tuple[str, int], ...]
"""What a try counts for, and how many of its failures cost nothing."""
_DAY_S = 86400.0
_SOON_S = 1.0
"""A try takes about 0.1 s."""


@dataclass
class _Tries:
    failures: int = 0
    last: float = 0
    locked_until: float = 0


@dataclass
class Attempts:
    """Remembers failures; safe for several threads.

    Attributes:
        now: the clock.
        limits: how much is allowed.
        database: where a copy is kept; None: nowhere. No transaction of the same thread may have written anything when
            a failure is counted: SQLite lets one write at a time.
    """

    now: Callable[[], datetime]
    limits: Limits = field(default_factory=Limits)
    database: Database | None = None

    def __post_init__(self) -> None:
        """Begin with what is kept of the last hour."""
        self._tries: OrderedDict[str, _Tries] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()
        if self.database is None:
            return
        now = self.now().timestamp()
        with self.database.begin() as db:
            db.execute(delete(model.Attempt).where(model.Attempt.last < now - self.limits.forget_s))
            for one in db.scalars(select(model.Attempt).order_by(model.Attempt.last)):
                self._tries[one.digest] = _Tries(one.failures, one.last, one.locked_until)
            db.execute(delete(model.KnownPlace).where(model.KnownPlace.last < now - self.limits.known_s))
            for place in db.scalars(select(model.KnownPlace).order_by(model.KnownPlace.last)):
                self._known[place.digest] = place.last

    def login(self, *, account: str, address: str, device: str = "") -> Keys:
        """Returns what a login counts for.

        Args:
            account: what was typed.
            address: from where.
            device: name of a browser that was logged in with before; empty: none that is known.
        """
        limits, place = self.limits, place_of(address)
        if device:
            return ((_key("device", f"{account} {device}"), limits.account_failures),)
        here = _key("place", f"{account} {place}")
        with self._lock:
            seen = self._known.get(here)
        if seen is not None and self.now().timestamp() - seen < limits.known_s:
            return ((here, limits.account_failures),)
        return (
            (here, limits.account_failures),
            (_key("address", place), limits.address_failures),
            (_key("account", account), limits.strange_failures),
        )

    def sign_up(self, *, address: str) -> Keys:
        """Returns what a sign-up counts for; nothing that a login does."""
        return ((_key("sign-up", place_of(address)), self.limits.sign_ups),)

    def taken(self, *, address: str) -> Keys:
        """Returns what a sign-up counts for besides that finds the e-mail address taken."""
        return ((_key("taken", place_of(address)), self.limits.taken),)

    def proof(self, *, account: str) -> Keys:
        """Returns what it counts for when somebody who is logged in shows again who they are; no stranger can."""
        return ((_key("proof", account), self.limits.account_failures),)

    def check(self, keys: Keys) -> None:
        """Refuses a try that comes too early.

        Raises:
            TooMany: says when the next one counts.
        """
        with self._lock:
            self._check(keys, self.now().timestamp())

    @contextmanager
    def trying(self, keys: Keys) -> Iterator[None]:
        """Refuses a try that comes too early, before its password is looked at; until its end it counts as a failure.

        Whoever sends many at once would else have all of them looked at before the first has failed. `failed` is to be
        called within.

        Raises:
            TooMany: says when the next one counts.
        """
        with self._lock:
            now = self.now().timestamp()
            self._check(keys, now)
            if any(not self._has_place(key, free, now) for key, free in keys):
                raise TooMany(why="others are under way", retry_after_s=_SOON_S)
            self._under_way.update(key for key, _ in keys)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.subtract(key for key, _ in keys)
                self._under_way = +self._under_way

    def counted(self, keys: Keys) -> None:
        """Refuses a try that comes too early, else counts it, whatever comes of it.

        Raises:
            TooMany: says when the next one counts.
        """
        with self._lock:
            self._check(keys, self.now().timestamp())
            self._count(keys)

    def failed(self, keys: Keys) -> None:
        """Counts a failure."""
        with self._lock:
            self._count(keys)

    def _check(self, keys: Keys, now: float) -> None:
        until = max((one.locked_until for key, _ in keys if (one := self._tries.get(key))), default=0.0)
        if until > now:
            raise TooMany(retry_after_s=until - now)

    def _has_place(self, key: str, free: int, now: float) -> bool:
        """Tells whether one more try may be under way: one always, others while all together cost nothing."""
        one = self._tries.get(key)
        failures = one.failures if one is not None and now - one.last <= self.limits.forget_s else 0
        under_way = self._under_way[key]
        return not under_way or failures + under_way < free

    def _count(self, keys: Keys) -> None:
        now, limits = self.now().timestamp(), self.limits
        for key, free in keys:
            one = self._tries.pop(key, None) or _Tries()
            if now - one.last > limits.forget_s:
                one = _Tries()
            one.failures, one.last = one.failures + 1, now
            over = one.failures - free
            if over >= 0:
                # Capped before the power: thousands of failures must not make a number of thousands of digits.
                one.locked_until = now + min(limits.longest_wait_s, limits.first_wait_s * 2 ** min(over, 20))
            self._tries[key] = one
            self._keep(key, one)
        while len(self._tries) > limits.most_keys:
            self._drop(self._tries.popitem(last=False)[0])

    def succeeded(self, keys: Keys) -> None:
        """Forgets the failures of an account at an address or with a browser, which come first.

        Those of the address stay, or one good account would free it, and so do those of strangers for the account.
        """
        key = keys[0][0]
        with self._lock:
            if self._tries.pop(key, None) is not None:
                self._drop(key)

    def remember(self, *, account: str, address: str) -> None:
        """Keeps in mind that somebody has logged in to an account from an address."""
        here, now = _key("place", f"{account} {place_of(address)}"), self.now().timestamp()
        with self._lock:
            seen = self._known.pop(here, None)
            is_new = seen is None or now - seen > _DAY_S  # not every login is a write
            self._known[here] = now if seen is None or is_new else seen
            over = self._known.popitem(last=False)[0] if len(self._known) > self.limits.most_keys else ""
            if self.database is None or not is_new:
                return
            with self.database.begin() as db:
                db.merge(model.KnownPlace(digest=here, last=now))
                db.execute(delete(model.KnownPlace).where(model.KnownPlace.digest == over))

    def _keep(self, key: str, one: _Tries) -> None:
        if self.database is not None:
            row = model.Attempt(digest=key, failures=one.failures, last=one.last, locked_until=one.locked_until)
            with self.database.begin() as db:
                db.merge(row)

    def _drop(self, key: str) -> None:
        if self.database is not None:
            with self.database.begin() as db:
                db.execute(delete(model.Attempt).where(model.Attempt.digest == key))


def place_of(address: str) -> str:
    """Returns what counts as one address: whoever has one of IPv6 has all of its network (RFC 6177 §2)."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), _OWN_BITS), strict=False))


def _key(kind: str, value: str) -> str:
    """Returns what stands for what is counted: short, whatever somebody typed, and telling nobody."""
    return hashlib.sha256(f"{kind} {value}".encode(errors="surrogatepass")).hexdigest()
