"""Kits for docker and podman: a script that starts the site in a container, and jobs in containers beside it."""

from __future__ import annotations

import shlex
from importlib import resources
from ipaddress import ip_address
from typing import TYPE_CHECKING

from clouddeploy.prepare.config import MOUNT
from clouddeploy.prepare.kit import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.prepare.config import DockerConfig
    from clouddeploy.prepare.kit import PreparedKit

START = "startup/start_docker.sh"
HOST = "host"
"""The network that is none: the machine's own."""


def launcher_args(_kit: PreparedKit, config: DockerConfig) -> Mapping[str, object]:
    """Return the arguments of `docker_launcher`."""
    jobs = config.job_launcher
    given = {
        "network": config.parent.network,
        "default_python_path": jobs.default_python_path,
        "default_job_env": dict(jobs.default_job_env),
        "default_job_container_kwargs": dict(jobs.default_job_container_kwargs),
        "image": jobs.image,
        "parent_host": jobs.parent_host,
        "pending_timeout": jobs.pending_timeout,
    }
    return {key: value for key, value in given.items() if value is not None}


def workspace(_kit: PreparedKit, _config: DockerConfig) -> str:
    """Return where the parent has its workspace: its kit's folder, in its container."""
    return MOUNT


def render(kit: PreparedKit, config: DockerConfig) -> Mapping[str, object]:
    """Write the start script."""
    values = {
        "name": shlex.quote(kit.name),
        "kind": shlex.quote(kit.kind),
        "image": shlex.quote(config.parent.docker_image),
        "network": shlex.quote(config.parent.network),
        "mount": shlex.quote(MOUNT),
        "hosts": shlex.join(_aliases(kit)),
        "ports": " ".join(str(port) for port in _ports(kit)),
    }
    text = resources.files("clouddeploy.prepare").joinpath("start_docker.sh").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    script = kit.write(START, text, SCRIPT)
    return {"start_command": shlex.quote(str(script)), "start_script": str(script), "warnings": _warnings(config)}


def _aliases(kit: PreparedKit) -> tuple[str, ...]:
    """Return the names under which clients in the same network find a server; addresses are the engine's business."""
    names = dict.fromkeys((kit.server_host, *kit.hosts, kit.server_name)) if kit.is_server else {}
    return tuple(one for one in names if one and not _is_address(one) and one != "localhost")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _ports(kit: PreparedKit) -> tuple[int, ...]:
    return tuple(dict.fromkeys((kit.fed_learn_port, kit.admin_port))) if kit.is_server else ()


def _warnings(config: DockerConfig) -> list[str]:
    found = []
    if "@sha256:" not in config.parent.docker_image:
        found.append(
            f"parent.docker_image {config.parent.docker_image} has no digest: each start takes what its tag leads to"
        )
    if config.parent.network == HOST:
        found.append("the network host is this machine's own: jobs reach all that listens on it")
    return found
