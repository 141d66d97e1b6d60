"""`provision`."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
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
from clouddeploy.site_scripts import SiteScripts, deployed_before
from clouddeploy.site_scripts import make as make_scripts

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import Change, ProvisionReport

    from clouddeploy.cli.main import Session

SAMPLE = Path("project.yml")
_ONLY_WITH_FILE = {
    "--add-user": "add_user",
    "--add-client": "add_client",
    "--gen-scripts": "start_script",
    "--deploy-file": "deploy_file",
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
@click.option(
    "-s",
    "--gen-scripts",
    "--gen_scripts",
    "start_script",
    is_flag=True,
    help="Also write scripts: start_all.sh, and deploy_SITE.sh for each site of a deploy file.",
)
@click.option(
    "--deploy-file",
    "--deploy_file",
    type=_FILE,
    help="With -s: where sites run; default: a deploy.yml for this project file, beside it.",
)
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
    scripts = _scripts(
        project, file, workspace=workspace, is_wanted=given["start_script"], source=given.pop("deploy_file")
    )
    options = Options(custom=custom, start_script=given.pop("start_script"), companions=scripts.files)
    if is_dry:
        changes = provisioner.preview(project, workspace, options=options)
        _preview(session, project, workspace, changes)
        return
    folder = workspace / project.name
    _confirm(session, folder, force=given.pop("force"))
    secret = passphrase(session, given, folder=folder / "state", is_new=not (folder / "state" / "rootCA.pem").exists())
    options = replace(options, zip_password=_zip_password(session, project))
    report = provisioner.provision(project, workspace, passphrase=secret, options=options)
    _show(session, file, workspace, report, scripts=scripts if options.start_script else None)


def _scripts(project: Project, file: Path, *, workspace: Path, is_wanted: bool, source: Path | None) -> SiteScripts:
    """Returns the scripts for single sites, before anything is changed; each is in place with the result."""
    if not is_wanted:
        if source is not None:
            why = "--deploy-file says which deploy scripts are written, and none are"
            raise _InvalidArguments("--deploy-file is for --gen-scripts", why=why, hint="add -s, or leave it out")
        return SiteScripts()
    # Whatever its number: the results of a project lie side by side.
    result = workspace / project.name / "prod_00"
    return make_scripts(project, project_file=file, result=result, deploy_file=source)


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


def _show(
    session: Session, file: Path, workspace: Path, report: ProvisionReport, *, scripts: SiteScripts | None
) -> None:
    deployable = [name for name in scripts.files if name in report.kits] if scripts else []
    notes = (*scripts.notes, *deployed_before(results(report.result.parent)[:-1], deployable)) if scripts else ()
    data: dict[str, Any] = {
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
        "warnings": [*report.warnings, *notes],
    }
    if scripts:
        data["deploy_file"] = str(scripts.source) if scripts.source else None
        data["deploy_scripts"] = {name: str(report.result / f"deploy_{name}.sh") for name in deployable}
    lines = [
        f"Project yaml file: {file}.",
        f"Generated results can be found under {report.result}.",
        f"Kits: {len(report.created)} new, {len(report.kept)} kept, {len(report.reissued)} re-issued.",
        f"Root CA validity: NotBefore={report.root_not_before:%Y-%m-%d}, NotAfter={report.root_not_after:%Y-%m-%d}.",
        *(f"  {one.name} was re-issued: {one.reason}" for one in report.changes if one.outcome == "reissued"),
        *(f"  {one.name} gets no kit any more: {one.reason}" for one in report.changes if one.outcome == "removed"),
        *([f"Deploy scripts for {', '.join(deployable)}, from {scripts.source}."] if scripts and deployable else []),
        *(f"Warning: {warning}" for warning in (*report.warnings, *notes)),
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
