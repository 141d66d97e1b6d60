"""Puts kit, Python environment and data on a machine and starts the site; every verb may be repeated."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
import tempfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy.errors import RemoteCommandFailed, RemoteTimeout, StateError
from clouddeploy.remote import commands, container
from clouddeploy.remote.container import Image
from clouddeploy.remote.wheels import PythonTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.remote.host import Host
    from clouddeploy.remote.wheels import Wheelhouse

log = logging.getLogger(__name__)

CLOUD_INIT_S = 300.0
START_S = 60.0
STOP_S = 240.0
"""A supervisor takes 30 s at most, an engine that is slow to say that a container has ended a minute and more."""
REMOVE_S = 3600.0
"""Images of ten gigabytes take an engine minutes to delete, and another site of the account may be pulling one."""
DRIVER_S = 2400.0
"""A gigabyte of packages, and a kernel module that may be compiled; and as long for another site that is at it."""
PULL_S = 3600.0
"""Images with CUDA and a framework have ten gigabytes and more."""
STATUS_BYTES = 64 * 1024


@dataclass(frozen=True)
class Release:
    """What is installed for a site.

    Attributes:
        digest: of the kit.
        root: the site's folder on its machine.
        python: the interpreter of its environment.
    """

    digest: str
    root: str
    python: str

    @property
    def service(self) -> str:
        """The name of its systemd unit; no project or participant has a colon, so no two sites have the same."""
        project, site = self.root.split("/")[-2:]
        return f"clouddeploy-{project}:{site}.service"


@dataclass(frozen=True)
class Releases:
    """What a machine says of its releases; each is the name of a release, empty for none.

    Attributes:
        current: what runs, or would be started.
        good: the last that was confirmed.
        previous: the one that was confirmed before that.
        rolling_back: where an unfinished rollback leads.
        started: what was started and not stopped since; a reboot does not change it.
    """

    current: str
    good: str
    previous: str
    rolling_back: str
    started: str

    @property
    def kit(self) -> str:
        """Digest of the current kit."""
        return self.current.removeprefix("releases/").partition("-")[0]


@dataclass(frozen=True)
class Prepared:
    """A machine with everything that a site needs but its kit.

    Attributes:
        root: the site's folder there.
        wheels: digest of what its environment was made from: wheels, or a container image.
        unit: digest of its systemd unit.
        data: digest of its data; empty for none.
        have: names of what was uploaded before.
    """

    root: str
    wheels: str
    unit: str
    data: str
    have: frozenset[str]


def install(
    host: Host,
    *,
    project: str,
    site: str,
    kit: Path,
    data: Path | None,
    wheelhouse_for: Callable[[PythonTarget], Wheelhouse | Image],
    timeout_s: float,
) -> Release:
    """Installs a site; what the machine has already is not sent again.

    Args:
        host: the machine.
        project: the project's name.
        site: the participant's name.
        kit: its startup kit.
        data: a folder that the site's jobs read; None for none.
        wheelhouse_for: gives the runtime and its dependencies for the machine's Python, or the image to run in.
        timeout_s: for the installation itself.

    Raises:
        DeployError: the machine has no usable Python, or a step failed; running it again goes on from there.
    """
    prepared = prepare(host, project=project, site=site, data=data, wheelhouse_for=wheelhouse_for, timeout_s=timeout_s)
    with tempfile.TemporaryDirectory() as folder:
        archive, digest = pack(kit, "kit", Path(folder))
        send(host, prepared, archive, f"kit-{digest}.tar")
    return activate(host, prepared, digest, timeout_s=timeout_s)


def prepare(
    host: Host,
    *,
    project: str,
    site: str,
    data: Path | None,
    wheelhouse_for: Callable[[PythonTarget], Wheelhouse | Image],
    timeout_s: float,
) -> Prepared:
    """Makes the site's folder and Python environment and brings its data; see `install`."""
    facts = _facts(run(host, CLOUD_INIT_S, "probe", project, site))
    if not facts["python"]:
        raise RemoteCommandFailed(
            f"{host.name} has no Python 3.11 or newer",
            status=1,
            tail="python3 is missing or too old",
            hint="install python3 there, or use a newer image",
        )
    if facts["boots"] == "no":
        log.warning(
            "%s has no systemd that we may use and no crontab, so %s will not start again by itself after a reboot",
            host.name,
            site,
        )
    if facts.get("gpu") == "bare":
        _install_driver(host)
    made = wheelhouse_for(PythonTarget(version=facts["version"], machine=facts["machine"]))
    have = frozenset(facts["have"].split())
    name = container.UNIT if isinstance(made, Image) else "site.service"
    unit = resources.files("clouddeploy.remote").joinpath(name).read_bytes()
    wheels = "" if isinstance(made, Image) else made.digest
    prepared = Prepared(facts["root"], wheels, hashlib.sha256(unit).hexdigest()[:16], "", have)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(made, Image):
            prepared = replace(prepared, wheels=_contain(host, prepared, made))
        else:
            send(host, prepared, made.archive, f"wheels-{wheels}.tar")
        if data is not None:
            archive, digest = pack(data, ".", Path(folder))
            prepared = replace(prepared, data=digest)
            send(host, prepared, archive, f"data-{digest}.tar")
        unit_file = Path(folder) / "unit"
        unit_file.write_bytes(unit)
        send(host, prepared, unit_file, f"unit-{prepared.unit}")
    if not isinstance(made, Image):
        run(host, timeout_s, "prepare", prepared.root, facts["python"], wheels)
    return prepared


