"""Runs the user's own deploy file against emulated clouds and real SSH hosts, from nothing to nothing."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.endpoints import REAL

from clouddeploy import config, lone_kit, rehearsal_faults, service, wheelhouse
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError, DeployError
from clouddeploy.killable import AFTER, Nursery, Order, Point
from clouddeploy.kit_installation import requirements_of
from clouddeploy.outcome import require_completed
from clouddeploy.remote.wheels import PythonTarget
from clouddeploy.secrets import Secret
from clouddeploy.trap import ANY_CALL, Trap

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_rehearsal.world import World
    from clouddeploy_runtime.jobs import JobInfo

    from clouddeploy.rehearsal_faults import Met
    from clouddeploy.scheduler import Event

JOB_TIMEOUT_S = 120.0
HOST_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where a rehearsal's hosts, which share this machine's files, look for python3: sshd's default."""


@dataclass(frozen=True)
class RehearsedSite:
    """One site as it was while the rehearsal ran."""

    name: str
    role: str
    provider: str
    address: str
    registered_after_s: float
    """Seconds from the start of apply until the server answered or the client was registered."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal came to.

    Attributes:
        sites: the server first.
        job: the job's outcome; None without a job.
        created: how many resources the deployment had.
        left: what the emulated clouds still had after destroy, asked of them.
        apply_s: of that of apply.
        seconds: of the whole rehearsal.
        faults: those that were wanted, and how often they were met.
    """

    sites: tuple[RehearsedSite, ...]
    job: JobInfo | None
    created: int
    left: tuple[str, ...]
    apply_s: float
    seconds: float
    faults: tuple[Met, ...] = ()


def rehearse(
    file: Path,
    *,
    directory: Path,
    cache: Path,
    job: Path | None,
    as_root: bool,
    faults: Sequence[str] = (),
    cancel: threading.Event,
    on_event: Callable[[Event], None],
    on_phase: Callable[[str], None],
) -> Rehearsed:
    """Applies, runs the job, destroys. Only endpoints and credentials differ from a real run.

    Args:
        file: the deploy.yml.
        directory: an empty folder for the emulated world, state and kits.
        cache: where wheels are kept between rehearsals.
        job: a job folder; None: the deploy file's `smoke_job`.
        as_root: hosts are network namespaces with a real sshd and firewall; else processes of the caller, on loopback
            addresses and without a firewall.
        faults: names of what goes wrong on the way, as `rehearsal_faults.parse` reads them.
        cancel: set it to stop after what is in flight.
        on_event: called for each step.
        on_phase: called with a line for people as each phase starts.

    Raises:
        ClouddeployError: what a real run would have raised, or the job did not complete.
    """
    from clouddeploy_rehearsal.world import World, isolate  # noqa: PLC0415 - moto takes a second to import

    started = time.monotonic()
    wish = rehearsal_faults.parse(faults, as_root=as_root)
    loaded = config.load(file)
    job = job or loaded.smoke_job
    if job is not None and not job.is_dir():
        raise ConfigError(f"the job {job} is not a folder", hint="name a job folder with a meta.json")
    collect_wheels(cache)
    if loaded.kit is not None and (theirs := requirements_of(lone_kit.read(loaded.kit), runtime=loaded.runtime)):
        collect_wheels(cache, requirements=theirs)
    if loaded.service is not None:
        collect_wheels(cache, requirements=service.read(loaded.service, deploy_file=file).requirements)
    if as_root:
        isolate()
    shown = wish.of_clouds()
    with World(directory / "world", faults=shown, as_root=as_root) as world:
        on_phase("the clouds and the on-premises hosts are up")
        add_hosts(loaded, world)
        passphrase = secrets.token_urlsafe()
        kills = 0
        if wish.kill_at:
            on_phase(f"apply, to be killed at call {wish.kill_at} to a cloud")
            kills = apply_and_kill(
                file, directory=directory, cache=cache, world=world, call=wish.kill_at, passphrase=passphrase
            )
            on_phase("apply once more")
        cables = rehearsal_faults.Cables(world, is_wanted=rehearsal_faults.PARTITION in wish.names)
        deployment = Deployment(
            file,
            endpoints=world.endpoints,
            directory=directory / "state",
            workspace=directory / "workspace",
            cache=cache,
            cancel=cancel,
        )

        def on_both(event: Event) -> None:
            cables.on_event(event)
            on_event(event)

        # A failure needs no destroy of its own, whose error could hide the first: the world ends with this block.
        before_apply = time.monotonic()
        applied = deployment.apply(Secret(passphrase), on_event=on_both)
        apply_s = round(time.monotonic() - before_apply, 2)
        cables.settle()
        addresses = {status.name: status.address for status in deployment.status()}
        created = len(world.resources())
        info = None
        if job is not None:
            on_phase(f"job {job.name}")
            cables.on_job()
            info = run_job(deployment, job)
            cables.settle()
        on_phase("destroy")
        deployment.destroy(on_event=on_event)
        left = tuple(world.resources())
    order = sorted(loaded.sites, key=lambda site: (site.name != deployment.server, site.name))
    return Rehearsed(
        sites=tuple(
            RehearsedSite(
                name=site.name,
                role="service" if loaded.service else "server" if site.name == deployment.server else "client",
                provider=site.provider,
                address=addresses[site.name],
                registered_after_s=round(applied.ready_after_s[site.name], 2),
            )
            for site in order
        ),
        job=info,
        created=created,
        left=left,
        apply_s=apply_s,
        seconds=round(time.monotonic() - started, 1),
        faults=rehearsal_faults.met(wish, clouds=shown, kills=kills, cables=cables),
    )


