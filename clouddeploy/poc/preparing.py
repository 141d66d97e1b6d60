"""Makes the kits of a federation on this machine, and takes everything away again."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import yaml
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import Endpoint, provision
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.kit import config

from clouddeploy import admin_kits, durable
from clouddeploy.errors import ConfigError, PocState, StateError
from clouddeploy.poc import processes
from clouddeploy.poc import record as records
from clouddeploy.poc.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_provision.project import Project

KIT_ID = "poc"
SERVER, ADMIN, NAME = "server", "admin@poc.example", "poc"
MAX_CLIENTS = 100
"""Each is two processes, and three with a job."""


@dataclass(frozen=True)
class Cleaned:
    """What was taken away."""

    deleted: tuple[str, ...]
    left: tuple[str, ...]
    """Names in the workspace that `poc` did not make, so they stay, and the folder with them."""


def prepare(workspace: Path, *, clients: Sequence[str], file: Path | None, is_forced: bool) -> Record:
    """Provisions a project for this machine, and makes its admin's kit the active one of `config`.

    Args:
        workspace: an absolute folder: new, empty, or an earlier one of ours.
        clients: their names; of no use with a file.
        file: a project file; whatever hosts it names, everything is on 127.0.0.1.
        is_forced: replace what an earlier one has made.

    Raises:
        PocState: one is prepared already, or runs.
        ConfigError: the folder has something else in it.
    """
    with records.held(workspace):
        earlier = records.read(workspace)
        if processes.running(workspace):
            raise PocState(f"a federation runs in {workspace}", hint="run `clouddeploy poc stop` first")
        if earlier is not None and earlier.is_ready and not is_forced:
            raise PocState(
                f"a federation is prepared in {workspace} already",
                why=f"with {', '.join(earlier.clients)}",
                hint="start it, or replace it with --force",
            )
        if earlier is None:
            _check_empty(workspace)
        project = _project(clients, file)  # what cannot be used is refused before an earlier one is deleted
        records.write(workspace, Record(was_active=earlier.was_active if earlier else "", kit_id=_kit_id(earlier)))
        _delete(workspace)
        if file is None:
            durable.replace(workspace / records.PROJECT, _text(clients))
        made = _provision(project, workspace, processes.free_port())
        records.write(workspace, registered(workspace, placed(workspace, made, made.port)))
        return records.prepared(workspace)


def clean(workspace: Path) -> Cleaned:
    """Deletes what `poc` has made, and takes its admin's kit out of `config`.

    Raises:
        PocState: it runs.
    """
    if not workspace.is_dir():
        return Cleaned((), ())
    with records.held(workspace):
        if processes.running(workspace):
            raise PocState(f"a federation runs in {workspace}", hint="run `clouddeploy poc stop` first")
        record = records.read(workspace)
        if record is None:
            left = tuple(sorted(entry.name for entry in workspace.iterdir() if entry.name != records.LOCK))
            (workspace / records.LOCK).unlink()
            _remove_if_empty(workspace)
            return Cleaned((), left)
        unregister(workspace, record)
        deleted = _delete(workspace)
        (workspace / records.FILE).unlink()
        (workspace / records.LOCK).unlink()
        left = tuple(sorted(entry.name for entry in workspace.iterdir()))
        _remove_if_empty(workspace)
        return Cleaned((*deleted, records.FILE), left)


def placed(workspace: Path, record: Record, port: int) -> Record:
    """Tells every kit where the server is, by the file that overlays the signed address; returns the record so."""
    overlay = config.encode(config.EndpointOverlay(records.LOCALHOST, port)).decode()
    for kit in records.kits(workspace, record).values():
        durable.replace(kit / "local" / "endpoint.json", overlay)
    return msgspec.structs.replace(record, port=port)


def registered(workspace: Path, record: Record) -> Record:
    """Makes the admin's kit known to `config` and active there; returns the record with what was active before."""
    folder = workspace / record.kits[record.admin]
    with admin_kits.changing():
        kits = admin_kits.read()
        kit_id = record.kit_id or _free_id(kits, workspace)
        was_active = record.was_active if kits.active == kit_id else kits.active
        admin_kits.write(kits.with_kit(kit_id, folder).using(kit_id))
    return msgspec.structs.replace(record, kit_id=kit_id, was_active=was_active)


