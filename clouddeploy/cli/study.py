"""`study register | show | list | remove | add-site | remove-site | add-user | remove-user`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import printable

from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError
from clouddeploy.studies import by_org, document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clouddeploy_runtime.studies import Study


def _sites_options(function: Callable[..., None]) -> Callable[..., None]:
    by_org = click.option(
        "--site-org",
        "site_orgs",
        multiple=True,
        metavar="ORG:SITE",
        help="A site with its organisation; may be repeated.",
    )
    sites = click.option("--sites", multiple=True, help="Sites, joined by commas, or repeated; the server knows whose.")
    return by_org(sites(function))


@click.group(cls=CommandGroup)
def study() -> None:
    """Studies: which sites and people take part in one."""


@study.command()
@click.argument("name")
@_sites_options
@click.option("--user", "users", multiple=True, metavar="USER[:ROLE]", help="A member; may be repeated.")
@admin_options
@command_options
def register(
    session: Session,
    *,
    admin: Admin,
    name: str,
    sites: tuple[str, ...],
    site_orgs: tuple[str, ...],
    users: tuple[str, ...],
) -> None:
    """Make a study."""
    people = {user: role for user, _, role in (one.partition(":") for one in users)}
    with admin.open() as opened:
        made = opened.studies.register(name, site_orgs=by_org(_listed(site_orgs)), sites=_listed(sites), users=people)
    _show(session, made)


@study.command()
@click.argument("name")
@admin_options
@command_options
def show(session: Session, admin: Admin, name: str) -> None:
    """Show one study."""
    with admin.open() as opened:
        _show(session, opened.studies.show(name))


@study.command("list")
@admin_options
@command_options
def list_studies(session: Session, admin: Admin) -> None:
    """List the studies that you may see; everybody takes part in `default`, which is not listed."""
    with admin.open() as opened:
        found = opened.studies.list()
    rows = [(one.name, ", ".join(sorted(one.sites)), ", ".join(sorted(one.users))) for one in found]
    text = printable(table(("study", "sites", "users"), rows)) if rows else "No study is registered."
    session.output.result({"studies": [document(one) for one in found]}, text)


@study.command()
@click.argument("name")
@click.option("--yes", "--force", "yes", is_flag=True, help="Do not ask.")
@admin_options
@command_options
def remove(session: Session, admin: Admin, name: str, yes: bool) -> None:
    """Remove a study that has no jobs any more."""
    with admin.open() as opened:
        if not yes:
            confirm(session, f"Remove the study {name}?")
        opened.studies.remove(name)
    session.output.result({"name": name}, printable(f"{name} is removed"))


@study.command("add-site")
@click.argument("name")
@_sites_options
@admin_options
@command_options
def add_site(session: Session, *, admin: Admin, name: str, sites: tuple[str, ...], site_orgs: tuple[str, ...]) -> None:
    """Let further sites take part."""
    _require_sites(sites, site_orgs)
    with admin.open() as opened:
        _show(session, opened.studies.add_site(name, _listed(sites), site_orgs=by_org(_listed(site_orgs))))


@study.command("remove-site")
@click.argument("name")
@_sites_options
@admin_options
@command_options
def remove_site(
    session: Session, *, admin: Admin, name: str, sites: tuple[str, ...], site_orgs: tuple[str, ...]
) -> None:
    """Let sites take part no longer; jobs that run there go on."""
    _require_sites(sites, site_orgs)
    with admin.open() as opened:
        _show(session, opened.studies.remove_site(name, _listed(sites), site_orgs=by_org(_listed(site_orgs))))


@study.command("add-user")
@click.argument("name")
@click.argument("user")
@click.option("--role", default="", help="In this study; default: the certificate's.")
@admin_options
@command_options
def add_user(session: Session, *, admin: Admin, name: str, user: str, role: str) -> None:
    """Make somebody a member."""
    with admin.open() as opened:
        _show(session, opened.studies.add_user(name, user, role=role))


@study.command("remove-user")
@click.argument("name")
@click.argument("user")
@admin_options
@command_options
def remove_user(session: Session, admin: Admin, name: str, user: str) -> None:
    """End somebody's membership; jobs of the person go on."""
    with admin.open() as opened:
        _show(session, opened.studies.remove_user(name, user))


def _listed(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


def _require_sites(sites: Sequence[str], site_orgs: Sequence[str]) -> None:
    if not _listed(sites) and not _listed(site_orgs):
        raise ConfigError("no site is named", hint="use --sites site-1, or --site-org org_a:site-1")


def _show(session: Session, one: Study) -> None:
    lines = [f"study     {one.name}"]
    lines += [f"{org:<10}{', '.join(sites)}" for org, sites in one.site_orgs.items()]
    lines += [f"user      {user}{f' ({role})' if role else ''}" for user, role in one.users.items()]
    session.output.result({"study": document(one)}, printable("\n".join(lines)))
