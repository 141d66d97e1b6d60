"""What a site says of itself in `local/resources.json`: limits, resources, launcher, and the classes jobs may name.

The file is the reference's; of its components the arguments count, by their ids. What it does not say has the
reference's value. A file that cannot be read keeps the site from starting: running without its limits would be worse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import MAX_PORT, is_host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES = ("resources.json", "resources.json.default")
"""The site's own file wins over the one the kit was made with."""
PASSTHROUGH = "nvflare.app_common.resource_managers.passthrough_resource_manager.PassthroughResourceManager"
"""The reference's class of a resource manager that takes every job; the last part of its path counts."""
LAUNCHER = "_launcher"
"""End of the id of the component that says where job processes run."""
_METRICS_PORT = 9090


class BadSettings(KitError):
    """`local/resources.json` is no use."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_SETTINGS"


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


@dataclass(frozen=True)
class Settings:
    """The settings of one site.

    Attributes:
        max_clients: of a server: how many sites may be registered at a time.
        silence_s: of a server: a site that says nothing for so long is gone.
        max_jobs: of a server: how many jobs run at a time.
        gpus: how many the site offers to jobs.
        gib_per_gpu: memory of each.
        ignores_host: whether the site offers them without a look at what the machine has.
        is_passthrough: whether jobs get what they ask for without a look at this machine: the engine that runs them
            elsewhere decides.
        reservation_s: so long resources are held for a job that does not start.
        launcher: where job processes run: `process`, `docker`, `k8s` or `slurm`.
        launcher_args: the launcher's arguments.
        allowed_classes: what a job's configuration may name, besides its own code where that is allowed.
        is_list_enforced: whether anything else is refused; else it is only noted.
        studies: of a client: it takes jobs of these only; None: of any. Those of no study are of `default`.
        session_idle_s: of a server: a person's session that is not used for so long ends.
        session_life_s: of a server: so long a person's login is good, at most.
        metrics: of a server: where it serves metrics over HTTP; None: nowhere.
        budget_gib: shared memory for tensors of all jobs; beyond it they go to files. None: half of what there is.
        job_budget_gib: the same of one job; None: as much as all together.
        offloads_tensors: whether tensors go to files from the start.
    """

    max_clients: int = 100
    silence_s: float = 600.0
    max_jobs: int = 4
    gpus: int = 0
    gib_per_gpu: float = 0.0
    ignores_host: bool = False
    is_passthrough: bool = False
    reservation_s: float = 300.0
    launcher: str = "process"
    launcher_args: Mapping[str, Any] = field(default_factory=dict)
    allowed_classes: frozenset[str] = frozenset()
    is_list_enforced: bool = True
    studies: frozenset[str] | None = None
    session_idle_s: float = 1800.0
    session_life_s: float = 43_200.0
    metrics: Address | None = None
    budget_gib: float | None = None
    job_budget_gib: float | None = None
    offloads_tensors: bool = False


def load(local: Path) -> Settings:
    """Read the settings of a kit's `local` folder; the reference's values when there is no file.

    Raises:
        BadSettings: the file cannot be read, or a value is of the wrong kind; names file and key.
    """
    for name in FILES:
        path = local / name
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as exc:
            raise _bad(path, str(exc)) from exc
        return _parsed(path, document)
    return Settings()


def _parsed(path: Path, document: Any) -> Settings:
    if not isinstance(document, dict):
        raise _bad(path, "it is not an object")
    components = _components(path, document)
    server = next(iter(document.get("servers") or [{}]))
    if not isinstance(server, dict):
        raise _bad(path, '"servers" must be a list of objects')
    sessions = components.get("admin_sessions", {})
    manager, jobs = components.get("resource_manager", {}), components.get("job_scheduler", {})
    launchers = [name for name in components if name.endswith(LAUNCHER)]
    if len(launchers) > 1:
        raise _bad(path, f"one launcher, and it names {', '.join(launchers)}")
    classes, studies = (_texts(path, document, key) for key in ("class_allow_list", "allowed_studies"))
    usual = Settings()
    return Settings(
        max_clients=int(_number(path, server, "max_num_clients", usual.max_clients)),
        silence_s=_number(path, server, "heart_beat_timeout", usual.silence_s),
        max_jobs=int(_number(path, jobs, "max_jobs", usual.max_jobs)),
        gpus=int(_number(path, manager, "num_of_gpus", usual.gpus)),
        gib_per_gpu=_number(path, manager, "mem_per_gpu_in_GiB", usual.gib_per_gpu),
        ignores_host=manager.get("ignore_host", False) is True,
        is_passthrough=_is_passthrough(document),
        reservation_s=_number(path, manager, "expiration_period", usual.reservation_s),
        launcher=launchers[0].removesuffix(LAUNCHER) if launchers else usual.launcher,
        launcher_args=components[launchers[0]] if launchers else {},
        allowed_classes=classes or frozenset(),
        is_list_enforced=document.get("class_list_enforcement_mode", "enforce") == "enforce",
        studies=studies,
        session_idle_s=_number(path, sessions, "idle_timeout", usual.session_idle_s),
        session_life_s=_number(path, sessions, "max_lifetime", usual.session_life_s),
        metrics=_metrics(path, components.get("metrics_endpoint")),
        **_tensors(path, components.get("tensor_memory", {})),
    )


def _texts(path: Path, document: Mapping[str, Any], key: str) -> frozenset[str] | None:
    """Return what a list names; None: it is not there."""
    given = document.get(key, [])
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise _bad(path, f'"{key}" must be a list of texts')
    return frozenset(given) if key in document else None


def _tensors(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of tensors' memory."""
    offloads = given.get("enable_tensor_disk_offload", False)
    if not isinstance(offloads, bool):
        raise _bad(path, f'"enable_tensor_disk_offload" must be true or false, and is {offloads!r}')
    return {
        "budget_gib": _number(path, given, "budget_gib", 0) if "budget_gib" in given else None,
        "job_budget_gib": _number(path, given, "job_budget_gib", 0) if "job_budget_gib" in given else None,
        "offloads_tensors": offloads,
    }


