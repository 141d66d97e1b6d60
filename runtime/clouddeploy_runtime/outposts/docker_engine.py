"""The container engine: docker, or podman by the same API; the one place where its errors become ours."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker import errors as refusals
from docker.types import LogConfig, Mount

from clouddeploy_runtime.errors import RuntimeFault, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOCKETS = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "{runtime}/podman/podman.sock",
    "/run/podman/podman.sock",
)
"""Where engines listen; the ones of an account are below its XDG_RUNTIME_DIR."""
TIMEOUT_S = 60.0
PULL_S = 1800.0
REMOVAL_S = 10.0
_PAUSE_S = 0.2
_LAST_WORDS = 5


class EngineRefused(RuntimeFault):
    """The container engine is not there, or will not do what it was asked."""

    error_code = "ENGINE_REFUSED"


@dataclass(frozen=True)
class Kind:
    """What kind of engine it is."""

    is_podman: bool = False
    is_rootless: bool = False


@dataclass(frozen=True)
class Image:
    """An image that is here.

    Attributes:
        id: its digest; a tag may lead elsewhere a moment later.
        name: as it was asked for, with the digest of its registry where there is one.
        environment: what it sets.
    """

    id: str
    name: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """How a container is.

    Attributes:
        status: the engine's word; empty: there is none.
        exit_code: counts when it has ended.
        is_oom: whether something in it took too much memory.
        error: the engine's own words.
    """

    status: str = ""
    exit_code: int = 0
    is_oom: bool = False
    error: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in {"", "exited", "dead", "removing", "stopped"}


class Engine:
    """What the launcher asks of an engine.

    Args:
        client: of its API.
        where: it listens.
    """

    def __init__(self, client: Any, where: str) -> None:
        self._client = client
        self._where = where
        with _wrapped("The container engine does not answer"):
            components = client.version().get("Components") or [{}]
            security = client.info().get("SecurityOptions") or []
        self.kind = Kind(
            is_podman="podman" in str(components[0].get("Name", "")).casefold(),
            is_rootless=any("rootless" in one for one in security),
        )

    def image(self, name: str, *, may_pull: bool) -> Image:
        """Return an image, fetched if it is missing."""
        with _wrapped(f"The image {name} cannot be had"):
            try:
                found = self._client.images.get(name)
            except refusals.ImageNotFound:
                if not may_pull:
                    raise
                self._pull(name)
                found = self._client.images.get(name)
        variables = (one.partition("=") for one in found.attrs.get("Config", {}).get("Env") or [])
        digests = found.attrs.get("RepoDigests") or [name]
        return Image(found.id, name if "@" in name else digests[0], {key: value for key, _, value in variables})

    def _pull(self, name: str) -> None:
        repository, tag = docker.utils.parse_repository_tag(name)
        with contextlib.closing(docker.DockerClient(base_url=self._where, timeout=PULL_S)) as patient:
            patient.images.pull(repository, tag=tag or "latest")

    def own(self, name: str) -> tuple[str, Mapping[str, str]]:
        """Return a container's image, and its address in each of its networks."""
        with _wrapped(f"The engine does not know the container {name} of this site"):
            found = self._client.containers.get(name)
        networks = found.attrs["NetworkSettings"].get("Networks") or {}
        return found.attrs["Image"], {network: one.get("IPAddress", "") for network, one in networks.items()}

    def gateway(self, network: str) -> str:
        """Return the address of this machine in a network; empty: it has none there."""
        with _wrapped(f"The network {network} cannot be used"):
            found = self._client.networks.get(network)
        configurations = (found.attrs.get("IPAM") or {}).get("Config") or []
        return next((one["Gateway"] for one in configurations if one.get("Gateway")), "")

    def create(self, options: Mapping[str, Any]) -> str:
        """Make a container and start it, given what `docker_container.options` says; returns its id."""
        with _wrapped(f"The container {options.get('name')} of the job cannot be started"):
            mounts = [
                Mount(target, source, type="bind", read_only=is_read_only)
                for source, target, is_read_only in options["mounts"]
            ]
            log = LogConfig(**options["log_config"])
            made = self._client.containers.create(**{**options, "mounts": mounts, "log_config": log})
            try:
                made.start()
            except refusals.DockerException:
                made.remove(force=True)
                raise
        return str(made.id)

    def state(self, container: str) -> State:
        """Return how a container is."""
        with _wrapped("The container of the job cannot be looked at"):
            try:
                found = self._client.containers.get(container).attrs["State"]
            except refusals.NotFound:
                return State()
        code, error = int(found.get("ExitCode") or 0), str(found.get("Error") or "")
        return State(str(found.get("Status", "")), code, bool(found.get("OOMKilled")), error)

    def last_words(self, container: str) -> str:
        """Return the last lines that a container printed; empty: none, or they cannot be had."""
        with contextlib.suppress(refusals.DockerException, requests.RequestException):
            said: bytes = self._client.containers.get(container).logs(tail=_LAST_WORDS)
            return printable(" / ".join(said.decode(errors="replace").split("\n")).strip(" /"))
        return ""

    def end(self, container: str, number: str = "SIGTERM") -> None:
        """Send a container a signal; harmless when it has ended."""
        with contextlib.suppress(refusals.APIError), _unreachable():
            self._client.containers.get(container).kill(signal=number)

    def remove(self, container: str) -> None:
        """End and remove a container; harmless when it is gone.

        An engine refuses for a moment while a container ends by itself, or somebody else removes it.
        """
        deadline = time.monotonic() + REMOVAL_S
        with _wrapped("The container of a job cannot be removed"), contextlib.suppress(refusals.NotFound):
            while True:
                try:
                    self._client.containers.get(container).remove(force=True)
                except refusals.NotFound:
                    raise
                except refusals.APIError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE_S)

    def labelled(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Return the containers with all these labels, those that have ended among them."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        with _wrapped("The containers of earlier jobs cannot be listed"):
            found = self._client.api.containers(all=True, filters={"label": wanted})
        return tuple(one["Id"] for one in found)


def connect() -> Engine:
    """Return the engine of this machine.

    Raises:
        EngineRefused: none answers.
    """
    where = address()
    _try(where)
    with _wrapped(f"No container engine answers at {where}"):
        client = docker.DockerClient(base_url=where, timeout=TIMEOUT_S, version="auto")
    return Engine(client, where)


def _try(where: str) -> None:
    """Knock at a socket; the client's own words about one that is not there are of its insides."""
    kind, _, path = where.partition("://")
    if kind != "unix":
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as exc:
            raise EngineRefused(
                f"No container engine answers at {where}",
                why=exc.strerror or str(exc),
                hint="Start it, or name another one's socket in DOCKER_HOST.",
            ) from exc


def address() -> str:
    """Return where the engine listens: DOCKER_HOST, else the first of `SOCKETS` that is there.

    Raises:
        EngineRefused: there is none.
    """
    if named := os.environ.get("DOCKER_HOST", ""):
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for one in SOCKETS:
        path = Path(one.format(runtime=runtime))
        if path.is_socket() and os.access(path, os.R_OK | os.W_OK):
            return f"unix://{path}"
    raise EngineRefused(
        "There is no container engine to start jobs with",
        why="DOCKER_HOST is not set, and this account may use no socket of docker or podman",
        hint="Start one (`systemctl --user start podman.socket`), or name its socket in DOCKER_HOST.",
    )


@contextlib.contextmanager
def _wrapped(what: str) -> Iterator[None]:
    """Make the client's errors ours."""
    with _unreachable():
        try:
            yield
        except refusals.APIError as exc:
            raise EngineRefused(what, why=printable(str(exc.explanation or exc))) from exc
        except (refusals.DockerException, TypeError) as exc:  # TypeError: an option that the client does not know
            raise EngineRefused(what, why=printable(str(exc))) from exc


@contextlib.contextmanager
def _unreachable() -> Iterator[None]:
    try:
        yield
    except requests.RequestException as exc:
        raise EngineRefused(
            "The container engine does not answer", why=printable(str(exc)), hint="Look at it with `docker info`."
        ) from exc
