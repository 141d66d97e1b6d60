"""`config add | use | list | inspect | remove`: startup kits of admins, by names of one's own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_runtime import expiry
from clouddeploy_runtime import kit as kit_format
from clouddeploy_runtime.errors import ClouddeployError, printable
from clouddeploy_runtime.kit.kit import attribute, certificate, join
from cryptography.x509.oid import NameOID

from clouddeploy import admin_kits
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import KitMissing, KitNotConfigured, TargetExists
from clouddeploy.tables import pairs

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit


@click.group(cls=CommandGroup)
def config() -> None:
    """Give startup kits of admins names, and choose the one that commands use."""


@config.command()
@click.argument("kit_id", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Let the name mean this kit from now on.")
@command_options
def add(session: Session, kit_id: str, folder: Path, force: bool) -> None:
    """Give a kit a name; the first one is the active one."""
    kit = _admin_kit(folder)
    with admin_kits.changing():
        kits = admin_kits.read()
        if kits.entries.get(kit_id, kit.root) != kit.root and not force:
            raise TargetExists(
                f"the id {kit_id!r} is taken", why=f"it means {kits.entries[kit_id]}", hint="use another, or --force"
            )
        kits = kits.with_kit(kit_id, kit.root)
        admin_kits.write(kits)
    is_active = kits.active == kit_id
    data = {"id": kit_id, "path": str(kit.root), "active": is_active}
    session.output.result(data, f"{kit_id} is the kit of {printable(kit.name)}{', and active' if is_active else ''}")


@config.command()
@click.argument("kit_id", metavar="ID")
@command_options
def use(session: Session, kit_id: str) -> None:
    """Make a kit the one that commands use."""
    with admin_kits.changing():
        kits = admin_kits.read().using(kit_id)
        admin_kits.choose(kit_id=kit_id)
        admin_kits.write(kits)
    session.output.result({"id": kit_id, "active": True}, f"{kit_id} is active")


@config.command("list")
@command_options
def list_kits(session: Session) -> None:
    """List the kits that have a name; `*` is the active one."""
    kits = admin_kits.read()
    found = [_described(kit_id, folder, kits.active) for kit_id, folder in sorted(kits.entries.items())]
    rows = [("*" if o["active"] else "", o["id"], o["name"], o["role"], o["path"], o["problem"]) for o in found]
    text = printable(table(("", "id", "name", "role", "path", "problem"), rows)) if rows else "No kit has a name."
    session.output.result({"active": kits.active, "kits": found, "file": str(admin_kits.config_file())}, text)


@config.command()
@click.argument("kit_id", metavar="[ID]", required=False)
@command_options
def inspect(session: Session, kit_id: str | None) -> None:
    """Show a kit: whose it is, role, organisation, server, and when its certificate ends. Default: the active one."""
    kits = admin_kits.read()
    if not kit_id and not kits.active:
        raise KitNotConfigured("no kit is active", hint="name one, or `clouddeploy config use ID`")
    chosen = kit_id or kits.active
    found = _described(chosen, kits.folder(chosen), kits.active)
    shown = [(name, value) for name, value in found.items() if name != "findings" and value not in ("", None)]
    lines = [pairs(shown), *(f"Warning: {one}" for one in found["findings"])]
    session.output.result(found, printable("\n".join(lines)))


@config.command()
@click.argument("kit_id", metavar="ID")
@command_options
def remove(session: Session, kit_id: str) -> None:
    """Forget a name; the kit stays where it is."""
    with admin_kits.changing():
        kits = admin_kits.read().without(kit_id)
        admin_kits.write(kits)
    session.output.result({"id": kit_id, "active": kits.active}, f"{kit_id} is forgotten")


def _admin_kit(folder: Path) -> Kit:
    """Returns an admin's kit.

    Raises:
        KitMissing: there is none, or it is somebody else's.
        KitError: it cannot be read.
    """
    if not (folder / "startup").is_dir():
        raise KitMissing(f"there is no startup kit in {folder}", why="it has no startup/", hint="name the kit's folder")
    kit = kit_format.load(folder)
    if kit.kind is not kit_format.Kind.ADMIN:
        why = f"it is the kit of the {kit.kind} {kit.name}"
        raise KitMissing(f"{folder} is no admin's kit", why=why, hint="name the kit of an admin, such as prod_00/a@b.c")
    return kit


def _described(kit_id: str, folder: Path, active: str) -> dict[str, Any]:
    """Returns what stands in a kit, or why nothing can be read of it."""
    found: dict[str, Any] = {"id": kit_id, "active": kit_id == active, "path": str(folder), "name": "", "role": ""}
    try:
        kit = _admin_kit(folder)
        cert = certificate(kit.cert_file)
    except ClouddeployError as error:
        return {**found, "problem": str(error), "findings": [str(error)]}
    findings, problem = [], ""
    try:
        kit_format.verify(folder)
    except ClouddeployError as error:
        problem = str(error)
        findings.append(problem)
    notice = expiry.notice("the certificate", cert.not_valid_after_utc, datetime.now(UTC))
    if notice is not None:
        findings.append(notice.text)
    return {
        **found,
        "name": kit.name,
        "role": attribute(cert, NameOID.UNSTRUCTURED_NAME),
        "org": kit.org,
        "project": kit.project,
        "server": kit.server_name,
        "server_address": join(kit.host, kit.port),
        "connection_security": kit.connection_security,
        "serial": f"{cert.serial_number:x}",
        "not_before": cert.not_valid_before_utc.isoformat(),
        "not_after": cert.not_valid_after_utc.isoformat(),
        "problem": problem,
        "findings": findings,
    }
