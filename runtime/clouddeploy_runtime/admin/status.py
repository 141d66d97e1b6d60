"""What a session learns of the federation as its server sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ClientInfo:
    """One connected client."""

    name: str
    address: str
    connected_since: str
    jobs: tuple[str, ...]
    """Ids of those that run there, of the session's study."""
    other_jobs: int = 0
    """How many of other studies do."""
    silent_s: float | None = None
    """How long ago the server heard of it; None: the server does not say."""


@dataclass(frozen=True)
class SystemStatus:
    """The federation as its server sees it."""

    server: str
    clients: tuple[ClientInfo, ...]
    state: str = ""
    disabled: tuple[str, ...] = ()
    """Clients that are kept out."""
    jobs: tuple[str, ...] = ()
    """Ids of those that run, of the session's study."""
    other_jobs: int = 0
    """How many run of other studies."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Site → `total` and `free`, as it last said."""
    since: str = ""
    """When the server was started: another time after a restart. Empty: it does not say."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> SystemStatus:
        """Return what a server's answer says; of a newer server there may be more in it."""
        known = ClientInfo.__dataclass_fields__
        return cls(
            server=document.get("server", ""),
            clients=tuple(
                ClientInfo(**{**{key: one[key] for key in known if key in one}, "jobs": tuple(one["jobs"])})
                for one in document["clients"]
            ),
            state=document.get("state", ""),
            disabled=tuple(document.get("disabled", ())),
            jobs=tuple(one["job_id"] for one in document.get("jobs", ())),
            other_jobs=document.get("other_jobs", 0),
            resources=document.get("resources", {}),
            since=document.get("since", ""),
        )


@dataclass(frozen=True)
class OpenSession:
    """One session of one person at the server."""

    session: str
    """Its name, which is not its token."""
    user: str
    org: str
    role: str
    """In the study."""
    study: str
    address: str
    since: str
    """ISO 8601."""
    idle_s: float
    """Since its last call."""
