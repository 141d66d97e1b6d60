"""`poc prepare | start | stop | clean | status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import Timeout, printable

from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.main import CommandGroup, Session, command_options, end_at_once
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError
from clouddeploy.poc import preparing, running
from clouddeploy.poc import record as records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy.poc.record import Record
    from clouddeploy.poc.running import PocStatus
    from clouddeploy.poc.trial import Trial

DEFAULT_CLIENTS = 2
_PATH = click.Path(path_type=Path)
workspace_option = click.option(
    "-w",
    "--workspace",
    type=_PATH,
    help=f"Its folder; default: ${records.WORKSPACE_VARIABLE}, else ~/.local/share/clouddeploy/poc.",
)
number_option = click.option(
    "-n",
    "--number-of-clients",
    "number",
    type=click.IntRange(1, preparing.MAX_CLIENTS),
    help=f"Clients, named site-1, site-2 and so on; default: {DEFAULT_CLIENTS}.",
)
names_option = click.option(
    "-c", "--client", "names", multiple=True, help="A client's name; may be repeated, or names joined by commas."
)
only_option = click.option("-p", "--service", "only", multiple=True, help="Only this participant; may be repeated.")
without_option = click.option("-ex", "--exclude", "without", multiple=True, help="Not this one; may be repeated.")


@click.group(cls=CommandGroup)
def poc() -> None:
    """Run a whole federation on this machine, to try things out."""


@poc.command()
@workspace_option
@number_option
@names_option
@click.option("-i", "--project-file", "file", type=_PATH, help="A project file to take the participants from.")
@click.option("--force", is_flag=True, help="Replace what is prepared there.")
@command_options
def prepare(
    session: Session,
    *,
    workspace: Path | None,
    number: int | None,
    names: tuple[str, ...],
    file: Path | None,
    force: bool,
) -> None:
    """Make signed kits for a server, some clients and an admin, and choose the admin's in `config`."""
    folder = _folder(workspace)
    record = preparing.prepare(folder, clients=_clients(number, names, file=file), file=file, is_forced=force)
    _show(session, running.status(folder), f"Prepared in {folder}; the admin's kit is {record.kit_id!r} of `config`.")


@poc.command()
@workspace_option
@number_option
@names_option
@only_option
@without_option
@click.option("--no-wait", is_flag=True, help="Return once everything is started, not once it is ready.")
@click.option("--timeout", "timeout_s", type=float, default=running.START_S, help="Seconds to wait; default: 30.")
@click.option("--demo", is_flag=True, help="Run a small FedAvg job then; ends with 1 when it fails.")
@command_options
def start(
    session: Session,
    *,
    workspace: Path | None,
    number: int | None,
    names: tuple[str, ...],
    only: tuple[str, ...],
    without: tuple[str, ...],
    no_wait: bool,
    timeout_s: float,
    demo: bool,
) -> None:
    """Start it; prepares it first where that was not done."""
    if demo and no_wait:
        raise ConfigError("--demo and --no-wait exclude each other", why="a job needs clients that are ready")
    began = time.monotonic()
    folder = _folder(workspace)
    _prepare_if_needed(session, folder, number, names)
    found = running.start(
        folder,
        only=only,
        without=without,
        timeout_s=timeout_s,
        is_waiting=not no_wait,
        on_phase=lambda line: session.output.say(f"== starting {line}"),
        cancel=session.cancel,
    )
    _check_ready(found, folder, is_wanted=not no_wait and not only and not without, timeout_s=timeout_s)
    trial = _try(session, found) if demo else None
    _show(session, found, f"It took {time.monotonic() - began:.1f} s.", trial=trial)


@poc.command()
@workspace_option
@only_option
@without_option
@click.option(
    "--timeout", "timeout_s", type=float, default=running.STOP_S, help="Seconds before what is left is killed."
)
@command_options
def stop(
    session: Session, *, workspace: Path | None, only: tuple[str, ...], without: tuple[str, ...], timeout_s: float
) -> None:
    """Stop it; afterwards none of its processes is left."""
    _show(session, running.stop(_folder(workspace), only=only, without=without, timeout_s=timeout_s), "")


