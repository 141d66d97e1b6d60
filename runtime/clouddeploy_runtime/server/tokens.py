"""What a server hands out: tokens that stand for a session, and numbers that are good once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import keys

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTEXT = "clouddeploy token 1"
_VALID_S = 60.0
_RANDOM_BYTES = 16
_STAMP_BYTES = 8


def new() -> str:
    """Return a fresh token."""
    return secrets.token_urlsafe(32)


def fingerprint(token: str) -> str:
    """Return what a log may show of a token: it identifies, but does not authorise."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


def sign(key: keys.PrivateKey, *, name: str, token: str, instance: str) -> bytes:
    """Sign a token for the process that it is given to.

    Args:
        key: of the server's kit.
        name: the site's.
        token: the session's.
        instance: of the site's process.
    """
    return keys.sign(key, _signed(name, token, instance))


def is_genuine(key: object, signature: bytes, *, name: str, token: str, instance: str) -> bool:
    """Tell whether the holder of a server's public key gave this token to this process of this site."""
    return keys.is_signed_by(key, signature, _signed(name, token, instance))


def _signed(name: str, token: str, instance: str) -> bytes:
    return msgspec.msgpack.encode((_CONTEXT, name, token, instance))


class Challenges:
    """Numbers for others to sign, each good once within a minute.

    Nothing is kept for a number that nobody used, so asking for many costs the server no memory.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._used: dict[bytes, float] = {}

    def issue(self) -> bytes:
        """Return a fresh number."""
        stamp = int(self._clock() * 1000).to_bytes(_STAMP_BYTES, "big")
        body = stamp + secrets.token_bytes(_RANDOM_BYTES)
        return body + self._seal(body)

    def use(self, number: bytes) -> bool:
        """Tell whether this number was given out here, in the last minute, and not used before; now it is."""
        body, seal = number[: _STAMP_BYTES + _RANDOM_BYTES], number[_STAMP_BYTES + _RANDOM_BYTES :]
        now = self._clock()
        self._used = {one: until for one, until in self._used.items() if until > now}
        if not hmac.compare_digest(seal, self._seal(body)) or number in self._used:
            return False
        age = now - int.from_bytes(body[:_STAMP_BYTES], "big") / 1000
        if age > _VALID_S:
            return False
        self._used[number] = now + _VALID_S
        return True

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")