def unregister(workspace: Path, record: Record) -> None:
    """Takes the admin's kit out of `config`; what was active before is so again."""
    with admin_kits.changing():
        kits = admin_kits.read()
        folder = kits.entries.get(record.kit_id)
        if folder is None or not folder.is_relative_to(workspace):  # somebody gave the name to another one
            return
        left = kits.without(record.kit_id)
        if kits.active == record.kit_id and record.was_active in left.entries:
            left = left.using(record.was_active)
        admin_kits.write(left)


def _kit_id(earlier: Record | None) -> str:
    return earlier.kit_id if earlier else ""


def _free_id(kits: admin_kits.AdminKits, workspace: Path) -> str:
    """Returns a name that nobody has, or that one of this workspace has."""
    number, kit_id = 1, KIT_ID
    while kit_id in kits.entries and not kits.entries[kit_id].is_relative_to(workspace):
        number += 1
        kit_id = f"{KIT_ID}-{number}"
    return kit_id


def _check_empty(workspace: Path) -> None:
    others = sorted(entry.name for entry in workspace.iterdir() if entry.name != records.LOCK)
    if others:
        raise ConfigError(
            f"{workspace} cannot be used",
            why=f"it has something else in it: {', '.join(others[:5])}",
            hint="name another folder with --workspace",
        )


def _project(clients: Sequence[str], file: Path | None) -> Project:
    """Returns the checked project, of a file or of names."""
    if file is None:
        with tempfile.TemporaryDirectory(prefix="clouddeploy-poc-") as folder:
            made = Path(folder, records.PROJECT)
            made.write_text(_text(clients), encoding="utf-8")
            try:
                return project_file.load(made)
            except ClouddeployError as error:
                why = error.why.replace(f"{made}:", "line ")
                raise ConfigError("these clients cannot be", why=why, hint="give other names with -c") from error
    project = project_file.load(file)
    admins = [one for one in project.admins if one.role == "project_admin"]
    wrong = (
        f"it has {len(project.clients)} clients, 1 to {MAX_CLIENTS} can be started here"
        if not 0 < len(project.clients) <= MAX_CLIENTS
        else "relays are not started here"
        if project.relays
        else "it has no admin with the role project_admin"
        if not admins
        else ""
    )
    if wrong:
        raise ConfigError(
            f"the project of {file} cannot be run on this machine", why=wrong, hint="name another file, or none"
        )
    return project


def _text(clients: Sequence[str]) -> str:
    return str(yaml.safe_dump(_document(clients), sort_keys=False))


def _document(clients: Sequence[str]) -> dict[str, object]:
    builders = ("workspace.WorkspaceBuilder", "static_file.StaticFileBuilder", "cert.CertBuilder")
    return {
        "api_version": 3,
        "name": NAME,
        "description": "A federation on one machine",
        "participants": [
            {"name": SERVER, "type": "server", "org": "poc", "fed_learn_port": 8002, "default_host": "localhost"},
            *({"name": name, "type": "client", "org": "poc"} for name in clients),
            {"name": ADMIN, "type": "admin", "org": "poc", "role": "project_admin"},
        ],
        "builders": [
            *({"path": f"nvflare.lighter.impl.{one}"} for one in builders),
            {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
        ],
    }


def _provision(project: Project, workspace: Path, port: int) -> Record:
    passphrase = secrets.token_urlsafe()
    durable.replace(workspace / records.PASSPHRASE, passphrase + "\n")
    try:
        report = provision(
            project,
            workspace / records.PROVISIONED,
            passphrase=passphrase.encode(),
            endpoint=Endpoint(records.LOCALHOST, port),
        )
    except OSError as error:
        raise StateError(f"{workspace} cannot be written", why=str(error)) from error
    return Record(
        is_ready=True,
        project=project.name,
        port=port,
        server=project.server.name,
        clients=tuple(one.name for one in project.clients),
        admin=next(one.name for one in project.admins if one.role == "project_admin"),
        kits={name: str(folder.relative_to(workspace)) for name, folder in report.kits.items()},
        kit_id=_kit_id(records.read(workspace)),
        was_active=(records.read(workspace) or Record()).was_active,
    )


def _delete(workspace: Path) -> tuple[str, ...]:
    """Deletes what is ours beside the record; returns its names."""
    found = []
    for name in records.OWN:
        path = workspace / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        found.append(name)
    return tuple(found)


def _remove_if_empty(workspace: Path) -> None:
    if not os.listdir(workspace):  # noqa: PTH208 - no need for the entries
        workspace.rmdir()
