"""Slows down whoever guesses passwords: by account, and by address, each failure makes the next try wait longer.

What counts is in memory, since it is asked for with every try; the database has a copy, so that a restart, which an
update of the machine does too, frees nobody.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from clouddeploy.dashboard import model
from clouddeploy.dashboard.errors import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from clouddeploy.dashboard.database import Database

_OWN_BITS = 64


@dataclass(frozen=True)
class Limits:
    """How much is allowed."""

    account_failures: int = 5
    """So many wrong passwords in a row cost nothing."""
    address_failures: int = 30
    """Of one address, whatever the accounts; many people may share one."""
    first_wait_s: float = 30
    """After the next failure; it doubles with each further one."""
    longest_wait_s: float = 900
    """Nobody can lock somebody else's account for longer than this."""
    forget_s: float = 3600
    """A failure that was so long ago does not count any more."""
    most_keys: int = 10_000
    """Accounts and addresses that are remembered; the oldest go first."""


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
        self._lock = threading.Lock()
        if self.database is None:
            return
        bound = self.now().timestamp() - self.limits.forget_s
        with self.database.begin() as db:
            db.execute(delete(model.Attempt).where(model.Attempt.last < bound))
            for one in db.scalars(select(model.Attempt).order_by(model.Attempt.last)):
                self._tries[one.digest] = _Tries(one.failures, one.last, one.locked_until)

    def check(self, *, account: str, address: str) -> None:
        """Refuses a try that comes too early, before its password is looked at.

        Raises:
            TooMany: says when the next one counts.
        """
        now = self.now().timestamp()
        with self._lock:
            until = max(
                (one.locked_until for key, _ in self._keys(account, address) if (one := self._tries.get(key))),
                default=0.0,
            )
        if until > now:
            raise TooMany(retry_after_s=until - now)

    def failed(self, *, account: str, address: str) -> None:
        """Counts a failure."""
        now, limits = self.now().timestamp(), self.limits
        with self._lock:
            for key, free in self._keys(account, address):
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

    def succeeded(self, *, account: str) -> None:
        """Forgets an account's failures; those of the address stay, or one good account would free it."""
        key = _key("account", account)
        with self._lock:
            if self._tries.pop(key, None) is not None:
                self._drop(key)

    def _keys(self, account: str, address: str) -> tuple[tuple[str, int], ...]:
        return (
            (_key("account", account), self.limits.account_failures),
            (_key("address", _place(address)), self.limits.address_failures),
        )

    def _keep(self, key: str, one: _Tries) -> None:
        if self.database is not None:
            row = model.Attempt(digest=key, failures=one.failures, last=one.last, locked_until=one.locked_until)
            with self.database.begin() as db:
                db.merge(row)

    def _drop(self, key: str) -> None:
        if self.database is not None:
            with self.database.begin() as db:
                db.execute(delete(model.Attempt).where(model.Attempt.digest == key))


def _place(address: str) -> str:
    """Returns what counts as one address: whoever has one of IPv6 has all of its network (RFC 6177 §2)."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), _OWN_BITS), strict=False))


def _key(kind: str, value: str) -> str:
    """Returns what stands for an account or an address: short, whatever somebody typed, and telling nobody."""
    return hashlib.sha256(f"{kind} {value}".encode(errors="surrogatepass")).hexdigest()
