"""`auth can-i | show`: what a policy allows, without trying it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime import authorization
from clouddeploy_runtime import kit as kit_format
from clouddeploy_runtime.authorization import Control, Policy, Request
from clouddeploy_runtime.errors import ExitCode, printable
from clouddeploy_runtime.kit.kit import attribute, certificate
from clouddeploy_runtime.tls import Peer
from cryptography.x509.oid import NameOID

from clouddeploy.cli import site_replies
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.admin.sites import SiteReply

_PATH = click.Path(path_type=Path)
_MAX_BYTES = 1 << 20
WITHOUT_CATEGORY = ("submit_job", "clone_job", "byoc")
"""Rights that stand for themselves; every other one is in a category, or is a command's name."""


def _policy_options(function: Callable[..., None]) -> Callable[..., None]:
    file = click.option("--policy", "file", type=_PATH, help="A policy: an authorization.json.")
    kit = click.option("--kit", "folder", type=_PATH, help="A kit of the server or a site, whose policy is meant.")
    return file(kit(function))


@click.group(cls=CommandGroup)
def auth() -> None:
    """Show what a policy allows, and to whom."""


@auth.command("can-i")
@click.argument("right")
@click.option(
    "--site",
    "sites",
    multiple=True,
    help="Ask what runs, about yourself: `server`, `client` (every one), `all` or a name; may be repeated.",
)
@_policy_options
@click.option("--as", "user", default="", help="Whose right; default: the admin of the kit that commands use.")
@click.option("--role", default="", help="Of that person.")
@click.option("--org", default="", help="Of that person.")
@click.option("--submitter", default="", help="Whose job it is about; default: nobody's.")
@click.option("--submitter-org", default="", help="The organisation of who submitted the job.")
@click.option("--site-org", default="", help="The organisation of the site; default: that of --kit.")
@admin_options
@command_options
def can_i(
    session: Session,
    *,
    admin: Admin,
    right: str,
    sites: tuple[str, ...],
    file: Path | None,
    folder: Path | None,
    user: str,
    role: str,
    org: str,
    submitter: str,
    submitter_org: str,
    site_org: str,
) -> None:
    """Say whether a policy gives somebody a right, and which rule decides; ends with 1 when it does not.

    With --site the server and sites are asked, each by its own policy, about the admin of the kit that commands use.
    """
    if sites:
        if file or folder or user or role or org or site_org:
            why = "a site knows itself and who asks"
            raise ConfigError("--site goes with --submitter and --submitter-org alone", why=why)
        _ask(session, admin, right, sites, {"submitter": submitter, "submitter_org": submitter_org})
        return
    policy, found_org, source = _policy(file, folder)
    peer = Peer(name=user, org=org, role=role) if user else _peer(admin, org=org, role=role)
    if not peer.role:
        raise ConfigError(f"which role {peer.name} has is not said", why="a policy is about roles", hint="add --role")
    request = Request(
        user=peer,
        right=right,
        site_org=site_org or found_org,
        submitter_name=submitter,
        submitter_org=submitter_org,
    )
    decision = policy.explain(request)
    data = {
        "right": right,
        "allowed": decision.allowed,
        "rule": decision.rule,
        "policy": source,
        "user": {"name": peer.name, "org": peer.org, "role": peer.role},
    }
    code = ExitCode.OK if decision.allowed else ExitCode.FAILED
    word = "allowed" if decision.allowed else "refused"
    who = f"{peer.name} ({peer.role}{f' of {peer.org}' if peer.org else ''})"
    session.output.result(data, printable(f"{word}: {right} for {who}\n  {decision.rule}"), exit_code=code)
    if code:
        sys.exit(code)


@auth.command()
@_policy_options
@command_options
def show(session: Session, file: Path | None, folder: Path | None) -> None:
    """Show a policy as a table: who may do what."""
    policy, _, source = _policy(file, folder)
    if policy.problem:
        raise ConfigError(f"{source} allows nothing", why=policy.problem, hint="correct it; until then all is refused")
    roles = sorted(policy.roles)
    rights = sorted({right for one in policy.roles.values() if not isinstance(one, Control) for right in one})
    known = [*WITHOUT_CATEGORY, *authorization.CATEGORIES]
    listed = [*known, *(right for right in rights if right not in known)]
    matrix = {right: {role: _cell(policy, role, right) for role in roles} for right in listed}
    rows = [(right, *(matrix[right][role] for role in roles)) for right in listed]
    text = f"{source}\n\n{table(('right or category', *roles), rows)}"
    categories = {name: sorted(members) for name, members in authorization.CATEGORIES.items()}
    lines = [f"{name}: {', '.join(members)}" for name, members in categories.items()]
    data = {"policy": source, "roles": roles, "matrix": matrix, "categories": categories}
    session.output.result(data, printable("\n".join([text, "", *lines])))


def _ask(session: Session, admin: Admin, right: str, sites: tuple[str, ...], about: Mapping[str, str]) -> None:
    """Shows what sites say of one's own right; ends with 1 when one refuses it."""
    with admin.open() as opened:
        replies = opened.sites.can_i(site_replies.target(sites), right, **about)
    refusing = [site for site, reply in replies.items() if reply.is_ok and not reply.data.get("allowed")]

    def text(found: Mapping[str, SiteReply]) -> str:
        head = ("site", "answer", "rule")
        rows = [
            (site, "refused" if site in refusing else "allowed", reply.data.get("rule", ""))
            for site, reply in sorted(found.items())
        ]
        return table(head, rows)

    code = ExitCode.FAILED if refusing else ExitCode.OK
    site_replies.show(session, replies, text, more={"right": right, "allowed": not refusing}, exit_code=code)
    if code:
        sys.exit(code)


def _policy(file: Path | None, folder: Path | None) -> tuple[Policy, str, str]:
    """Returns a policy, the organisation of its site, and where it is from."""
    if (file is None) == (folder is None):
        raise ConfigError("which policy is meant", hint="name a file with --policy, or a kit with --kit")
    if folder is not None:
        kit = kit_format.load(folder)
        return authorization.load(kit.local), kit.org, str(kit.local)
    assert file is not None  # noqa: S101 - exactly one is given
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", why=error.strerror or str(error)) from error
    try:
        return authorization.parse(json.loads(data)), "", str(file)
    except ValueError as error:  # a PolicyError is one
        raise ConfigError(
            f"{file} is no policy", why=str(error), hint="a site with it refuses everything; see docs/permissions.md"
        ) from error


def _peer(admin: Admin, *, org: str, role: str) -> Peer:
    """Returns the admin whose kit commands use, or that one in another role."""
    kit = kit_format.load(admin.kit())
    own = attribute(certificate(kit.cert_file), NameOID.UNSTRUCTURED_NAME)
    return Peer(name=kit.name, org=org or kit.org, role=role or own)


def _cell(policy: Policy, role: str, right: str) -> str:
    """Returns the conditions of a right, `-` for a right that nothing is said about, which is refused."""
    permissions = policy.roles[role]
    control = permissions if isinstance(permissions, Control) else permissions.get(right)
    if control is None:
        return "-"
    return ", ".join([*(f"not {one}" for one in control.blocks), *control.allows])
