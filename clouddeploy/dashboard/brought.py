"""What the running server knows of revocations, for the page of certificates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Brought:
    """How far it is.

    Attributes:
        list_pem: the list that the server has, as far as is known; empty: none.
        why: why it does not have the newest one; empty: it does, or nothing is revoked.
    """

    list_pem: bytes = b""
    why: str = ""
