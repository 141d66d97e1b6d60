"""One startup kit without its project: whose it is, which ports it needs, and that it may be deployed at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.resources import Need
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import kit as reader
from clouddeploy_runtime.kit.kit import is_host
from clouddeploy_runtime.kit.verify import issuer_of
from cryptography import x509

from clouddeploy.errors import ConfigError
from clouddeploy.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNED = ("startup/manifest.json", "startup/manifest.json.sig")
"""Every kit of ours has them, and none of the reference."""
START = "startup/start.sh"
OUR_START = b"clouddeploy"
"""What no start script of the reference says: a kit of ours without its signature is no kit of the reference."""
PARTS = ("startup", "local")
"""The kit in a kit's folder; a site that ran there has left its own things beside them."""
RESOURCES = ("local/resources.json", "local/resources.json.default")
"""What a site says of itself; the first that exists counts."""
MAX_PORT = 65535
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What the reference allows for sites and projects, which is safe as the name of a folder."""


class Maker(StrEnum):
    """Who has made a kit, which decides what runs it."""

    OURS = "ours"
    NVFLARE = "nvflare"


@dataclass(frozen=True)
class LoneKit:
    """A server's or client's kit, verified as far as its maker lets it be.

    Attributes:
        folder: the kit, which holds `startup/` and `local/`.
        maker: who made it.
        is_server: whether it is a server's; else it is a client's.
        project: the project's name.
        participant: whose kit it is.
        server: the server's host: where clients go, as far as the kit says.
        hosts: of a server, all names and addresses to which its certificate is issued; clients go to one of them.
        ports: the server's; the federation's first, then the admins' if that is another.
        tls_name: the name to which the server's certificate is issued.
        roots: PEM of the certificates under which the server's is.
        need: what the site offers to jobs; None: no GPUs.
    """

    folder: Path
    maker: Maker
    is_server: bool
    project: str
    participant: str
    server: str
    ports: tuple[int, ...]
    tls_name: str
    roots: bytes
    need: Need | None = None
    hosts: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        """The server as `host:port`."""
        return reader.join(self.server, self.ports[0])

    @property
    def facts(self) -> Facts:
        """What the engine needs to know."""
        name = self.participant
        return Facts(
            project=self.project,
            server=name if self.is_server else None,
            clients=() if self.is_server else (name,),
            ports=self.ports if self.is_server else (),
            capacities={name: self.need} if self.need else {},
            is_signed_here=False,
        )


def read(folder: Path, *, now: datetime | None = None) -> LoneKit:
    """Reads a kit and refuses it unless it may be started.

    A kit of ours is held against its signed manifest. One of the reference has no signature over its files, so it is
    parsed, its certificates must be in time and the participant's must be under the kit's root.

    Args:
        folder: the kit.
        now: the time to judge certificates by; the clock's when not given.

    Raises:
        KitError: it is no kit, was changed after it was signed, or its time is over.
        ConfigError: it is the kit of an admin or a relay, or cannot be deployed alone.
    """
    root, moment = reader.folder_of(folder), now or datetime.now(UTC)
    _check_files(root)
    is_ours = _is_ours(root)
    if is_ours:
        kits.verify(root, now=moment)
    found = kits.load(root)
    if found.kind not in {kits.Kind.SERVER, kits.Kind.CLIENT}:
        raise ConfigError(
            f"{folder} cannot be deployed",
            why=f"it is the kit of {found.name}, of the kind {found.kind.value}",
            hint="name the kit of a server or of a client",
        )
    for what, name in (("project", found.project), ("participant", found.name)):
        if NAME.fullmatch(name) is None:
            raise ConfigError(
                f"{folder} cannot be deployed",
                why=f"the name of its {what}, {name!r}, cannot be the name of a folder",
                hint="letters, digits, dots, dashes and underscores are fine",
            )
    if found.port == 0:
        raise ConfigError(
            f"{folder} cannot be deployed",
            why="local/endpoint.json lets the server take any free port, and clients and the firewall need to know it",
            hint="name the port there, or remove that file",
        )
    if not is_ours:
        _check_theirs(found, moment)
    return _lone(found, is_ours=is_ours)


def unreadable(folder: Path, participant: str, *, project: str, is_server: bool) -> LoneKit:
    """Returns what stands for a kit that cannot be read any more, for those who end what was made with it."""
    return LoneKit(folder, Maker.OURS, is_server, project, participant, "", (0,), "", b"")


@contextmanager
def alone(kit: LoneKit, *, below: str = "") -> Iterator[Path]:
    """Yields a folder with a copy of the kit and of nothing that lies beside it, for as long as the context lasts.

    Args:
        kit: the kit.
        below: where in the folder it is; empty: it is the folder.
    """
    with tempfile.TemporaryDirectory(prefix="clouddeploy-") as folder:  # 0700: it holds a private key for a moment
        copied = Path(folder) / "kit"
        (copied / below).mkdir(parents=True)
        for part in PARTS:
            if (kit.folder / part).is_dir():
                shutil.copytree(kit.folder / part, copied / below / part, symlinks=True)
        yield copied


def _is_ours(root: Path) -> bool:
    if any(os.path.lexists(root / name) for name in SIGNED):
        return True
    start = root / START
    return start.is_file() and OUR_START in reader.read_file(start)


def _check_files(root: Path) -> None:
    """Refuses links and devices: what they lead to is not of the kit, and would be sent to its machine."""
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ConfigError(
                    f"{root} cannot be deployed",
                    why=f"{path.relative_to(root)} is neither a file nor a folder",
                    hint="ask the project admin for the kit again",
                )


def _lone(found: kits.Kit, *, is_ours: bool) -> LoneKit:
    server = found.host
    ports: tuple[int, ...] = (found.port,)
    is_server = found.kind is kits.Kind.SERVER
    tls_name = found.server_name
    hosts: tuple[str, ...] = ()
    if is_server:
        entry = found.settings["servers"][0]
        hosts = _hosts(reader.certificate(found.cert_file)) or (found.name,)
        # Its own file has its logical name; where clients go is among the names of its certificate, and looks like it.
        server = next((host for host in hosts if "." in host or ":" in host), hosts[0])
        # Our server speaks to admins on its one port, whatever the file says besides.
        ports = (found.port,) if is_ours else tuple(dict.fromkeys((found.port, _port(found, entry))))
        if not is_ours:
            tls_name = hosts[0]  # the reference does not always put the logical name among them
    return LoneKit(
        folder=found.root,
        maker=Maker.OURS if is_ours else Maker.NVFLARE,
        is_server=is_server,
        project=found.project,
        participant=found.name,
        server=server,
        ports=ports,
        tls_name=tls_name,
        roots=reader.read_file(found.root_cert_file),
        need=_need(found.root),
        hosts=hosts,
    )


def _check_theirs(found: kits.Kit, now: datetime) -> None:
    if found.connection_security == "clear":
        raise ConfigError(
            f"{found.root} cannot be deployed",
            why="it speaks without TLS (connection_security: clear), so everybody on the way could read and change it",
            hint="ask the project admin for a kit with mtls",
        )
    roots = reader.authorities(found.root_cert_file)
    own = reader.certificate(found.cert_file)
    authority = issuer_of(own, roots)
    if authority is None:
        raise kits.KitError(
            f"{found.cert_file} cannot be used",
            why="it was not issued by the kit's own rootCA.pem",
            hint="ask the project admin for the kit again",
        )
    for path, one in ((found.cert_file, own), (found.root_cert_file, authority)):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            raise kits.KitExpired(
                f"{path} is not valid now",
                why=f"its time is {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}",
                hint="ask the project admin for a new kit",
            )


def _port(found: kits.Kit, entry: dict[str, Any]) -> int:
    port = entry.get("admin_port")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= MAX_PORT:
        raise kits.KitError(
            f"{found.startup / 'fed_server.json'} cannot be used",
            why=f"admin_port {port!r} is not in 1 to {MAX_PORT}",
            hint="ask the project admin for the kit again",
        )
    return port


def _hosts(cert: x509.Certificate) -> tuple[str, ...]:
    """Returns the names and addresses that TLS accepts for this certificate."""
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(host for host in found if is_host(host))


def _need(root: Path) -> Need | None:
    """Returns what the site's resource manager offers to jobs: its number of GPUs and the memory of each."""
    for name in RESOURCES:
        file = root / name
        if not file.exists():
            continue
        try:
            document = json.loads(reader.read_file(file))
            managers = [one for one in document.get("components", []) if one.get("id") == "resource_manager"]
            given = [one.get("args") or {} for one in managers]
            gpus = max((int(one.get("num_of_gpus") or 0) for one in given), default=0)
            memory = max((float(one.get("mem_per_gpu_in_GiB") or 0) for one in given), default=0.0)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise kits.KitError(
                f"{file} cannot be used", why=str(error), hint="correct it: the site could not start with it either"
            ) from error
        return Need(gpus=gpus, gpu_memory_gib=memory) if gpus > 0 else None
    return None
