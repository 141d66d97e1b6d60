"""A command of a person as the server's parts see it: who asks for what, and what right that takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from clouddeploy_runtime.errors import InvalidCommand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from clouddeploy_runtime.tls import Peer


@dataclass(frozen=True)
class Call:
    """Who asks, and for what."""

    peer: Peer
    job_id: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    may_bring_code: bool = False
    signed: bytes = b""
    """What the asker signed of a command that changes something; checked."""
    study: str = "default"
    """Of the asker's session."""
    role: str = ""
    """The asker's in that study; `peer` has the certificate's."""

    def text(self, name: str, usual: str = "") -> str:
        """Return an argument that is text.

        Raises:
            InvalidCommand: it is none.
        """
        value = self.arguments.get(name, usual)
        if not isinstance(value, str):
            raise InvalidCommand("The command cannot be used", why=f"its {name!r} must be text, and is {value!r}")
        return value

    def number(self, name: str, usual: float = 0) -> float:
        """Return an argument that is a number from 0.

        Raises:
            InvalidCommand: it is none.
        """
        value = self.arguments.get(name, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InvalidCommand("The command cannot be used", why=f"its {name!r} must be a number, and is {value!r}")
        return value


class Command(NamedTuple):
    """One entry of the table."""

    right: str
    """As `authorization` knows it."""
    handle: Callable[[Call], Awaitable[Any]]
    is_for_job: bool = False
    """The right is then a question of whose job it is."""
    is_watching: bool = False
    """Changes nothing and is asked over and over."""
    is_signed: bool = False
    """It changes something, so it carries the asker's signature."""
    is_passed_on: bool = False
    """Whoever is asked looks into its own policy, the server too when it is; the server's does not speak for sites."""
    needs_code_right: bool = False
    """The answer depends on the right `byoc` too."""
    subject: str = ""
    """The argument whose text the audit log has beside the right, as that of a job command has the job's id."""