def send(host: Host, prepared: Prepared, source: Path, name: str) -> None:
    """Uploads a file whose name says its content, unless it is there."""
    if name not in prepared.have:
        host.upload(source, f"{prepared.root}/uploads/{name}", mode=0o600)


def activate(host: Host, prepared: Prepared, digest: str, *, timeout_s: float) -> Release:
    """Makes a kit, uploaded or packaged there, the current one; a site that runs another is stopped."""
    root = prepared.root
    said = run(host, timeout_s, "install", root, digest, prepared.wheels, prepared.unit, prepared.data)
    release = Release(digest=digest, root=root, python=f"{root}/venv/bin/python")
    if said.split()[-1:] == ["changed"]:
        stop(host, release)  # the next start runs the new kit
    return release


def releases(host: Host, root: str) -> Releases:
    """Returns which releases a site's machine has."""
    said = _facts(run(host, START_S, "releases", root))
    return Releases(**{name: said[name] for name in Releases.__dataclass_fields__})


def confirm(host: Host, release: Release) -> None:
    """Notes that the current release is good: it is where a later rollback leads. What is older than two goes."""
    run(host, REMOVE_S, "confirm", release.root)


def roll_back(host: Host, release: Release, to: str) -> Release:
    """Stops the site and makes an earlier release the current one; `start` and `confirm` are left to the caller.

    Args:
        host: the machine.
        release: what is installed there now.
        to: as `releases` names it.
    """
    run(host, STOP_S, "rollback", release.root, release.service, to)
    return replace(release, digest=releases(host, release.root).kit)


def start(host: Host, release: Release) -> None:
    """Starts the site unless it runs; the kit's own `start.sh` does it, supervised by systemd where there is one."""
    run(host, STOP_S, "start", release.root, release.service)


def stop(host: Host, release: Release) -> None:
    """Stops the site and waits for its end."""
    run(host, STOP_S, "stop", release.root, release.service)


def is_running(host: Host, release: Release) -> bool:
    """Tells whether the site's supervisor is there."""
    return run(host, START_S, "alive", release.root, release.service).split()[-1:] == ["yes"]


def uninstall(host: Host, release: Release) -> None:
    """Stops the site and removes its folder."""
    run(host, REMOVE_S, "uninstall", release.root, release.service)


def unfinished(host: Host, project: str, site: str) -> Release:
    """Returns what there is to uninstall of a site whose installation was cut off: its folder, wherever that is."""
    return Release("", _facts(run(host, CLOUD_INIT_S, "probe", project, site))["root"], "")


