"""Kits for Slurm: the prepared folder is the site's workspace, which the nodes see at the same path."""

from __future__ import annotations

import shlex
import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts import slurm_settings

from clouddeploy.errors import ConfigError
from clouddeploy.prepare.kit import PLAIN, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.prepare.config import SbatchDirectives, SlurmConfig
    from clouddeploy.prepare.kit import PreparedKit

START, PARENT = "startup/start_slurm.sh", "startup/parent.slurm"
_FOLDER_MODE = 0o700
_HERE = slurm_settings.EXECUTABLES[:5]
"""Programs that the site itself runs; the others run on nodes, which need not be like this machine."""


def launcher_args(kit: PreparedKit, config: SlurmConfig) -> Mapping[str, object]:
    """Return the arguments of `slurm_launcher`, as it checks them itself.

    Raises:
        ConfigError: the launcher could not use one.
    """
    jobs = config.job_launcher
    given = {
        "sandbox": jobs.sandbox,
        "python_path": jobs.python_path,
        "image": jobs.image,
        "workspace_path": str(kit.output),
        "parent_host": jobs.parent_host,
        "internal_port": jobs.internal_port,
        "sbatch_directives": _directives(jobs.sbatch_directives),
        "setup": jobs.setup,
        "forward_env": list(jobs.forward_env),
        "executables": dict(jobs.executables),
        "submit_timeout": jobs.submit_timeout,
        "query_timeout": jobs.query_timeout,
        "cancel_timeout": jobs.cancel_timeout,
        "poll_interval": jobs.poll_interval,
        "pending_timeout": jobs.pending_timeout,
        "multi_node_port_range": jobs.multi_node_port_range,
    }
    arguments = {key: value for key, value in given.items() if value not in (None, {}, [])}
    try:
        slurm_settings.parse(arguments)
    except BadLauncher as exc:
        what = exc.what.replace(" of slurm_launcher", " of job_launcher").replace('"', "")
        raise ConfigError(
            f"the configuration for Slurm cannot be used: {what}", why=exc.why, hint="correct it"
        ) from exc
    if jobs.sandbox != "none" and not jobs.image:
        raise ConfigError(
            "the configuration for Slurm cannot be used: job_launcher.image is missing",
            why=f"the sandbox {jobs.sandbox} needs a file with an image, which the nodes see",
            hint="name it, or set sandbox: none",
        )
    return arguments


def workspace(kit: PreparedKit, _config: SlurmConfig) -> str:
    """Return where the site has its workspace: the prepared folder itself."""
    return str(kit.output)


def render(kit: PreparedKit, config: SlurmConfig) -> Mapping[str, object]:
    """Write the start script, and for a client the batch script of its own process.

    Raises:
        ConfigError: the image is not there, a server is to run in a batch job, or no path can be shared.
    """
    _check(kit, config)
    kit.root.chmod(_FOLDER_MODE)
    script = kit.write(START, _template("start_slurm.sh", {}), SCRIPT)
    found: dict[str, object] = {
        "start_command": shlex.quote(str(script)),
        "start_script": str(script),
        "warnings": _warnings(config),
    }
    if config.parent is not None:
        path = kit.write(PARENT, _parent(kit, config), PLAIN)
        found["submit_command"] = shlex.join(_submission(kit, config, path))
    return found


def _check(kit: PreparedKit, config: SlurmConfig) -> None:
    image = config.job_launcher.image
    if image and config.job_launcher.sandbox != "none" and not Path(image).is_file():
        raise ConfigError(
            f"job_launcher.image {image} is no file here",
            why="the site and its nodes share it",
            hint="name the image's path on the shared file system",
        )
    if config.parent is not None and kit.is_server:
        raise ConfigError(
            "parent cannot be set for a server",
            why="a batch job ends some day, and gets another address at its next start",
            hint="remove parent; start the server with startup/start_slurm.sh on a machine that stays",
        )


def _directives(given: SbatchDirectives) -> dict[str, str]:
    return {key: value for key, value in given.model_dump().items() if value is not None}


def _parent(kit: PreparedKit, config: SlurmConfig) -> str:
    setup = config.parent.environment_setup if config.parent is not None else None
    return _template("parent.slurm", {"script": shlex.quote(str(kit.output / START)), "setup": (setup or "").rstrip()})


def _submission(kit: PreparedKit, config: SlurmConfig, path: Path) -> list[str]:
    """Return the command that starts a client's own process in a batch job; directives are words of it, no comments."""
    given = _directives(config.parent.sbatch_directives) if config.parent is not None else {}
    for key, value in given.items():
        if any(letter.isspace() for letter in value):
            raise ConfigError(
                f"parent.sbatch_directives.{key} is {value!r}", why="it must be one word", hint="correct it"
            )
    return [
        config.job_launcher.executables.get("sbatch", "sbatch"),
        "--parsable",
        f"--job-name=clouddeploy-{kit.name}",
        "--no-requeue",
        "--export=NONE",
        f"--chdir={kit.output}",
        f"--output={kit.output}/parent-%j.out",
        *(f"--{key}={value}" for key, value in sorted(given.items())),
        str(path),
    ]


def _warnings(config: SlurmConfig) -> list[str]:
    jobs = config.job_launcher
    found = [
        f"{name} is not in PATH here: the machine where the site runs needs Slurm's client commands"
        for name in ("sbatch", "squeue", "scancel", "scontrol")
        if name not in jobs.executables and shutil.which(name) is None
    ]
    found += [
        f"job_launcher.executables.{name} {path} is not there"
        for name, path in jobs.executables.items()
        if name in _HERE and not Path(path).is_file()
    ]
    if jobs.parent_host is None and config.parent is None:
        found.append("job_launcher.parent_host is not set: nodes will be told this machine's own name")
    if jobs.sandbox == "none":
        found.append("sandbox none: on a node without Landlock a job reads what this account reads, the kit's key too")
    return found


def _template(name: str, values: Mapping[str, str]) -> str:
    text = resources.files("clouddeploy.prepare").joinpath(name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
