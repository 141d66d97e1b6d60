"""The arguments of `slurm_launcher`, and what a job may ask of it, checked; the scheduler is not asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.post import bad
from clouddeploy_runtime.study_runtime import RESERVED_VARIABLES, SANDBOXES, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTIVES = ("partition", "account", "qos", "time", "constraint", "reservation")
"""Options of sbatch that a site may set; the others are the launcher's, or the job's."""
EXECUTABLES = ("sbatch", "scontrol", "squeue", "sacct", "scancel", "apptainer", "srun")
"""The first five run here, the last two on a node."""
WISHES = ("image", "nodes", "gpus_per_node", "cpus_per_node", "mem_per_node", "time", "pending_timeout")
"""What a job may say of its batch job; `mem_per_node` is in MiB."""
_DIRECTIVE = re.compile(r"[!-~]{1,256}")
"""One word: what has a space or a line's end would be read as more than one option."""
_TIME = re.compile(r"[0-9]{1,5}(-[0-9]{1,2}(:[0-9]{1,2}){0,2}|(:[0-9]{1,2}){0,2})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:%-]{0,253})")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MAX_PORT = 65_535
_PORTS_OF_ONE = 100
"""So many, from the one that is named on: each job that waits for its start takes one."""
_OF_PATH = re.compile(r"/[^\0-\x1f,:]*")
"""A mount is told in one word, its parts separated by colons and commas."""


