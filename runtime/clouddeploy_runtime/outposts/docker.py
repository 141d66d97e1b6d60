"""Jobs in containers of this machine: the launcher `docker`, for docker and for podman by its API.

The client of the engine is imported by the processes of jobs alone; see `engines.KINDS`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import job_folders, study_runtime
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts import docker_container, docker_settings
from clouddeploy_runtime.outposts.docker_container import Place
from clouddeploy_runtime.outposts.docker_settings import DockerSettings
from clouddeploy_runtime.outposts.post import Launch, Way, secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.docker_engine import Engine
    from clouddeploy_runtime.outposts.post import Errand

log = logging.getLogger(__name__)

OWN = "CLOUDDEPLOY_DOCKER_NAME"
"""Of a parent that runs in a container: the container's name."""


class DockerPost:
    """One job's container.

    Args:
        errand: what is to run.
        engine: where.
    """

    def __init__(self, errand: Errand, engine: Engine) -> None:
        self._errand = errand
        self._engine = engine
        self._settings = _settings(errand.settings)
        self._study = study_runtime.of(Path(errand.local), errand.study)
        self._image, self._addresses = _own(engine)
        self._wished = docker_container.image_of(errand, self._settings, self._study)
        self.way = self._way()
        self._root = Path(tempfile.mkdtemp(prefix="clouddeploy-line-"))
        self.folder = self._root / "line"
        self._container = ""
        for one in (self.folder, self._root / "tmp"):
            one.mkdir(mode=0o700)

    def open(self) -> Launch:
        """Make the container and start it."""
        name = self._wished or self._image
        if not name:
            raise BadLauncher(
                "There is no image for the job's container",
                why="neither the job nor its study nor the launcher names one, and the site runs in none",
                hint='Name it as "image" of docker_launcher in local/resources.json.',
            )
        image = self._engine.image(name, may_pull=self._settings.pull == "missing")
        kind = self._engine.kind
        user, userns = _user(is_podman=kind.is_podman, is_rootless=kind.is_rootless)
        at = Place(user, userns, image.id, image.environment, self._root, kind.is_podman)
        options = docker_container.options(self._errand, self._settings, self._study, at)
        for left in self._engine.labelled({**options["labels"]}):
            self._engine.remove(left)  # of an earlier start of this job
        launch = docker_container.launch(
            self._errand, self._settings, self._study, at, secrets(self._study, self._errand.study)
        )
        self._container = self._engine.create(options)
        log.info("The job runs in the container %s of the image %s (%s)", options["name"], image.name, image.id)
        return launch

    def problem(self) -> str:
        """Return how the container ended; empty while it runs."""
        try:
            state = self._engine.state(self._container)
        except RuntimeFault as exc:
            return str(exc)
        if not state.has_ended:
            return ""
        name = f"its container {docker_container.name_of(self._errand)}"
        if not state.status:
            return f"{name} was removed"
        why = f": {state.error}" if state.error else ""
        if state.is_oom:
            return f"{name} ran out of memory{why}"
        said = self._engine.last_words(self._container)
        return f"{name} ended with {state.exit_code}{why}" + (f"; it said last: {said}" if said else "")

    def stop(self) -> None:
        """Ask it to end."""
        if self._container:
            self._engine.end(self._container)

    def close(self) -> None:
        """Remove it, and its temporary files; what the engine will not remove is left to the next start of the site."""
        container, self._container = self._container, ""
        try:
            if container:
                self._engine.remove(container)
        except RuntimeFault as exc:
            log.warning("%s", exc)  # how the job ended counts, not this
        finally:
            job_folders.remove(self._root)

    def _way(self) -> Way:
        settings = self._settings
        host, bind = settings.parent_host, ""
        if settings.network == "host":
            host, bind = host or "127.0.0.1", "127.0.0.1"
        elif not host:
            host, bind = self._address()
        return Way(host, bind=bind, ports=settings.ports, pending_s=settings.pending_timeout)

    def _address(self) -> tuple[str, str]:
        """Return this process as a container in the job's network sees it, and where it listens for that."""
        kind = self._engine.kind
        network = self._settings.network or ("podman" if kind.is_podman else "bridge")
        if self._addresses:
            if address := self._addresses.get(network):
                return address, address
            raise BadLauncher(
                f"This site's container is not in the network {network} of its jobs",
                why=f"it is in {', '.join(self._addresses)}",
                hint='Name one of these as "network" of docker_launcher in local/resources.json, or its parent_host.',
            )
        if kind.is_rootless:  # its networks are in a namespace of their own; this machine is behind a name
            return ("host.containers.internal" if kind.is_podman else "host.docker.internal"), ""
        if gateway := self._engine.gateway(network):
            return gateway, ""  # podman makes the bridge when its first container starts
        raise BadLauncher(
            f"How jobs in the network {network} reach this site is not known",
            why="the network has no gateway",
            hint='Say it as "parent_host" of docker_launcher in local/resources.json.',
        )


def check(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with the ones that were left out.

    Raises:
        BadLauncher: one is wrong, or the engine's client is not installed.
    """
    parsed = docker_settings.parse(settings)
    for module in ("docker", "yaml"):
        if importlib.util.find_spec(module) is None:
            raise BadLauncher(
                "jobs cannot be started by the launcher 'docker'",
                why=f"it needs {module}, which is not installed",
                hint="pip install 'clouddeploy-runtime[docker]'",
            )
    return asdict(parsed)


def post(errand: Errand) -> DockerPost:
    """Return the place of one job."""
    from clouddeploy_runtime.outposts import docker_engine  # noqa: PLC0415 - the parent must not load it

    return DockerPost(errand, docker_engine.connect())


def sweep(settings: Mapping[str, Any], _site: str) -> None:
    """Remove the containers of earlier jobs of this site."""
    from clouddeploy_runtime.outposts import docker_engine  # noqa: PLC0415 - as above

    if not settings.get("participant"):
        return  # whose they are would not be known
    engine = docker_engine.connect()
    for container in engine.labelled(docker_container.labels(settings)):
        engine.remove(container)
        log.info("The container %s was left by a job of a site that was killed, and is removed", container[:12])


def _settings(given: Mapping[str, Any]) -> DockerSettings:
    return docker_settings.parse({key: given[key] for key in DockerSettings.__dataclass_fields__ if key in given})


def _own(engine: Engine) -> tuple[str, Mapping[str, str]]:
    """Return the image and the addresses of the container that this process runs in; nothing: it runs in none."""
    name = os.environ.get(OWN, "")
    return engine.own(name) if name else ("", {})


def _user(*, is_podman: bool, is_rootless: bool) -> tuple[str, str]:
    """Return whom a container's process is, and podman's mapping of users: files it writes are this account's.

    Without root, docker's root is the account; podman can give it its own number.
    """
    own = f"{os.getuid()}:{os.getgid()}"
    if not is_rootless or os.getuid() == 0:
        return own, ""
    return (own, "keep-id") if is_podman else ("0:0", "")