def apply_and_kill(file: Path, *, directory: Path, cache: Path, world: World, call: int, passphrase: str) -> int:
    """Applies in a process of its own that is killed at a call to a cloud, before its answer arrives.

    Returns:
        How often it was killed: 0 when it made fewer calls.

    Raises:
        DeployError: it failed before that by itself.
    """
    from clouddeploy_rehearsal.world import save_endpoints  # noqa: PLC0415 - an extra

    endpoints = directory / "endpoints.json"
    save_endpoints(world.endpoints, endpoints)
    trap = Trap(Point(ANY_CALL, call, AFTER))
    order = Order(
        "apply",
        file=str(file.absolute()),
        endpoints=str(endpoints),
        directory=str(directory / "state"),
        cache=str(cache),
        is_bare=False,
        passphrase=passphrase,
    )
    world.watch(trap.watch)
    with Nursery() as nursery:
        ended = nursery.run(order, started=trap.process.set_result)
    trap.wait_until_quiet()
    world.watch(None)
    if ended.error:
        raise DeployError("the apply that was to be killed failed before", why=ended.error, hint="mend this first")
    return int(ended.is_killed)


def collect_wheels(cache: Path, *, requirements: tuple[str, ...] | None = None) -> None:
    """Fetches the wheels for this machine's own Python while it still has a network; the rehearsal's world has none.

    Args:
        cache: where they are kept.
        requirements: instead of our runtime; it may be none at all.
    """
    python = shutil.which("python3", path=HOST_PATH)
    if python is None:
        return  # the sites themselves will say what they miss
    asked = subprocess.run(  # the same question that a site is asked
        [python, "-c", "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"],
        capture_output=True,
        text=True,
        check=True,
    )
    version, machine = asked.stdout.split()
    wheelhouse.collect(PythonTarget(version=version, machine=machine), cache, requirements=requirements)


def add_hosts(loaded: config.DeployConfig, world: World) -> None:
    """Makes exist what the deploy file takes for granted: machines, networks and groups of somebody else."""
    for site in loaded.sites:
        given = site.settings
        there = given.get({"onprem": "address", "aws": "machine_id", "azure": "machine"}.get(site.provider, ""))
        if there:
            world.add_host(there, name=site.name)
        elif site.provider == "aws" and ("vpc_id" in given or "subnet_id" in given):
            vpc, subnet = given.get("vpc_id", ""), given.get("subnet_id", "")
            world.aws.lend_network(given["region"], vpc_id=vpc, subnet_id=subnet)
        elif site.provider == "azure":
            world.azure.add_theirs(given)


def run_job(deployment: Deployment, job: Path) -> JobInfo:
    """Submits a job with the project admin's kit and waits for its end."""
    from clouddeploy_runtime import kit  # noqa: PLC0415 - grpc is not wanted for --help
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415

    if deployment.project is None or not deployment.project.admins:
        raise ConfigError(
            "there is no admin who could submit the job", hint="name a project with a participant of type admin"
        )
    admin = deployment.project.admins[0].name
    with AdminSession(kit.load(deployment.kit(admin))) as session:
        job_id = session.submit(job)
        return require_completed(session.wait(job_id, timeout_s=JOB_TIMEOUT_S))


def load_endpoints(file: Path | None) -> Endpoints:
    """Returns the endpoints of a rehearsal that another process serves, or the real clouds for None."""
    if file is None:
        return REAL
    from clouddeploy_rehearsal.world import load_endpoints as load  # noqa: PLC0415 - an extra, and heavy

    return load(file)


def as_json(result: Rehearsed) -> Mapping[str, object]:
    """Returns the result as the JSON envelope's data."""
    job = result.job
    return {
        "sites": [
            {
                "name": site.name,
                "role": site.role,
                "provider": site.provider,
                "address": site.address,
                "registered_after_s": site.registered_after_s,
            }
            for site in result.sites
        ],
        "job": None
        if job is None
        else {
            "id": job.job_id,
            "status": job.status,
            "rounds": job.rounds,
            "metrics": dict(job.metrics),
        },
        "resources": {"created": result.created, "left": list(result.left)},
        "faults": [{"name": fault.name, "hits": fault.hits} for fault in result.faults],
        "apply_s": result.apply_s,
        "seconds": result.seconds,
    }
