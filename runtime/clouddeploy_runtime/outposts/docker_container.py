"""What container a job gets: the options of one, and what runs in it, worked out without an engine."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.post import CREDENTIAL, FAR, Launch
from clouddeploy_runtime.study_runtime import REFUSED_KWARGS, place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.docker_settings import DockerSettings
    from clouddeploy_runtime.outposts.post import Errand
    from clouddeploy_runtime.study_runtime import StudyRuntime

MOUNT = "/var/tmp/nvflare/workspace"  # noqa: S108 - a path in a container, the reference's
"""Where a parent that runs in a container has its kit and its workspace."""
OUTSIDE = ("CLOUDDEPLOY_DOCKER_WORKSPACE", "NVFL_DOCKER_WORKSPACE")
"""Of such a parent: what `MOUNT` is on the machine, whose paths the engine knows."""
LINE, APP, RUN, DATA, CODE, TEMPORARY = (f"/clouddeploy/{one}" for one in ("line", "app", "run", "data", "code", "tmp"))
"""In a job's container."""
LABEL = "clouddeploy"
WISHES = ("image", "python_path", "shm_size")
"""Of its container a job may choose these."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
_KEPT = frozenset({"PATH", "HOME", "TMPDIR", "HOSTNAME", "TERM", "container"})
"""Of an image's variables: what `far` has already, or what is none of the job's."""
_SIZE = re.compile(r"[1-9][0-9]{0,15}[bkmgBKMG]?")
_NAME_LENGTH = 120


@dataclass(frozen=True)
class Place:
    """What there is at the engine.

    Attributes:
        user: `uid:gid` of the container's process.
        userns: of podman, for accounts: `keep-id`; else empty.
        image: its digest.
        image_environment: what it sets.
        folder: with the credential and the job's temporary files, as this process sees it.
        is_podman: whether the engine is podman.
    """

    user: str
    userns: str
    image: str
    image_environment: Mapping[str, str]
    folder: Path
    is_podman: bool


def image_of(errand: Errand, settings: DockerSettings, study: StudyRuntime) -> str:
    """Return the image that a job asks for: its own, its study's, the launcher's; empty: the parent's.

    Raises:
        BadLauncher: the job wishes what this site does not grant.
    """
    for key, value in errand.wishes.items():
        if key not in WISHES or not isinstance(value, str) or not value.isprintable() or value.startswith("-"):
            raise _ungranted(key, value, f"this site lets a job choose {', '.join(WISHES)}, each a text")
    shm = errand.wishes.get("shm_size", "1g")
    if _SIZE.fullmatch(shm) is None:
        raise _ungranted("shm_size", shm, "it must be a size like 2g")
    wished = errand.wishes.get("image", "")
    if wished and settings.job_images and not any(fnmatch.fnmatchcase(wished, one) for one in settings.job_images):
        raise _ungranted("image", wished, f"this site grants {', '.join(settings.job_images)}")
    return wished or study.image or settings.image


def _ungranted(key: str, value: Any, why: str) -> BadLauncher:
    return BadLauncher(f"The job's launcher_spec has {key} {value!r}", why=why, hint="Change it, or ask the site.")


def labels(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what all containers of one site have, and no other's."""
    return {f"{LABEL}.{key}": str(settings.get(key, "")) for key in ("project", "participant")}


def name_of(errand: Errand) -> str:
    """Return the name of a job's container."""
    owner = (errand.role == "controller" and errand.settings.get("participant")) or errand.site
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{owner}-{errand.job_id}").lstrip("_.-") or "job"
    if len(name) > _NAME_LENGTH:
        name = f"{name[:_NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def outside(path: str) -> str:
    """Return what a path of this process is on the machine.

    Raises:
        BadLauncher: it is in this process's container alone.
    """
    workspace = next((os.environ[one] for one in OUTSIDE if os.environ.get(one)), "")
    if not workspace:
        return path
    if not PurePosixPath(path).is_relative_to(MOUNT):
        raise BadLauncher(
            f"A job's container cannot have {path}",
            why=f"it is in the container of this site alone, and not below {MOUNT}",
            hint=f"Start the site with start_docker.sh, which puts its workspace and TMPDIR below {MOUNT}.",
        )
    return str(PurePosixPath(workspace) / PurePosixPath(path).relative_to(MOUNT))


def options(errand: Errand, settings: DockerSettings, study: StudyRuntime, at: Place) -> dict[str, Any]:
    """Return the options of a job's container, as the engine's Python client takes them.

    But for `mounts`, which are `(source, target, whether it is read only)`, and `log_config`, which is an object.

    Raises:
        BadLauncher: a path or an option cannot be had.
    """
    refused = sorted(REFUSED_KWARGS & set(study.docker_kwargs))
    if refused:
        raise BadLauncher(
            f"docker_kwargs of the study {errand.study!r} set {', '.join(refused)}",
            why="the launcher sets them itself",
            hint="Correct local/study_runtime.yaml.",
        )
    python = errand.wishes.get("python_path") or settings.default_python_path
    chosen: dict[str, Any] = {
        "image": at.image,
        "name": name_of(errand),
        "entrypoint": [python],
        "command": [*FAR, f"{LINE}/{CREDENTIAL}"],
        "user": at.user,
        "working_dir": RUN,
        "environment": {"HOME": TEMPORARY, "TMPDIR": TEMPORARY},
        "labels": {
            **labels(errand.settings),
            f"{LABEL}.job": errand.job_id,
            f"{LABEL}.site": errand.site,
            f"{LABEL}.role": errand.role,
        },
        "mounts": _mounts(errand, study, at),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", "label=disable"],
        **_network(settings),
        **({"userns_mode": at.userns} if at.userns else {}),
    }
    # Parameters go through shared memory; 64 MiB, an engine's default, hold no model.
    usual: dict[str, Any] = {
        "read_only": True,
        "shm_size": errand.wishes.get("shm_size", _half_of_memory()),
        "log_config": _log(at),
    }
    if errand.memory_gib:
        usual["mem_limit"] = usual["memswap_limit"] = int(errand.memory_gib * 1024**3)
    if errand.cpus:
        usual["nano_cpus"] = errand.cpus * 10**9
    given = {**settings.default_job_container_kwargs, **study.docker_kwargs}
    return {**usual, **_gpus(errand, settings, at), **given, **chosen, "detach": True}


