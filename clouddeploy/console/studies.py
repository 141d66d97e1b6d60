"""The console's commands for studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy.console.command import Command, Reply
from clouddeploy.console.errors import SyntaxFault
from clouddeploy.studies import by_org, document
from clouddeploy.tables import boxed, pairs

if TYPE_CHECKING:
    import argparse

    from clouddeploy_runtime.studies import Study

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk


def _takes_name(arguments: Arguments) -> None:
    arguments.add_argument("study", help="its name")


def _takes_sites(arguments: Arguments) -> None:
    _takes_name(arguments)
    arguments.add_argument("--sites", nargs="+", default=[], metavar="SITE", help="sites; the server knows whose")
    arguments.add_argument(
        "--site-org", nargs="+", default=[], metavar="ORG:SITE", help="sites, with their organisation"
    )


def _takes_registration(arguments: Arguments) -> None:
    _takes_sites(arguments)
    arguments.add_argument("--users", nargs="+", default=[], metavar="USER[:ROLE]", help="members")


def _takes_user(arguments: Arguments) -> None:
    _takes_name(arguments)
    arguments.add_argument("user", help="the name in the certificate")


def _takes_user_and_role(arguments: Arguments) -> None:
    _takes_user(arguments)
    arguments.add_argument("role", nargs="?", default="", help="in the study; default: the certificate's")


def _require_sites(given: argparse.Namespace, name: str) -> None:
    if not given.sites and not given.site_org:
        raise SyntaxFault(f"{name} cannot be used so", why="no site is named", hint=f"{name} STUDY --sites site-1")


def _reply(study: Study, said: str) -> Reply:
    text = pairs(
        [
            ("Study", study.name),
            *((f"Sites of {org}", ", ".join(sites)) for org, sites in study.site_orgs.items()),
            ("Users", ", ".join(f"{user} ({role})" if role else user for user, role in study.users.items())),
        ]
    )
    return Reply("\n".join(filter(None, (said, text))), data=document(study))


def _register(desk: Desk, given: argparse.Namespace) -> Reply:
    users = {user: role for user, _, role in (text.partition(":") for text in given.users)}
    study = desk.session.studies.register(given.study, site_orgs=by_org(given.site_org), sites=given.sites, users=users)
    return _reply(study, "Registered.")


def _list(desk: Desk, _given: argparse.Namespace) -> Reply:
    found = desk.session.studies.list()
    if not found:
        return Reply("No studies.", data=[])
    rows = [(one.name, ", ".join(sorted(one.sites)), ", ".join(sorted(one.users))) for one in found]
    return Reply(boxed(("STUDY", "SITES", "USERS"), rows), data=[document(one) for one in found])


def _show(desk: Desk, given: argparse.Namespace) -> Reply:
    return _reply(desk.session.studies.show(given.study), "")


def _add_site(desk: Desk, given: argparse.Namespace) -> Reply:
    _require_sites(given, "add_study_site")
    study = desk.session.studies.add_site(given.study, given.sites, site_orgs=by_org(given.site_org))
    return _reply(study, "Added.")


def _remove_site(desk: Desk, given: argparse.Namespace) -> Reply:
    _require_sites(given, "remove_study_site")
    study = desk.session.studies.remove_site(given.study, given.sites, site_orgs=by_org(given.site_org))
    return _reply(study, "Removed.")


def _remove(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm(f"Remove the study {given.study}?")
    desk.session.studies.remove(given.study)
    return Reply(f"Study {given.study} is removed.", data={"name": given.study})


def _add_user(desk: Desk, given: argparse.Namespace) -> Reply:
    return _reply(desk.session.studies.add_user(given.study, given.user, role=given.role), "Added.")


def _remove_user(desk: Desk, given: argparse.Namespace) -> Reply:
    return _reply(desk.session.studies.remove_user(given.study, given.user), "Removed.")


COMMANDS = (
    Command(
        "register_study",
        "register_study",
        "Register a study with its sites and users.",
        _register,
        _takes_registration,
        ("study",),
    ),
    Command("list_studies", "list_studies", "List the studies that you may see.", _list),
    Command("show_study", "show_study", "Show the sites and users of a study.", _show, _takes_name, ("study",)),
    Command(
        "add_study_site",
        "add_study_site",
        "Let sites take part in a study.",
        _add_site,
        _takes_sites,
        ("study", "client"),
    ),
    Command(
        "remove_study_site",
        "remove_study_site",
        "Let sites take part in a study no longer.",
        _remove_site,
        _takes_sites,
        ("study", "client"),
    ),
    Command(
        "add_study_user",
        "add_study_user",
        "Make somebody a member of a study.",
        _add_user,
        _takes_user_and_role,
        ("study",),
    ),
    Command(
        "remove_study_user",
        "remove_study_user",
        "End somebody's membership in a study.",
        _remove_user,
        _takes_user,
        ("study",),
    ),
    Command(
        "remove_study",
        "remove_study",
        "Remove a study whose jobs have ended; asks first.",
        _remove,
        _takes_name,
        ("study",),
    ),
)
