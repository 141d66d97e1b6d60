"""The machine: Python and packages, ports, folders that are to be written, room on the disk, graphics cards."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import places, settings, temporary_folder
from clouddeploy_runtime.kit.kit import Kind, join
from clouddeploy_runtime.preflight import versions
from clouddeploy_runtime.preflight.findings import Finding, Status, found, passed, skipped
from clouddeploy_runtime.relay.listening import listening

if TYPE_CHECKING:
    from clouddeploy_runtime.kit.kit import Kit
    from clouddeploy_runtime.settings import Address, Settings

# The server's modules need gRPC, which need not be there to check a kit.
# ruff: noqa: PLC0415

_DISTRIBUTION = "clouddeploy-runtime"
_PYTHON, _PACKAGES, _DISK = "Check Python", "Check packages", "Check disk"
_FL_PORT, _ADMIN_PORT = "Check FL port binding", "Check admin port binding"
_METRICS_PORT, _RELAY_PORT = "Check metrics port binding", "Check relay port binding"
_SNAPSHOTS, _JOBS, _WORKSPACE = "Check snapshot storage writable", "Check job storage writable", "Check workspace"
_TEMPORARY, _GPUS = "Check temporary folder", "Check GPUs"
_LOW_BYTES = 1 << 30
_GIB = 1 << 30
_RUNNING = frozenset({"starting", "serving", "connecting", "registered"})


def software() -> list[Finding]:
    """Compare Python and the packages with what the runtime's wheel asks for."""
    try:
        described = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        why = f"{_DISTRIBUTION} is not installed, so what it needs is not known"
        return [skipped(_PYTHON, why), skipped(_PACKAGES, why)]
    here, wanted = platform.python_version(), described.metadata["Requires-Python"] or ""
    python = passed(_PYTHON, here)
    if not versions.fits(here, wanted):
        python = found(_PYTHON, "PYTHON_VERSION", f"it is {here}, and {wanted} is needed")
    return [python, _packages(versions.requirements(described.requires or ()))]


def _packages(wanted: dict[str, str]) -> Finding:
    missing, other, there = [], [], []
    for name, specifier in wanted.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name}{specifier}")
            continue
        there.append(f"{name} {version}")
        if not versions.fits(version, specifier):
            other.append(f"{name} {version}, and {specifier} is needed")
    if missing:
        return found(_PACKAGES, "PACKAGE_MISSING", ", ".join(missing))
    if other:
        return found(_PACKAGES, "PACKAGE_VERSION", "; ".join(other))
    return passed(_PACKAGES, ", ".join(there))


def workspace_of(kit: Kit, given: Path | None) -> Path:
    """Return where a participant works: what is given, what the environment names, or the kit, as for start.sh."""
    return given or places.workspace_of(kit.root) or kit.root


def ports(kit: Kit, read: Settings, workspace: Path) -> list[Finding]:
    """Bind each port that is to be listened on and give it back at once; nobody can connect to it meanwhile."""
    if kit.kind is Kind.RELAY:
        host, port = listening(kit)
        return [_port(_RELAY_PORT, host or "0.0.0.0", port, _is_running(kit, workspace))]  # noqa: S104 - as it listens
    if kit.kind is not Kind.SERVER:
        return []
    from clouddeploy_runtime.server.parent import listen_address

    text, is_here = listen_address(kit), _is_running(kit, workspace)
    where = settings.address_of(text)
    if where is None:
        return [skipped(_FL_PORT, f"{text} is no host and port")]
    findings = [_port(_FL_PORT, *where, is_here), _admin_port(kit, where)]
    if read.metrics is not None:
        findings.append(_port(_METRICS_PORT, *read.metrics, is_here))
    return findings


def _port(check: str, host: str, port: int, is_here: bool) -> Finding:
    problem = _bind_problem(host, port)
    if not problem:
        return passed(check, f"{join(host, port)} is free" if port else "any free port")
    if is_here:
        return passed(check, f"running here: this kit's own process listens at {join(host, port)}")
    remedy = f"`ss -ltnp` shows who has port {port}."
    return found(check, "PORT_UNAVAILABLE", f"Can't bind to address ({host}:{port}): {problem}", remedy=remedy)


def _admin_port(kit: Kit, where: Address) -> Finding:
    port = kit.settings["servers"][0].get("admin_port")
    signed = str(kit.settings["servers"][0]["service"]["target"]).rpartition(":")[2]
    if not isinstance(port, int) or str(port) == signed or port == where.port:
        return passed(_ADMIN_PORT, "people come in over the FL port")
    problem = _bind_problem(where.host, port)
    if problem:
        return found(_ADMIN_PORT, "ADMIN_PORT_UNAVAILABLE", f"Can't bind to address ({where.host}:{port}): {problem}")
    return passed(_ADMIN_PORT, f"{join(where.host, port)} is free")


def _bind_problem(host: str, port: int) -> str:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in entries:
            with socket.socket(family, kind, protocol) as probe:
                # As gRPC does: a port that a connection has just left is free; one that is listened on is not.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6 and host == "::":
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                probe.bind(address)
    except (OSError, OverflowError) as exc:
        return getattr(exc, "strerror", None) or str(exc)
    return ""