def launch(
    errand: Errand, settings: DockerSettings, study: StudyRuntime, at: Place, secrets: Mapping[str, str]
) -> Launch:
    """Return what `far` runs in the container; the variables come to it over the line, not by the engine."""
    folders = {name: place(errand.study, name) for name in study.datasets}
    data = f"{DATA}" if errand.data_dir else place(errand.study) if folders else None
    mounts = tuple(one.mount_path for one in study.secret_mounts.values())
    return Launch(
        job_id=errand.job_id,
        role=errand.role,
        site=errand.site,
        sites=errand.sites,
        app_dir=APP,
        run_dir=RUN,
        data_dir=data,
        environment={
            **{name: value for name, value in at.image_environment.items() if name not in _KEPT},
            **settings.default_job_env,
            **study.env,
            **secrets,
            **errand.environment,
            **_visible(errand, settings),
        },
        code=tuple(f"{CODE}/{number}" for number in range(len(errand.code))),
        readable=(*folders.values(), *mounts),
        writable=tuple(folders[name] for name, one in study.datasets.items() if one.is_writable),
        is_confined=errand.is_confined,
    )


def _mounts(errand: Errand, study: StudyRuntime, at: Place) -> list[tuple[str, str, bool]]:
    found = [
        (outside(str(at.folder / "line")), LINE, True),
        (outside(str(at.folder / "tmp")), TEMPORARY, False),
        (outside(errand.app_dir), APP, True),
        (outside(errand.run_dir), RUN, False),
    ]
    found += [(outside(path), f"{CODE}/{number}", True) for number, path in enumerate(errand.code)]
    if errand.data_dir:
        found.append((outside(errand.data_dir), DATA, True))
    # These are paths of the machine as they stand: a parent in a container has no business with them.
    found += [(one.source, place(errand.study, name), not one.is_writable) for name, one in study.datasets.items()]
    found += [(one.source, one.mount_path, True) for one in study.secret_mounts.values()]
    for source, target, _ in found:
        if not source.startswith("/"):
            raise BadLauncher(
                f"{target} of the study {errand.study!r} has the source {source!r}",
                why="it is no absolute path",
                hint="Correct local/study_runtime.yaml.",
            )
    return found


def _network(settings: DockerSettings) -> dict[str, Any]:
    if not settings.network:
        return {}
    return {"network_mode": "host"} if settings.network == "host" else {"network": settings.network}


def _log(at: Place) -> dict[str, Any]:
    """Keep what a container prints, so that why it did not start can be told, and bound it."""
    if at.is_podman:
        return {"type": "k8s-file", "config": {"max-size": "10mb"}}
    return {"type": "json-file", "config": {"max-size": "10m"}}


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def lent(errand: Errand) -> tuple[str, ...]:
    """Return the GPUs that were reserved for a job; empty: none was."""
    return tuple(one for one in errand.environment.get(VISIBLE, "").split(",") if one)


def _gpus(errand: Errand, settings: DockerSettings, at: Place) -> dict[str, Any]:
    """Ask for the GPUs that were reserved, or for as many as the job takes where nobody reserves."""
    ids = lent(errand)
    if settings.gpu_driver == "none" or not (ids or errand.gpus):
        return {}
    if at.is_podman:  # what its API is asked for in docker's way it forgets, and the job would go on without
        raise BadLauncher(
            f"The job {errand.job_id} takes GPUs, and podman's API gives none",
            why="it knows no device_requests",
            hint='Let podman give them to each container (containers.conf: devices = ["nvidia.com/gpu=all"]), and say '
            '"gpu_driver": "none" in local/resources.json; or use docker.',
        )
    if settings.gpu_driver == "cdi":
        names = ids or tuple(str(number) for number in range(errand.gpus))
        request: dict[str, Any] = {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={one}" for one in names]}
    elif ids:
        request = {"device_ids": list(ids), "capabilities": [["gpu"]]}
    else:
        request = {"count": errand.gpus, "capabilities": [["gpu"]]}
    return {"device_requests": [request]}


def _visible(errand: Errand, settings: DockerSettings) -> dict[str, str]:
    """Number the GPUs anew: a container sees its own alone, from 0 on."""
    ids = lent(errand)
    if settings.gpu_driver == "none" or not ids:
        return {}
    return {VISIBLE: ",".join(str(number) for number in range(len(ids)))}