def _components(path: Path, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of the components by id."""
    found: dict[str, dict[str, Any]] = {}
    for one in document.get("components") or []:
        arguments = one.get("args") or {} if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(one.get("id"), str) or not isinstance(arguments, dict):
            raise _bad(path, 'an entry of "components" has no "id", or "args" that are no object')
        found[one["id"]] = arguments
    return found


def _is_passthrough(document: Mapping[str, Any]) -> bool:
    managers = [one for one in document.get("components") or [] if one["id"] == "resource_manager"]
    paths = [str(one.get("path") or one.get("class_path") or "") for one in managers]
    return any(path.rpartition(".")[2] == PASSTHROUGH.rpartition(".")[2] for path in paths)


def address_of(text: str) -> Address | None:
    """Return what `host:port` means, with an IPv6 address in brackets; None: nothing."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) and int(port) <= MAX_PORT
    return Address(host, int(port)) if is_host(host) and is_port else None


def _metrics(path: Path, given: Mapping[str, Any] | None) -> Address | None:
    """Return where metrics are served: nowhere, unless the component is there."""
    if given is None:
        return None
    host, port = given.get("host", "127.0.0.1"), given.get("port", _METRICS_PORT)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
        raise _bad(path, f'"port" of metrics_endpoint must be a whole number up to {MAX_PORT}, and is {port!r}')
    if not isinstance(host, str) or not is_host(host):
        raise _bad(path, f'"host" of metrics_endpoint must be an address or a name, and is {host!r}')
    return Address(host, port)


def _number(path: Path, where: Mapping[str, Any], key: str, usual: float) -> float:
    value = where.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise _bad(path, f'"{key}" must be a number from 0, and is {value!r}')
    return float(value)


def _bad(path: Path, why: str) -> BadSettings:
    return BadSettings(
        f"{path} cannot be used", why=why, hint="Correct it, or take resources.json away: the default counts."
    )
