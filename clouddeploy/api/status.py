"""What the API returns: the state of the federation, and why watching a job ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from clouddeploy.api import markup


class MonitorReturnCode(IntEnum):
    """Why `monitor_job` returned."""

    JOB_FINISHED = 0
    TIMEOUT = 1
    ENDED_BY_CB = 2
    """The callback returned something false."""


class TargetType(StrEnum):
    """Whom a call is for; the plain words do as well."""

    ALL = "all"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class ServerInfo:
    """The server."""

    status: str
    """`serving`, or `stopping`."""
    start_time: float | None
    """In seconds since 1970; None: not known."""

    def __str__(self) -> str:
        return f"status: {self.status}, start_time: {_told(self.start_time)}"

    def _repr_html_(self) -> str:
        return markup.record({"status": self.status, "start_time": _told(self.start_time)}, title="Server")


@dataclass(frozen=True)
class ClientInfo:
    """A connected client."""

    name: str
    last_connect_time: float | None
    """In seconds since 1970; None: not known."""
    address: str = ""
    jobs: tuple[str, ...] = ()
    """Ids of the jobs that run there."""

    def __str__(self) -> str:
        return f"{self.name}(last_connect_time: {_told(self.last_connect_time)})"


@dataclass(frozen=True)
class JobInfo:
    """A job that runs."""

    job_id: str
    app_name: str
    """The job's name."""

    def __str__(self) -> str:
        return f"JobInfo:\n  job_id: {self.job_id}\n  app_name: {self.app_name}"


@dataclass(frozen=True)
class SystemInfo:
    """The federation as its server sees it."""

    server_info: ServerInfo
    client_info: list[ClientInfo]
    job_info: list[JobInfo]

    def __str__(self) -> str:
        clients, jobs = "\n".join(map(str, self.client_info)), "\n".join(map(str, self.job_info))
        return f"SystemInfo\nserver_info:\n{self.server_info}\nclient_info:\n{clients}\njob_info:\n{jobs}"

    def _repr_html_(self) -> str:
        clients = [(one.name, one.address, _told(one.last_connect_time), len(one.jobs)) for one in self.client_info]
        jobs = [(one.job_id, one.app_name) for one in self.job_info]
        return (
            self.server_info._repr_html_()
            + markup.table(("client", "address", "connected since", "jobs"), clients, title="Connected clients")
            + markup.table(("id", "name"), jobs, title="Running jobs")
        )


def moment(text: str) -> float | None:
    """Return a time as the server writes it in seconds since 1970; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _told(seconds: float | None) -> str:
    return "unknown" if seconds is None else time.asctime(time.localtime(seconds))