def _is_running(kit: Kit, workspace: Path) -> bool:
    """Tell whether the kit's own process runs, by its status file; its lock is left alone."""
    for folder in (workspace, kit.root / "workspace"):
        status: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            read = json.loads((folder / "status.json").read_bytes())
            status = read if isinstance(read, dict) else {}
        if status.get("name") == kit.name and status.get("state") in _RUNNING and _is_ours(status.get("pid")):
            return True
    return False


def _is_ours(pid: object) -> bool:
    with contextlib.suppress(OSError):
        return isinstance(pid, int) and b"clouddeploy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def folders(kit: Kit, read: Settings, workspace: Path) -> list[Finding]:
    """Write a page where the participant writes, in a file that loses its name at once, and look at the room."""
    if kit.kind is Kind.ADMIN:
        return []
    findings = [_written(_WORKSPACE, workspace, "WORKSPACE_UNUSABLE")]
    if kit.kind is Kind.SERVER:
        findings += _storage(kit, workspace, is_writable=findings[0].status is Status.PASS)
    findings.append(_room(workspace))
    if kit.kind in {Kind.SERVER, Kind.CLIENT}:
        findings.append(_temporary(read))
    return findings


def _storage(kit: Kit, workspace: Path, *, is_writable: bool) -> list[Finding]:
    """Look at where jobs and their snapshots lie; what is wrong with the folder around them is told once."""
    from clouddeploy_runtime.server.store import root_of

    jobs = root_of(workspace)
    snapshots = _configured(kit, "snapshot_persistor")
    found_snapshots = passed(_SNAPSHOTS, "they lie with the jobs")
    if snapshots is not None:
        found_snapshots = _written(_SNAPSHOTS, snapshots, "STORAGE_UNWRITABLE")
    if not is_writable and _nearest(jobs) == _nearest(workspace):
        return [found_snapshots, skipped(_JOBS, f"{_WORKSPACE} failed, and they lie there")]
    return [found_snapshots, _written(_JOBS, jobs, "STORAGE_UNWRITABLE")]


def _configured(kit: Kit, name: str) -> Path | None:
    """Return the folder that `local/resources.json` names in full; what it names in part lies with the jobs here."""
    for file in settings.FILES:
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            path = Path(json.loads((kit.local / file).read_bytes())[name]["uri_root"])
            return path if path.is_absolute() else None
    return None


def _nearest(folder: Path) -> Path:
    """Return the folder, or the one above it that is there and in which it would be made."""
    return next((one for one in (folder, *folder.absolute().parents) if one.exists()), folder)


def _written(check: str, folder: Path, code: str) -> Finding:
    place = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            os.posix_fallocate(probe.fileno(), 0, 1)
    except OSError as exc:
        return found(check, code, f"Can't write to {folder}: {exc.strerror or exc}.")
    return passed(check, f"{folder} can be written" if place == folder else f"{folder} can be made")


def _room(workspace: Path) -> Finding:
    place = _nearest(workspace)
    try:
        free, nodes = shutil.disk_usage(place).free, os.statvfs(place)
    except OSError as exc:
        return found(_DISK, "DISK_FULL", f"{place} cannot be looked at: {exc.strerror}")
    text = f"{free / _GIB:.1f} GiB are free in {place}"
    if free < temporary_folder.LEAST_BYTES or (nodes.f_files and not nodes.f_favail):
        return found(_DISK, "DISK_FULL", f"{text}, for {nodes.f_favail} files")
    return found(_DISK, "DISK_LOW", text) if free < _LOW_BYTES else passed(_DISK, text)


def _temporary(read: Settings) -> Finding:
    """Tell whether tensors find room here; a kit whose tensors must go there is not started without."""
    looked = temporary_folder.look()
    if looked.problem:
        code = "TEMPORARY_FOLDER_REFUSED" if read.offloads_tensors else "TEMPORARY_FOLDER_POOR"
        return found(_TEMPORARY, code, looked.problem)
    kind = looked.kind or "a file system of unknown kind"
    return passed(_TEMPORARY, f"{looked.free_bytes / _GIB:.1f} GiB free in {looked.path}, {kind}")


def gpus(kit: Kit, read: Settings) -> list[Finding]:
    """Compare the cards that a site offers with those that the driver knows."""
    if kit.kind is not Kind.CLIENT:
        return []
    if not read.gpus:
        return [passed(_GPUS, "none is offered")]
    if read.ignores_host:
        return [passed(_GPUS, f"{read.gpus} are offered, whatever the machine has (ignore_host)")]
    from clouddeploy_runtime.client import resources
    from clouddeploy_runtime.preflight.local import quiet

    with quiet():
        there = len(resources.offered_gpus(read, environment=os.environ))
    if there >= read.gpus:
        return [passed(_GPUS, f"{there} are offered")]
    smi = "" if shutil.which("nvidia-smi") else "; there is no nvidia-smi"
    return [found(_GPUS, "GPUS_MISSING", f"{read.gpus} are offered, and {there} can be used{smi}")]
