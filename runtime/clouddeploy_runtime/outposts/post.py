"""What every kind of outpost has in common: where a job's process runs that is none of this machine's."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from clouddeploy_runtime.launchers.base import BadLauncher

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.study_runtime import StudyRuntime

CREDENTIAL = "line.json"
"""In the folder that the outpost reads: see `line.Credential`."""
VARIABLE = "CLOUDDEPLOY_ERRAND"
"""Of the site's end of an outpost: its errand, as JSON; no secret is in it."""
AT_ONCE = signal.SIGUSR1
"""To `near` from a parent that waits no longer: the outpost is to be removed now. Some time later it is killed."""
FAR = ("-P", "-m", "clouddeploy_runtime.outposts.far")
"""What Python runs at the outpost; its argument is the path of the credential there."""


@dataclass(frozen=True)
class Errand:
    """One job's process, as its site hands it to `near`; JSON. Paths are the site's.

    Attributes:
        kind: of outpost: a launcher's name.
        settings: the launcher's arguments, checked, with `project` and `participant`.
        study: of the job; `local/study_runtime.yaml` says what its jobs get.
        wishes: of the job for this kind of launcher: its `launcher_spec`.
        gpus: that it takes, by its `resource_spec`; 0, as with the two after it: it does not say.
        cpus: likewise.
        memory_gib: likewise.
        environment: for the job's process.
        hidden: the kit and the workspace, where the outpost sees them too.
        is_confined: whether the kernel keeps the job to its files there.
    """

    kind: str
    settings: dict[str, Any]
    job_id: str
    role: str
    site: str
    sites: tuple[str, ...]
    app_dir: str
    run_dir: str
    local: str
    """The kit's `local` folder."""
    data_dir: str | None = None
    study: str = "default"
    wishes: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    gpus: int = 0
    cpus: int = 0
    memory_gib: float = 0.0
    hidden: tuple[str, ...] = ()
    is_confined: bool = True


@dataclass(frozen=True)
class Launch:
    """What `far` runs; JSON. Paths are the outpost's."""

    job_id: str
    role: str
    site: str
    sites: tuple[str, ...]
    app_dir: str
    run_dir: str
    data_dir: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    forwarded: tuple[str, ...] = ()
    """Variables of the outpost's own that the job gets too: secrets that the engine put there, unknown to the site."""
    code: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    is_confined: bool = True
    memory_bytes: int = 0
    """For parameters, at most; beyond it they become files. 0: what `tensor_memory` would give a site there."""


@dataclass(frozen=True)
class Way:
    """How the outpost reaches its site."""

    host: str
    """As the outpost sees it."""
    bind: str = ""
    ports: tuple[int, ...] = (0,)
    pending_s: float = 120.0
    """So long it may take until it calls."""
    poll_s: float = 1.0
    """How often the engine is asked what became of it."""


class Post(Protocol):
    """One job's place at one engine. Its methods are called by one thread."""

    @property
    def way(self) -> Way:
        """How it reaches its site."""

    @property
    def folder(self) -> Path:
        """Where the credential is written; the outpost alone reads it."""

    def open(self) -> Launch:
        """Starts the outpost, which then calls; returns what it is to run, as it sees the paths.

        Raises:
            RuntimeFault: the engine refuses, or is not there.
        """

    def problem(self) -> str:
        """Returns why it does not run, or not any more; empty while it may."""

    def stop(self) -> None:
        """Asks it to end, as the engine does; harmless when it has."""

    def close(self) -> None:
        """Ends it at once, and removes all that `open` made; harmless when repeated."""


def secrets(study: StudyRuntime, name: str) -> dict[str, str]:
    """Return a study's secret variables, whose values this process has under other names.

    Args:
        study: what its jobs get.
        name: the study's, for the error.

    Raises:
        BadLauncher: this process does not have one; names it.
    """
    found = {}
    for variable, one in study.secret_env.items():
        if one.source not in os.environ:
            raise BadLauncher(
                f"The study {name!r} has no {variable} here",
                why=f"the site's process has no variable {one.source}",
                hint="Set it for the site, or correct secret_env in local/study_runtime.yaml.",
            )
        found[variable] = os.environ[one.source]
    return found


def bad(launcher: str, key: str, *, wanted: str, value: Any) -> BadLauncher:
    """Return what a launcher says of an argument of the wrong kind."""
    return BadLauncher(
        f'"{key}" of {launcher}_launcher is {value!r}', why=f"it must be {wanted}", hint="Correct local/resources.json."
    )