def status(host: Host, release: Release) -> dict[str, Any] | None:
    """Returns what the site's runtime says of itself (`state`, `since`, …); None when it never ran."""
    raw = host.read(f"{release.root}/workspace/status.json", limit=STATUS_BYTES)
    if raw is None:
        return None
    try:
        said: dict[str, Any] = json.loads(raw)
    except ValueError as error:
        raise StateError(
            f"the status of the site on {host.name} cannot be read", why=str(error), hint="look at the site's log"
        ) from error
    return said


def logs(host: Host, release: Release, *, lines: int) -> str:
    """Returns the last lines of the site's log."""
    return host.run(["tail", "-n", str(lines), f"{release.root}/workspace/log.txt"], timeout_s=30, check=False).output


def pack(folder: Path, top: str, into: Path) -> tuple[Path, str]:
    """Packs a folder into a tar whose bytes depend on names, modes and contents alone.

    Returns:
        The tar, born 0600 since kits hold private keys, and the short digest of its bytes.
    """
    archive = into / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.tar"
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            info = tarfile.TarInfo(str(Path(top) / path.relative_to(folder)))
            info.mode = path.stat().st_mode & 0o777
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                content = path.read_bytes()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()[:16]


def run(host: Host, timeout_s: float, *arguments: str) -> str:
    """Runs an action of `bootstrap.sh` and returns the end of what it printed.

    Raises:
        RemoteCommandFailed: it failed; names the action.
        RemoteTimeout: it did not end in time.
    """
    script = resources.files("clouddeploy.remote").joinpath("bootstrap.sh").read_bytes()
    try:
        return host.run(commands.script(*arguments), timeout_s=timeout_s, input=script).output
    except RemoteCommandFailed as error:
        raise RemoteCommandFailed(
            f"{arguments[0]} failed on {host.name}", status=error.status, tail=error.tail
        ) from error
    except RemoteTimeout as error:
        is_probe = arguments[0] == "probe"  # which waits until cloud-init is done
        raise RemoteTimeout(
            f"{arguments[0]} on {host.name} did not end within {timeout_s:.0f} s",
            why="cloud-init may still be at work there" if is_probe else error.why,
            hint="look at the machine (cloud-init status --long), then repeat" if is_probe else error.hint,
        ) from error


def _install_driver(host: Host) -> None:
    """Brings an NVIDIA GPU to work; a machine where that is not possible for us can train without it.

    Raises:
        RemoteCommandFailed: it was tried and did not work.
    """
    hint = "install it there (Ubuntu: sudo ubuntu-drivers install --gpgpu), restart the machine, then repeat"
    try:
        said = run(host, DRIVER_S, "driver").strip().rpartition("\n")[2]
    except RemoteCommandFailed as error:
        raise RemoteCommandFailed(
            f"the driver of the NVIDIA GPU of {host.name} could not be installed",
            status=error.status,
            tail=error.tail,
            hint=hint,
        ) from error
    if said != "ready":
        log.warning("the NVIDIA GPU of %s does not work: %s; %s", host.name, said, hint)


def _contain(host: Host, prepared: Prepared, image: Image) -> str:
    """Makes an environment from a container image there; returns its digest.

    Raises:
        RemoteCommandFailed: there is no engine, the image cannot be had, or it lacks what the site needs.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as into:
        container.write_tools(Path(folder))
        archive, tools = pack(Path(folder), ".", Path(into))
        send(host, prepared, archive, f"container-{tools}.tar")
    try:
        said = run(host, PULL_S, "contain", prepared.root, *image.words(tools))
    except RemoteCommandFailed as error:
        raise RemoteCommandFailed(
            f"{image.reference} cannot run a site on {host.name}",
            status=error.status,
            tail=error.tail,
            hint="mend that and run the same command again; docs/deploy-file.md says what image and machine need",
        ) from error
    for line in said.splitlines():
        if line.startswith("warning: "):
            log.warning("%s: %s", host.name, line.removeprefix("warning: "))
    return said.split()[-1]


def _facts(said: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
