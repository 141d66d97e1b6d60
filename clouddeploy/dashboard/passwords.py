"""Passwords: what is demanded of one, how it is kept (argon2id), and how it is checked without telling who exists."""

from __future__ import annotations

import secrets
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from clouddeploy.dashboard.errors import Invalid

MIN_LENGTH = 12
MAX_LENGTH = 256
"""Signs; hashing a longer one would only serve to keep the dashboard busy."""
_MIN_DIFFERENT = 5
_MADE_BYTES = 15
_TOGETHER = 4
"""Hashes at once; each takes 64 MiB, and whoever sends many logins must not get all the memory."""
_MIN_NAME = 4
"""Signs of an e-mail's first part that a password must not hold; a shorter one is in too many."""


class Passwords:
    """Hashes and checks.

    Args:
        hasher: argon2's; the default is RFC 9106's second recommendation, about 0.1 s and 64 MiB each time.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._places = BoundedSemaphore(_TOGETHER)
        # Not when it is first needed: that one answer would take twice as long.
        self._nobodys = self._hasher.hash(made())

    def hash(self, password: str) -> str:
        """Returns what is kept."""
        with self._places:
            return self._hasher.hash(password)

    def is_right(self, known: str | None, password: str) -> bool:
        """Tells whether a password is the one of a hash.

        Args:
            known: the hash; None: there is no such account, which takes as long to find out as a wrong password.
            password: what was typed.
        """
        try:
            with self._places:
                self._hasher.verify(known or self._nobodys, password[:MAX_LENGTH])
        except (VerificationError, InvalidHashError):
            return False
        return known is not None

    def is_worn(self, known: str) -> bool:
        """Tells whether a hash was made with other parameters than those of now."""
        return self._hasher.check_needs_rehash(known)


def check(password: str, *, email: str) -> None:
    """Refuses a password that is guessed too easily.

    Raises:
        Invalid: says what is demanded.
    """
    why = ""
    low, name = password.lower(), email.lower().partition("@")[0]
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        why = f"it has {len(password)} signs, {MIN_LENGTH} to {MAX_LENGTH} are demanded"
    elif email.lower() in low or (len(name) >= _MIN_NAME and name in low):
        why = "the e-mail address is in it"
    elif len(set(low)) < _MIN_DIFFERENT:
        why = f"it has fewer than {_MIN_DIFFERENT} different signs"
    if why:
        raise Invalid("the password is refused", why=why, hint="a sentence of a few words is easy to remember")


def made() -> str:
    """Returns a random password of 120 bits."""
    return secrets.token_urlsafe(_MADE_BYTES)
