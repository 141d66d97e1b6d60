"""What batch job a job gets: its options, the words of its script, and what runs in it; the scheduler is not asked."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.post import CREDENTIAL, FAR, Launch
from clouddeploy_runtime.outposts.slurm_settings import word
from clouddeploy_runtime.study_runtime import DATA, place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.post import Errand
    from clouddeploy_runtime.outposts.slurm_settings import SlurmSettings, Wishes
    from clouddeploy_runtime.study_runtime import StudyRuntime

SETUP, WORDS = "setup.sh", "slurm.err"
"""In the job's folder: the site's lines for the node, and what the batch job says besides the job's own output."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Slurm says which cards a job has; what the site's process would say is of another machine."""
OF_SLURM = (
    *("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_CONF"),
    *("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", VISIBLE, "MASTER_PORT"),
)
"""Variables of a batch job that the job's process gets."""
_NAME_LENGTH = 120
_OWN_PLACES = ("/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Plan:
    """One batch job.

    Attributes:
        sandbox: what it runs in.
        setup: the site's lines for its node.
        options: of sbatch.
        words: of the script.
        launch: what `far` runs.
    """

    sandbox: str
    setup: str
    options: tuple[str, ...]
    words: tuple[str, ...]
    launch: Launch


def name_of(errand: Errand) -> str:
    """Return the name of a job's batch job."""
    owner = (errand.role == "controller" and errand.settings.get("participant")) or errand.site
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{owner}-{errand.job_id}").lstrip("_.-") or "job"
    if len(name) > _NAME_LENGTH:
        name = f"{name[:_NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def comment_of(settings: Mapping[str, Any]) -> str:
    """Return what the comment of all batch jobs of one site is, and of no other's: many sites may share an account."""
    owner = [str(settings.get(key, "")) for key in ("project", "participant", "workspace_path")]
    return f"clouddeploy:{hashlib.sha256(json.dumps(owner).encode()).hexdigest()[:32]}"


def plan(
    errand: Errand,
    settings: SlurmSettings,
    study: StudyRuntime,
    wishes: Wishes,
    *,
    folder: Path,
    secrets: Mapping[str, str],
) -> Plan:
    """Work out the batch job of a job.

    Args:
        errand: what is to run.
        settings: of the launcher.
        study: what the site grants the job's study.
        wishes: of the job.
        folder: with the credential; nodes see it.
        secrets: variables of the study; they go over the line alone.

    Raises:
        BadLauncher: what is asked for does not go together.
    """
    sandbox = study.slurm.sandbox or settings.sandbox
    setup = study.slurm.setup or settings.setup
    _check(errand, study, wishes, sandbox)
    image = "" if sandbox == "none" else _image(wishes.image or study.image or settings.image, sandbox)
    mounts = _mounts(errand, study, folder) if sandbox != "none" else []
    python = [settings.python_path, *FAR, str(folder / CREDENTIAL)]
    passed = (*settings.forward_env, *OF_SLURM)
    words = [
        str(folder / SETUP) if setup else "-",
        sandbox,
        ",".join(passed),
        settings.multi_node_port_range if wishes.nodes > 1 and "-" in settings.multi_node_port_range else "-",
        *_sandboxed(errand, settings, sandbox, image, mounts, has_gpus=bool(_gpus(errand, wishes))),
        *python,
    ]
    return Plan(
        sandbox,
        setup,
        tuple(_options(errand, settings, study, wishes, folder)),
        tuple(words),
        _launch(errand, study, secrets, passed, in_sandbox=sandbox != "none"),
    )


def _check(errand: Errand, study: StudyRuntime, wishes: Wishes, sandbox: str) -> None:
    if sandbox == "none":
        wanted = {
            "an image": wishes.image or study.image,
            "datasets": study.datasets,
            "secret_mounts": study.secret_mounts,
        }
        for what, value in wanted.items():
            if value:
                raise BadLauncher(
                    f"The job's study, or the job, has {what}",
                    why="this site runs jobs directly on its nodes (sandbox none), where nothing is mounted",
                    hint="Take them away, or set the sandbox to apptainer or pyxis.",
                )
    elif wishes.nodes > 1:
        raise BadLauncher(
            f"The job asks for {wishes.nodes} nodes",
            why=f"in the sandbox {sandbox} it runs on one",
            hint="Ask for one node, or a site whose sandbox is none.",
        )
    if wishes.gpus and errand.gpus and errand.gpus != wishes.nodes * wishes.gpus:
        raise BadLauncher(
            f"The job asks for {errand.gpus} GPUs, and for {wishes.gpus} on each of {wishes.nodes} nodes",
            why="that is not the same",
            hint="Correct resource_spec or launcher_spec of the job.",
        )
    if wishes.nodes > 1 and errand.gpus and not wishes.gpus:
        raise BadLauncher(
            f"The job asks for {errand.gpus} GPUs on {wishes.nodes} nodes",
            why="how many each has is not said",
            hint="Say it with gpus_per_node in its launcher_spec.",
        )


def _image(path: str, sandbox: str) -> str:
    if not path or not Path(path).is_file():
        raise BadLauncher(
            f"There is no image for the job ({path or 'none is named'})",
            why=f"the sandbox {sandbox} needs a file that the nodes see",
            hint='Name it as "image" of slurm_launcher in local/resources.json, or in local/study_runtime.yaml.',
        )
    return path


def _gpus(errand: Errand, wishes: Wishes) -> int:
    return wishes.gpus or errand.gpus


def _options(errand: Errand, settings: SlurmSettings, study: StudyRuntime, wishes: Wishes, folder: Path) -> list[str]:
    chosen = {key: word(key, value) for key in ("partition", "account", "qos") if (value := getattr(study.slurm, key))}
    directives = {**settings.sbatch_directives, **chosen, **({"time": wishes.time} if wishes.time else {})}
    gpus, cpus = _gpus(errand, wishes), wishes.cpus or errand.cpus
    memory_mib = wishes.memory_mib or int(errand.memory_gib * 1024)
    return [
        f"--job-name={name_of(errand)}",
        f"--comment={comment_of(errand.settings)}",
        "--no-requeue",  # started again it would find nobody who waits for it
        "--export=ALL",  # of sbatch's environment, which is a small one
        f"--chdir={errand.run_dir}",
        f"--nodes={wishes.nodes}",
        f"--ntasks={wishes.nodes}",
        "--ntasks-per-node=1",
        *([f"--gres=gpu:{gpus}"] if gpus else []),
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        *([f"--mem={memory_mib}M"] if memory_mib else []),
        *(f"--{key}={value}" for key, value in sorted(directives.items())),
        "--output=/dev/null",  # the site has it
        f"--error={folder / WORDS}",
    ]


def _mounts(errand: Errand, study: StudyRuntime, folder: Path) -> list[tuple[str, str, bool]]:
    """Return source, target, and whether it is read only; folders of the site have the same path inside."""
    found = [(errand.app_dir, errand.app_dir, True), (errand.run_dir, errand.run_dir, False)]
    found += [(str(folder), str(folder), True)]
    found += [(path, path, True) for path in errand.code]
    if errand.data_dir:
        found.append((errand.data_dir, errand.data_dir, True))
    found += [(one.source, place(errand.study, name), not one.is_writable) for name, one in study.datasets.items()]
    found += [(one.source, one.mount_path, True) for one in study.secret_mounts.values()]
    for source, target, _ in found:
        if "," in source + target or ":" in source + target or not source.startswith("/"):
            raise BadLauncher(
                f"{source} cannot be mounted at {target}",
                why="a sandbox takes absolute paths, without commas and colons",
                hint="Name another folder, in local/study_runtime.yaml or for the site's workspace.",
            )
    for one in study.secret_mounts.values():
        inside = PurePosixPath(one.mount_path)
        if any(inside.is_relative_to(own) for own in (*_OWN_PLACES, DATA, errand.app_dir, errand.run_dir, str(folder))):
            raise BadLauncher(
                f"A secret of the study {errand.study!r} cannot be at {inside}",
                why="that is a place of the job, or of the system",
                hint="Correct mount_path in local/study_runtime.yaml.",
            )
    return found


def _sandboxed(
    errand: Errand,
    settings: SlurmSettings,
    sandbox: str,
    image: str,
    mounts: list[tuple[str, str, bool]],
    *,
    has_gpus: bool,
) -> list[str]:
    """Return the words that start the sandbox; the job's program comes after them."""
    program = {"apptainer": "apptainer", "pyxis": "srun"}.get(sandbox, "")
    found = [settings.executables.get(program, program)]
    if sandbox == "apptainer":
        found += ["exec", "--userns", "--containall", "--no-privs", "--no-eval", "--no-mount", "bind-paths,hostfs"]
        for source, target, is_read_only in mounts:
            found += ["--bind", f"{source}:{target}:{'ro' if is_read_only else 'rw'}"]
        return [*found, *(["--nv"] if has_gpus else []), "--pwd", errand.run_dir, image]
    if sandbox == "pyxis":
        told = ",".join(f"{source}:{target}{':ro' if is_read_only else ''}" for source, target, is_read_only in mounts)
        return [
            *found,
            "--ntasks=1",
            f"--container-image={image}",
            f"--container-mounts={told}",
            f"--container-workdir={errand.run_dir}",
            "--container-readonly",
            "--no-container-mount-home",
            "--no-container-entrypoint",
        ]
    return []


def _launch(
    errand: Errand, study: StudyRuntime, secrets: Mapping[str, str], passed: tuple[str, ...], *, in_sandbox: bool
) -> Launch:
    folders = {name: place(errand.study, name) for name in study.datasets}
    data = errand.data_dir or (place(errand.study) if folders else None)
    environment = {key: value for key, value in errand.environment.items() if key != VISIBLE}
    return Launch(
        job_id=errand.job_id,
        role=errand.role,
        site=errand.site,
        sites=errand.sites,
        app_dir=errand.app_dir,
        run_dir=errand.run_dir,
        data_dir=data,
        environment={**study.env, **secrets, **environment},
        forwarded=passed,
        code=errand.code,
        hidden=() if in_sandbox else errand.hidden,
        readable=(*folders.values(), *(one.mount_path for one in study.secret_mounts.values())),
        writable=tuple(folders[name] for name, one in study.datasets.items() if one.is_writable),
        is_confined=errand.is_confined,
    )
