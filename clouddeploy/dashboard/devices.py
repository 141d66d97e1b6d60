"""Browsers that somebody has logged in with before, known by a signed cookie, so that strangers cannot lock them out.

Each has tries of its own: whoever steals the cookie gains a handful of guesses and no session (OWASP, "Slow Down Online
Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from clouddeploy.dashboard import key_file

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy.dashboard.desk import Desk

LASTS = timedelta(days=180)
_KEY = "device.key"
_KEY_BYTES = 32
_BYTES = 16
_PARTS = 3


def issue(desk: Desk, account: str) -> str:
    """Returns what a browser shows from now on that somebody has logged in with."""
    said = f"{secrets.token_urlsafe(_BYTES)}.{int(desk.now().timestamp())}"
    return f"{said}.{_mark(desk.folder, said, account)}"


def recognised(desk: Desk, shown: str, account: str) -> str:
    """Returns the name of the browser that shows this; empty: it never logged in to the account, or long ago."""
    parts = shown.split(".")
    if len(parts) != _PARTS or not (parts[1].isascii() and parts[1].isdecimal()):
        return ""
    name, since, mark = parts
    if not hmac.compare_digest(mark.encode(), _mark(desk.folder, f"{name}.{since}", account).encode()):
        return ""
    # Only what we signed is read as a number, so it is short.
    return name if desk.now().timestamp() - int(since) < LASTS.total_seconds() else ""


def _mark(folder: Path, said: str, account: str) -> str:
    return hmac.new(
        key_file.read(folder / _KEY, _new_key), f"{said}.{account}".encode(errors="surrogatepass"), hashlib.sha256
    ).hexdigest()


def _new_key() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)
