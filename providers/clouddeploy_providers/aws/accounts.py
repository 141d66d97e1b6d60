"""Whose account the credentials are of: in another one every id is unknown, which must not be taken for gone."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import AccessDenied

if TYPE_CHECKING:
    from clouddeploy_providers.resources import ResourceRef

ACCOUNT = "account"
"""The output that says where a resource is; states of before lack it."""


class Account:
    """The account, asked for when it first matters; may be used from several threads.

    Args:
        sts: the client.
    """

    def __init__(self, sts: Any) -> None:
        self._sts = sts
        self._lock = threading.Lock()
        self._number = ""

    def number(self) -> str:
        """Returns the account's number, asking once."""
        with self._lock:
            self._number = self._number or self.ask()
            return self._number

    def ask(self) -> str:
        """Returns the account's number, always asking, so that credentials that have expired meanwhile are noticed."""
        with translated("AWS does not accept the credentials"):
            return str(self._sts.get_caller_identity()["Account"])

    def marked(self, ref: ResourceRef) -> ResourceRef:
        """Returns the reference with the account among its outputs."""
        return replace(ref, outputs={**ref.outputs, ACCOUNT: self.number()})

    def require(self, ref: ResourceRef, verb: str) -> None:
        """Refuses what is recorded in another account.

        Raises:
            AccessDenied: names both accounts.
        """
        there = ref.outputs.get(ACCOUNT)
        if there and there != self.number():
            raise AccessDenied(
                f"cannot {verb} {ref.name} with these credentials",
                why=f"it is in the AWS account {there}, and they are of {self.number()}",
                hint=f"use credentials of {there}: AWS_PROFILE, or `profile` in the deploy file",
            )