@dataclass(frozen=True)
class SlurmSettings:
    """The arguments of the launcher.

    Attributes:
        sandbox: what a job runs in on its node: `none`, `apptainer` or `pyxis`.
        python_path: of Python with the runtime, on a node, or in the image.
        image: of jobs that name none, and whose study names none; a file that nodes see.
        workspace_path: folder that this site and the nodes share, where its jobs are; empty: not checked.
        parent_host: this site as nodes see it; empty: found out.
        internal_port: ports where it listens for its jobs.
        sbatch_directives: options of `sbatch`.
        setup: lines that run on the node first, such as `module load`.
        forward_env: variables of the node, or of `setup`, that the job gets too.
        executables: where the programs are that are not in PATH.
        submit_timeout: seconds.
        query_timeout: seconds.
        cancel_timeout: seconds.
        poll_interval: seconds between two looks at a batch job that has not started.
        pending_timeout: so many seconds a batch job may wait for its turn.
        multi_node_port_range: of jobs on several nodes: one of these ports is MASTER_PORT.
    """

    sandbox: str
    python_path: str
    image: str = ""
    workspace_path: str = ""
    parent_host: str = ""
    internal_port: str = "8102"
    sbatch_directives: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    forward_env: tuple[str, ...] = ()
    executables: Mapping[str, str] = field(default_factory=dict)
    submit_timeout: float = 30.0
    query_timeout: float = 10.0
    cancel_timeout: float = 10.0
    poll_interval: float = 10.0
    pending_timeout: float = 600.0
    multi_node_port_range: str = "29400-30399"

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports to choose from."""
        match = _PORTS.fullmatch(self.internal_port)
        if match is None:
            return (0,)
        last = int(match[2]) if match[2] else min(int(match[1]) + _PORTS_OF_ONE - 1, _MAX_PORT)
        return tuple(range(int(match[1]), last + 1))


@dataclass(frozen=True)
class Wishes:
    """What a job asks of its batch job; zero and empty: it does not say."""

    image: str = ""
    nodes: int = 1
    gpus: int = 0
    """On each node."""
    cpus: int = 0
    memory_mib: int = 0
    time: str = ""
    pending_timeout: float = 0.0


def parse(arguments: Mapping[str, Any]) -> SlurmSettings:
    """Read the arguments.

    Raises:
        BadLauncher: one is not known, is missing, or is of the wrong kind; names it.
    """
    known = SlurmSettings.__dataclass_fields__
    for key, value in arguments.items():
        if key not in known:
            raise bad("slurm", key, wanted=f"left out: the launcher knows {', '.join(known)}", value=value)
    sandbox = arguments.get("sandbox")
    if sandbox not in SANDBOXES:
        raise bad("slurm", "sandbox", wanted=f"one of {', '.join(SANDBOXES)}", value=sandbox)
    times = ("submit_timeout", "query_timeout", "cancel_timeout", "poll_interval", "pending_timeout")
    return SlurmSettings(
        sandbox=sandbox,
        python_path=_path(arguments, "python_path", is_needed=True),
        image=_path(arguments, "image"),
        workspace_path=_path(arguments, "workspace_path"),
        parent_host=_matching(arguments, "parent_host", _HOST, "a host's name or address"),
        internal_port=_ports(arguments, "internal_port", SlurmSettings.internal_port),
        sbatch_directives=_directives(arguments),
        setup=_setup(arguments),
        forward_env=_names(arguments),
        executables=_executables(arguments),
        multi_node_port_range=_ports(arguments, "multi_node_port_range", SlurmSettings.multi_node_port_range),
        **{key: _seconds(arguments, key, getattr(SlurmSettings, key)) for key in times},
    )


def wishes(given: Mapping[str, Any], settings: SlurmSettings) -> Wishes:
    """Read what a job asks of its batch job.

    Raises:
        BadLauncher: it asks for what this site does not grant; names it.
    """
    for key, value in given.items():
        if key not in WISHES:
            raise _ungranted(key, value, f"it can say {', '.join(WISHES)}")
    image, time = given.get("image", ""), given.get("time", "")
    if image and not (isinstance(image, str) and _OF_PATH.fullmatch(image)):
        raise _ungranted("image", image, "it must be the absolute path of a file")
    text = str(time) if isinstance(time, int) and not isinstance(time, bool) else time
    if text and not (isinstance(text, str) and _TIME.fullmatch(text)):
        raise _ungranted("time", time, "it must be a time as sbatch takes it, like 1-12:00:00")
    pending = given.get("pending_timeout", settings.pending_timeout)
    if isinstance(pending, bool) or not isinstance(pending, int | float) or not 0 < pending <= settings.pending_timeout:
        raise _ungranted("pending_timeout", pending, f"it may be up to the site's, {settings.pending_timeout:g} s")
    return Wishes(
        image=image,
        nodes=_count(given, "nodes") or 1,
        gpus=_count(given, "gpus_per_node"),
        cpus=_count(given, "cpus_per_node"),
        memory_mib=_count(given, "mem_per_node"),
        time=text,
        pending_timeout=float(pending),
    )


def _ungranted(key: str, value: Any, why: str) -> BadLauncher:
    return BadLauncher(
        f"The job's launcher_spec has {key} {value!r} for slurm", why=why, hint="Change it, or ask the site."
    )


def _count(given: Mapping[str, Any], key: str) -> int:
    value = given.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _ungranted(key, value, "it must be a whole number from 1")
    return value


def _path(arguments: Mapping[str, Any], key: str, *, is_needed: bool = False) -> str:
    value = arguments.get(key) or ""
    if not value and not is_needed:
        return ""
    if not isinstance(value, str) or _OF_PATH.fullmatch(value) is None:
        raise bad("slurm", key, wanted="an absolute path, without commas and colons", value=value)
    return value


def _matching(arguments: Mapping[str, Any], key: str, pattern: re.Pattern[str], wanted: str) -> str:
    value = arguments.get(key) or ""
    if value and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise bad("slurm", key, wanted=wanted, value=value)
    return str(value)


def _ports(arguments: Mapping[str, Any], key: str, usual: str) -> str:
    value = arguments.get(key, usual)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _PORTS.fullmatch(text) if isinstance(text, str) else None
    if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) <= _MAX_PORT:
        raise bad("slurm", key, wanted='a port, or a range of them like "8102-8199"', value=value)
    return match[0]


def _directives(arguments: Mapping[str, Any]) -> Mapping[str, str]:
    found = {}
    for key, value in _object(arguments, "sbatch_directives").items():
        where = f"sbatch_directives.{key}"
        if key not in DIRECTIVES:
            raise bad("slurm", where, wanted=f"left out: a site can set {', '.join(DIRECTIVES)}", value=value)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int) or _DIRECTIVE.fullmatch(str(value)) is None:
            raise bad("slurm", where, wanted="one word", value=value)
        found[key] = str(value)
    return found


def word(key: str, value: str) -> str:
    """Return what a study sets as an option of sbatch, which is one word.

    Raises:
        BadLauncher: it is none.
    """
    if _DIRECTIVE.fullmatch(value) is None:
        raise BadLauncher(
            f"slurm.{key} of a study is {value!r}", why="it must be one word", hint="Correct local/study_runtime.yaml."
        )
    return value


def _setup(arguments: Mapping[str, Any]) -> str:
    value = arguments.get("setup") or ""
    if not isinstance(value, str) or "\0" in value:
        raise bad("slurm", "setup", wanted="lines of a shell script", value=value)
    return value


def _names(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    value = arguments.get("forward_env") or []
    if not isinstance(value, list | tuple) or not all(
        isinstance(one, str) and VARIABLE.fullmatch(one) for one in value
    ):
        raise bad("slurm", "forward_env", wanted="a list of names of variables", value=value)
    for name in value:
        if RESERVED_VARIABLES.fullmatch(name) and name != "LD_LIBRARY_PATH":  # which modules set
            raise bad("slurm", "forward_env", wanted=f"without {name}, which the launcher sets", value=value)
    return tuple(value)


def _executables(arguments: Mapping[str, Any]) -> Mapping[str, str]:
    found = {}
    for name, value in _object(arguments, "executables").items():
        if name not in EXECUTABLES:
            raise bad(
                "slurm", f"executables.{name}", wanted=f"left out: there are {', '.join(EXECUTABLES)}", value=value
            )
        if not isinstance(value, str) or _OF_PATH.fullmatch(value) is None:
            raise bad("slurm", f"executables.{name}", wanted="an absolute path", value=value)
        found[name] = value
    return found


def _object(arguments: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = arguments.get(key) or {}
    if not isinstance(value, dict):
        raise bad("slurm", key, wanted="an object", value=value)
    return value


def _seconds(arguments: Mapping[str, Any], key: str, usual: float) -> float:
    value = arguments.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise bad("slurm", key, wanted="seconds above 0", value=value)
    return float(value)