@poc.command()
@workspace_option
@click.option("--yes", "--force", "yes", is_flag=True, help="Do not ask.")
@command_options
def clean(session: Session, workspace: Path | None, yes: bool) -> None:
    """Delete what `poc` has made, also jobs and their results; refused while it runs."""
    folder = _folder(workspace)
    if not yes and folder.is_dir():
        confirm(session, f"Delete the federation in {folder}, with its jobs and their results?")
    cleaned = preparing.clean(folder)
    lines = [f"Deleted in {folder}: {', '.join(cleaned.deleted) or 'nothing, there was none'}."]
    if cleaned.left:
        lines.append(printable(f"Left, since `poc` did not make it: {', '.join(cleaned.left)}."))
    data = {"workspace": str(folder), "deleted": list(cleaned.deleted), "left": list(cleaned.left)}
    session.output.result(data, "\n".join(lines))


@poc.command()
@workspace_option
@command_options
def status(session: Session, workspace: Path | None) -> None:
    """Show how it is."""
    _show(session, running.status(_folder(workspace)), "")


def _folder(workspace: Path | None) -> Path:
    return (workspace or records.default_workspace()).absolute().resolve()


def _clients(number: int | None, names: Sequence[str], *, file: Path | None = None) -> tuple[str, ...]:
    """Returns the clients' names; those of a project file are in the file."""
    given = tuple(name.strip() for one in names for name in one.split(",") if name.strip())
    if sum((bool(given), number is not None, file is not None)) > 1:
        raise ConfigError("-n, -c and -i exclude each other", why="each says which clients there are")
    return given or tuple(f"site-{one}" for one in range(1, (number or DEFAULT_CLIENTS) + 1))


def _prepare_if_needed(session: Session, folder: Path, number: int | None, names: Sequence[str]) -> None:
    record: Record | None = records.read(folder)
    wanted = _clients(number, names)
    if record is None or not record.is_ready:
        session.output.say(f"== preparing {folder}")
        preparing.prepare(folder, clients=wanted, file=None, is_forced=record is not None)
    elif (number is not None or names) and set(wanted) != set(record.clients):
        raise ConfigError(
            f"the federation in {folder} has other clients",
            why=f"it has {', '.join(record.clients)}",
            hint="leave -n and -c out, or stop it and `clouddeploy poc prepare --force`",
        )


def _check_ready(found: PocStatus, folder: Path, *, is_wanted: bool, timeout_s: float) -> None:
    if is_wanted and not found.ready:
        slow = [f"{site.name} is {site.state}" for site in found.sites if not site.is_ready]
        raise Timeout(
            f"not everybody is ready within {timeout_s:g} s",
            why="; ".join(slow),
            hint=f"look into log.txt and start.log in {folder / records.SITES}; `clouddeploy poc stop` ends it",
        )


def _try(session: Session, found: PocStatus) -> Trial:
    from clouddeploy.poc import trial  # noqa: PLC0415 - grpc takes a tenth of a second

    if not found.server or not found.server.is_ready or not any(site.is_ready for site in found.clients):
        raise ConfigError("the demo job needs the server and a client", hint="start them too")
    session.output.say("== running a FedAvg job")
    end_at_once()
    return trial.run(Path(found.admin_kit))


def _show(session: Session, found: PocStatus, text: str, *, trial: Trial | None = None) -> None:
    data = found.as_json()
    lines = [table(("participant", "kind", "state"), [(one.name, one.kind, one.state) for one in found.sites])]
    if not found.sites:
        lines = [f"No federation is prepared in {found.workspace}."]
    else:
        lines += ["", f"The server is at {found.server_address}, {found.admin}'s kit in {found.admin_kit}."]
    lines += [f"Warning: {one}" for one in found.warnings]
    if found.port_conflict and found.status == "stopped":
        lines.append("Warning: another program uses its port; `start` takes another one.")
    if trial is not None:
        data["demo"] = trial.as_json()
        accuracy = f"accuracy {trial.metrics['accuracy']:.3f}"
        lines.append(f"PASS: {trial.rounds} rounds of FedAvg in {trial.seconds:.1f} s, {accuracy}, job {trial.job_id}")
    session.output.result(data, "\n".join([*lines, *([text] if text else [])]))
