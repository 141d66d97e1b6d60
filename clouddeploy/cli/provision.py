"""`provision`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_provision import project as project_file
from clouddeploy_provision import provisioner
from clouddeploy_provision.builders.archive import ZipBuilder
from clouddeploy_provision.builders.catalogue import Custom, argument, is_custom
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_provision.previous import results
from clouddeploy_provision.provisioner import Options

from clouddeploy.cli.authority import DEFAULT_WORKSPACE, passphrase, passphrase_options
from clouddeploy.cli.main import command_options
from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import Change, ProvisionReport

    from clouddeploy.cli.main import Session

SAMPLE = Path("project.yml")
_ONLY_WITH_FILE = {
    "--add-user": "add_user",
    "--add-client": "add_client",
    "--gen-scripts": "start_script",
    "--dry-run": "is_dry",
}
_FILE = click.Path(path_type=Path)


class _InvalidArguments(ConfigError):
    """Options that do not go together."""

    error_code = "INVALID_ARGS"


@click.command()
@click.option("-p", "--project-file", "--project_file", "file", type=_FILE, help="The project file.")
@click.option("-g", "--generate", is_flag=True, help="Write a sample project.yml here and end; the default without -p.")
@click.option("-w", "--workspace", type=_FILE, default=DEFAULT_WORKSPACE, help="Where results go.")
@click.option("-c", "--custom-folder", "--custom_folder", "custom", type=_FILE, default=Path(), help="Own builders.")
@click.option("--add-user", "--add_user", type=_FILE, help="YAML of one more admin: name, org, role.")
@click.option("--add-client", "--add_client", type=_FILE, help="YAML of one more client: name, org.")
@click.option("-s", "--gen-scripts", "--gen_scripts", "start_script", is_flag=True, help="Also write start_all.sh.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would become of each kit; change nothing.")
@click.option("--force", is_flag=True, help="Add a new result although the workspace has some already.")
@passphrase_options
@command_options
def provision(session: Session, file: Path | None, generate: bool, **given: Any) -> None:
    """Make signed startup kits from a project file."""
    if file is not None and generate:
        why = "one uses a project file, the other writes one"
        raise _InvalidArguments("-p and -g exclude each other", why=why, hint="leave one of them out")
    if file is None:
        wanted = [flag for flag, name in _ONLY_WITH_FILE.items() if given[name]]
        if wanted and not generate:
            why = f"there is no project file for {', '.join(wanted)}"
            raise _InvalidArguments("which project is meant", why=why, hint="name its file with -p; -g writes a sample")
        _generate(session, force=given["force"])
        return
    custom = Custom(given.pop("custom"))
    extra = [
        (kind, path) for kind, path in (("admin", given.pop("add_user")), ("client", given.pop("add_client"))) if path
    ]
    project = project_file.load(file, custom=custom, extra=extra)
    workspace, is_dry = given.pop("workspace"), given.pop("is_dry")
    options = Options(custom=custom, start_script=given.pop("start_script"))
    if is_dry:
        changes = provisioner.preview(project, workspace, options=options)
        _preview(session, project, workspace, changes)
        return
    folder = workspace / project.name
    _confirm(session, folder, force=given.pop("force"))
    secret = passphrase(session, given, folder=folder / "state", is_new=not (folder / "state" / "rootCA.pem").exists())
    options = Options(custom=custom, start_script=options.start_script, zip_password=_zip_password(session, project))
    report = provisioner.provision(project, workspace, passphrase=secret, options=options)
    _show(session, file, workspace, report)


def _generate(session: Session, *, force: bool) -> None:
    if os.path.lexists(SAMPLE) and not force:
        raise ConfigError(f"{SAMPLE} is there already", why="the sample would replace it", hint="use -p, or --force")
    try:
        SAMPLE.write_bytes(packaged("sample_project.yml"))
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"{SAMPLE} cannot be written", why=why, hint="go to a folder of your own") from error
    following = f"clouddeploy provision -p {SAMPLE}"
    data = {
        "workspace": str(DEFAULT_WORKSPACE),
        "packages": [],
        "project_yml": str(SAMPLE.resolve()),
        "message": "a sample project file was written",
        "next_step": "edit it: names, organisations, the server's host names",
        "suggested_command": following,
    }
    session.output.result(data, f"{SAMPLE} was written. Edit it, then: {following}")


def _confirm(session: Session, folder: Path, *, force: bool) -> None:
    if force or not results(folder):
        return
    if not session.may_ask:
        raise ConfigError("the workspace exists", why=f"another result would be added to {folder}", hint="use --force")
    # On stderr, since stdout may be read by a program.
    if not click.confirm(f"{folder} exists. Add a new result?", err=True):
        raise ConfigError("not confirmed", why="the answer was no", hint="nothing was changed")


def _zip_password(session: Session, project: Project) -> str | None:
    """Asks for the archives' password when the project file says so."""
    if argument(project.builders, ZipBuilder.__name__, "password") != "ask" or not session.may_ask:
        return None
    import getpass  # noqa: PLC0415 - only then

    value = getpass.getpass("Password of the archives: ")
    if value != getpass.getpass("Once more: "):
        raise ConfigError("the passwords differ", hint="start again and type the same twice")
    return value


