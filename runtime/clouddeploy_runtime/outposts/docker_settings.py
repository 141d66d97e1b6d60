"""The arguments of `docker_launcher`, checked; no engine is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.outposts.post import bad
from clouddeploy_runtime.study_runtime import REFUSED_KWARGS

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVERS = ("nvidia", "cdi", "none")
PULLS = ("missing", "never")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MAX_PORT = 65_535


@dataclass(frozen=True)
class DockerSettings:
    """The arguments of the launcher.

    Attributes:
        image: of jobs that name none, and whose study names none; empty: the one that the parent itself runs in.
        network: that jobs are in; empty: the engine's default. Best one of the federation's own.
        default_python_path: of Python in the image.
        default_job_env: variables of every job.
        default_job_container_kwargs: further options of every job's container, as the engine's Python client has them.
        parent_host: the parent as a job's container sees it; empty: found out.
        internal_port: the ports where it listens for its jobs, each job on one; empty: any.
        pending_timeout: so many seconds a container may take to start, its image being there.
        pull: whether an image that is missing is fetched.
        job_images: patterns, as a shell has them: what images a job may choose. Empty: any, given the right to byoc.
        gpu_driver: how the engine is asked for GPUs; `none`: its containers have them without being asked.
    """

    image: str = ""
    network: str = ""
    default_python_path: str = "/usr/local/bin/python"
    default_job_env: Mapping[str, str] = field(default_factory=dict)
    default_job_container_kwargs: Mapping[str, Any] = field(default_factory=dict)
    parent_host: str = ""
    internal_port: str = ""
    pending_timeout: float = 120.0
    pull: str = "missing"
    job_images: tuple[str, ...] = ()
    gpu_driver: str = "nvidia"

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports to choose from; 0: any."""
        match = _PORTS.fullmatch(self.internal_port)
        return (0,) if match is None else tuple(range(int(match[1]), int(match[2] or match[1]) + 1))


def parse(arguments: Mapping[str, Any]) -> DockerSettings:
    """Read the arguments.

    Raises:
        BadLauncher: one is not known, or of the wrong kind; names it.
    """
    known = DockerSettings.__dataclass_fields__
    for key, value in arguments.items():
        if key not in known:
            raise bad("docker", key, wanted=f"left out: the launcher knows {', '.join(known)}", value=value)
    usual = DockerSettings()
    texts = {key: _line(arguments, key, getattr(usual, key)) for key in ("image", "network", "parent_host")}
    return DockerSettings(
        **texts,
        default_python_path=_path(arguments, "default_python_path", usual.default_python_path),
        default_job_env=_variables(arguments, "default_job_env"),
        default_job_container_kwargs=_kwargs(arguments, "default_job_container_kwargs"),
        internal_port=_ports(arguments, "internal_port"),
        pending_timeout=_seconds(arguments, "pending_timeout", usual.pending_timeout),
        pull=_one_of(arguments, "pull", PULLS),
        job_images=_lines(arguments, "job_images"),
        gpu_driver=_one_of(arguments, "gpu_driver", DRIVERS),
    )


def _line(arguments: Mapping[str, Any], key: str, usual: str) -> str:
    value = arguments.get(key, usual)
    if not isinstance(value, str) or not value.isprintable() or value.startswith("-"):
        raise bad("docker", key, wanted="one line of text", value=value)
    return value


def _path(arguments: Mapping[str, Any], key: str, usual: str) -> str:
    value = _line(arguments, key, usual)
    if not value.startswith("/"):
        raise bad("docker", key, wanted="an absolute path", value=value)
    return value


def _lines(arguments: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = arguments.get(key, [])
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one.isprintable() for one in value):
        raise bad("docker", key, wanted="a list of texts", value=value)
    return tuple(value)


def _variables(arguments: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = arguments.get(key, {})
    is_good = isinstance(value, dict) and all(
        isinstance(name, str) and _VARIABLE.fullmatch(name) and isinstance(text, str) and "\0" not in text
        for name, text in value.items()
    )
    if not is_good:
        raise bad("docker", key, wanted="an object of variables and their texts", value=value)
    return dict(value)


def _kwargs(arguments: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = arguments.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise bad("docker", key, wanted="an object of options", value=value)
    for name in REFUSED_KWARGS & set(value):
        raise bad("docker", f"{key}.{name}", wanted="left out: the launcher sets it", value=value[name])
    return dict(value)


def _ports(arguments: Mapping[str, Any], key: str) -> str:
    value = arguments.get(key, "")
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _PORTS.fullmatch(text) if isinstance(text, str) else None
    if text and (match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) <= _MAX_PORT):
        raise bad("docker", key, wanted='a port, or a range of them like "8102-8199"', value=value)
    return str(text)


def _seconds(arguments: Mapping[str, Any], key: str, usual: float) -> float:
    value = arguments.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise bad("docker", key, wanted="seconds above 0", value=value)
    return float(value)


def _one_of(arguments: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = arguments.get(key, known[0])
    if value not in known:
        raise bad("docker", key, wanted=f"one of {', '.join(known)}", value=value)
    return str(value)