def _show(session: Session, file: Path, workspace: Path, report: ProvisionReport) -> None:
    data = {
        "workspace": str(workspace),
        "packages": [path.name for path in results(report.result.parent)],
        "result": str(report.result),
        "kits": {name: str(kit) for name, kit in report.kits.items()},
        "created": list(report.created),
        "kept": list(report.kept),
        "reissued": list(report.reissued),
        "removed": [one.name for one in report.changes if one.outcome == "removed"],
        "changes": [asdict(one) for one in report.changes],
        "root_not_before": report.root_not_before.isoformat(),
        "root_not_after": report.root_not_after.isoformat(),
        "warnings": list(report.warnings),
    }
    lines = [
        f"Project yaml file: {file}.",
        f"Generated results can be found under {report.result}.",
        f"Kits: {len(report.created)} new, {len(report.kept)} kept, {len(report.reissued)} re-issued.",
        f"Root CA validity: NotBefore={report.root_not_before:%Y-%m-%d}, NotAfter={report.root_not_after:%Y-%m-%d}.",
        *(f"  {one.name} was re-issued: {one.reason}" for one in report.changes if one.outcome == "reissued"),
        *(f"  {one.name} gets no kit any more: {one.reason}" for one in report.changes if one.outcome == "removed"),
        *(f"Warning: {warning}" for warning in report.warnings),
    ]
    session.output.result(data, "\n".join(lines))


def _preview(session: Session, project: Project, workspace: Path, changes: tuple[Change, ...]) -> None:
    warnings = list(project.warnings)
    if any(map(is_custom, project.builders)):
        warnings.append("builders of your own were not run; what they would change is not shown")
    data = {"workspace": str(workspace), "changes": [asdict(one) for one in changes], "warnings": warnings}
    session.output.result(data, "\n".join([_changes(changes), *(f"Warning: {one}" for one in warnings)]))


def _changes(changes: tuple[Change, ...]) -> str:
    marks = {"created": "+", "kept": " ", "reissued": "~", "enrolled": "=", "removed": "-"}
    width = max((len(one.name) for one in changes), default=0)
    lines = [f"{marks[one.outcome]} {one.name:<{width}}  {one.outcome}  {one.reason}".rstrip() for one in changes]
    count = {outcome: sum(one.outcome == outcome for one in changes) for outcome in marks}
    shown = [(outcome, number) for outcome, number in count.items() if number or outcome != "enrolled"]
    return "\n".join([*lines, ", ".join(f"{number} {outcome}" for outcome, number in shown)])
