"""Who may do what, and what may become of what; pure, so that every row of it can be tested.

Two questions are asked of everything that changes something: may this person (`require`), and does the state of things
allow it (the `check_…` functions). Nothing here knows of HTTP or of the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from clouddeploy.dashboard.errors import Conflict, Forbidden, Invalid, NotApproved, ProofNeeded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Role(StrEnum):
    """What somebody is in the federation; the certificate says the same."""

    PROJECT_ADMIN = "project_admin"
    ORG_ADMIN = "org_admin"
    LEAD = "lead"
    MEMBER = "member"


class Approval(IntEnum):
    """Whether the project admin has let somebody or a site in; the numbers are the reference's."""

    DENIED = -1
    PENDING = 0
    APPROVED = 100
    SEED = 200
    """The first project admin, whom nobody approves and nobody denies."""

    @property
    def is_approved(self) -> bool:
        """Whether it is one of those that are in."""
        return self >= Approval.APPROVED


class Scope(StrEnum):
    """What a token for automation may be used for."""

    READ = "read"
    WRITE = "write"
    KITS = "kits"
    APPROVE = "approve"
    """To decide who is in and what the project is: approvals, roles, invitations, settings, the freeze."""
    DEPLOY = "deploy"
    """To start and to stop runs of deployments."""
    ACCOUNT = "account"
    """Passwords, tokens, project admins; only whoever typed the password has it, so a token makes neither another one
    nor another owner of everything."""


GRANTABLE = tuple(one for one in Scope if one is not Scope.ACCOUNT)
"""What a token can be made for."""


class Reach(StrEnum):
    """Whose things a role may do something with."""

    NOBODY = "nobody"
    OWN = "own"
    ORG = "org"
    """Those of one's own organisation."""
    ANY = "any"


class Action(StrEnum):
    """What can be asked for; the word stands in the audit log."""

    PROJECT_VIEW = "view_project_settings"
    PROJECT_EDIT = "edit_project"
    PROJECT_FREEZE = "freeze_project"
    USER_LIST = "list_users"
    USER_VIEW = "view_user"
    USER_EDIT = "edit_user"
    USER_APPROVE = "approve_user"
    USER_DELETE = "delete_user"
    USER_KIT = "download_user_kit"
    USER_ENROL = "enrol_user"
    USER_REISSUE = "reissue_user"
    SITE_LIST = "list_sites"
    SITE_CREATE = "create_site"
    SITE_EDIT = "edit_site"
    SITE_APPROVE = "approve_site"
    SITE_DELETE = "delete_site"
    SITE_KIT = "download_site_kit"
    SITE_ENROL = "enrol_site"
    SITE_REISSUE = "reissue_site"
    SERVER_KIT = "download_server_kit"
    SERVER_ENROL = "enrol_server"
    SERVER_REISSUE = "reissue_server"
    USER_ROLE = "change_role"
    ADMIN_MAKE = "make_project_admin"
    FACTOR_EDIT = "edit_second_factor"
    FACTOR_RESET = "reset_second_factor"
    INVITE = "invite"
    AUDIT_VIEW = "view_audit"
    LIVE_VIEW = "view_federation"
    DEPLOY_VIEW = "view_deployments"
    DEPLOY_RUN = "run_deployment"
    """To plan, rehearse and stop."""
    DEPLOY = "deploy"
    """To send a deploy file in, to apply and to destroy."""
    TOKEN_EDIT = "edit_tokens"  # noqa: S105 - a word of the log
    PASSWORD_EDIT = "change_password"  # noqa: S105 - a word of the log


@dataclass(frozen=True)
class Actor:
    """Who asks, as the database has them at this moment: nothing is remembered from the login but who it was."""

    id: int
    email: str
    role: Role
    organization_id: int
    organization: str
    approval: Approval
    scopes: frozenset[Scope] = frozenset(Scope)
    is_fresh: bool = True
    """Whether they showed a short time ago that it is them; a browser may have been left alone since."""
    lacks_factor: bool = False
    """Whether the project demands a second factor of them, and they have none."""


@dataclass(frozen=True)
class Target:
    """Whose thing it is that somebody asks about."""

    organization_id: int | None = None
    user_id: int | None = None


def _row(project_admin: Reach, org_admin: Reach, lead: Reach, member: Reach) -> dict[Role, Reach]:
    return dict(zip(Role, (project_admin, org_admin, lead, member), strict=True))


_N, _O, _G, _A = Reach.NOBODY, Reach.OWN, Reach.ORG, Reach.ANY
MATRIX: Mapping[Action, Mapping[Role, Reach]] = {
    #                            project admin, org admin, lead, member
    Action.PROJECT_VIEW: _row(_A, _N, _N, _N),
    Action.PROJECT_EDIT: _row(_A, _N, _N, _N),
    Action.PROJECT_FREEZE: _row(_A, _N, _N, _N),
    Action.USER_LIST: _row(_A, _G, _G, _G),
    Action.USER_VIEW: _row(_A, _G, _O, _O),
    Action.USER_EDIT: _row(_A, _O, _O, _O),
    Action.USER_APPROVE: _row(_A, _N, _N, _N),
    Action.USER_ROLE: _row(_A, _N, _N, _N),
    Action.ADMIN_MAKE: _row(_A, _N, _N, _N),
    Action.USER_DELETE: _row(_A, _O, _O, _O),
    Action.USER_KIT: _row(_A, _O, _O, _O),
    Action.USER_ENROL: _row(_A, _O, _O, _O),
    Action.USER_REISSUE: _row(_A, _O, _O, _O),
    Action.SITE_LIST: _row(_A, _A, _A, _A),
    # Nobody makes a site for another organisation, the project admin neither: whose it is would be a guess.
    Action.SITE_CREATE: _row(_G, _G, _N, _N),
    Action.SITE_EDIT: _row(_A, _G, _N, _N),
    Action.SITE_APPROVE: _row(_A, _N, _N, _N),
    Action.SITE_DELETE: _row(_A, _G, _N, _N),
    Action.SITE_KIT: _row(_A, _G, _N, _N),
    Action.SITE_ENROL: _row(_A, _G, _N, _N),
    Action.SITE_REISSUE: _row(_A, _G, _N, _N),
    Action.SERVER_KIT: _row(_A, _N, _N, _N),
    Action.SERVER_ENROL: _row(_A, _N, _N, _N),
    Action.SERVER_REISSUE: _row(_A, _N, _N, _N),
    Action.FACTOR_EDIT: _row(_O, _O, _O, _O),
    Action.FACTOR_RESET: _row(_A, _N, _N, _N),
    Action.INVITE: _row(_A, _G, _N, _N),
    Action.AUDIT_VIEW: _row(_A, _N, _N, _N),
    Action.LIVE_VIEW: _row(_A, _A, _A, _A),  # as the federation's own policy has it
    Action.DEPLOY_VIEW: _row(_A, _N, _N, _N),
    Action.DEPLOY_RUN: _row(_A, _N, _N, _N),
    Action.DEPLOY: _row(_A, _N, _N, _N),
    Action.TOKEN_EDIT: _row(_O, _O, _O, _O),
    Action.PASSWORD_EDIT: _row(_A, _O, _O, _O),
}
"""Action → role → whose things. What is not in it is refused."""
WHILE_PENDING = frozenset(
    {
        Action.USER_VIEW,
        Action.USER_EDIT,
        Action.USER_DELETE,
        Action.FACTOR_EDIT,
        Action.PASSWORD_EDIT,
        Action.SITE_CREATE,
        Action.SITE_EDIT,
        Action.SITE_DELETE,
    }
)
"""What those may do who wait for their approval: complete what they signed up with."""
WITHOUT_FACTOR = frozenset({Action.USER_VIEW, Action.FACTOR_EDIT})
"""What is left to who lacks the second factor that the project demands: to set it up."""
SENSITIVE = frozenset(
    {
        Action.PROJECT_EDIT,
        Action.PROJECT_FREEZE,
        # Who is in, and who may come.
        Action.USER_APPROVE,
        Action.SITE_APPROVE,
        Action.INVITE,
        Action.DEPLOY,
        Action.SERVER_KIT,
        Action.SERVER_ENROL,
        Action.SERVER_REISSUE,
        # They revoke what a participant has, and with an enrolment another key takes its place.
        Action.USER_ENROL,
        Action.USER_REISSUE,
        Action.SITE_ENROL,
        Action.SITE_REISSUE,
        Action.USER_ROLE,
        Action.ADMIN_MAKE,
        Action.FACTOR_EDIT,
        Action.FACTOR_RESET,
        # With either of them whoever sat down before it would be asked for nothing any more.
        Action.TOKEN_EDIT,
        Action.PASSWORD_EDIT,
    }
)
"""What a browser that was left alone must not be enough for."""
DEMANDED: Mapping[Action, Scope] = {
    Action.PROJECT_EDIT: Scope.APPROVE,
    Action.PROJECT_FREEZE: Scope.APPROVE,
    Action.USER_APPROVE: Scope.APPROVE,
    Action.USER_ROLE: Scope.APPROVE,
    Action.SITE_APPROVE: Scope.APPROVE,
    Action.INVITE: Scope.APPROVE,
    Action.DEPLOY_RUN: Scope.DEPLOY,
    Action.DEPLOY: Scope.DEPLOY,
    Action.ADMIN_MAKE: Scope.ACCOUNT,
    Action.FACTOR_EDIT: Scope.ACCOUNT,
    Action.FACTOR_RESET: Scope.ACCOUNT,
}
"""Action → what a token must have been made for, besides what its call demands. A person has every scope."""
INVITABLE: Mapping[Role, frozenset[Role]] = {
    Role.PROJECT_ADMIN: frozenset({Role.ORG_ADMIN, Role.LEAD, Role.MEMBER}),
    Role.ORG_ADMIN: frozenset({Role.LEAD, Role.MEMBER}),
}
"""Who may invite whom; those of an invitation still need the project admin's approval."""
FROZEN_MAY_CHANGE = frozenset(
    {"public", "title", "description", "app_location", "starting_date", "end_date", "require_second_factor"}
)
"""What stands in no kit."""


def reach(actor: Actor, action: Action) -> Reach:
    """Returns whose things somebody may do something with, their approval and their role considered."""
    if actor.approval is Approval.DENIED or (not actor.approval.is_approved and action not in WHILE_PENDING):
        return Reach.NOBODY
    found = MATRIX.get(action, {}).get(actor.role, Reach.NOBODY)
    if actor.lacks_factor:
        return Reach.OWN if action in WITHOUT_FACTOR and found is not Reach.NOBODY else Reach.NOBODY
    # Everybody can say that they are of an organisation; until that is approved, its things are not theirs. A site that
    # they make waits for its own approval.
    is_only_said = not actor.approval.is_approved and action is not Action.SITE_CREATE
    return Reach.OWN if is_only_said and found is Reach.ORG else found


def may(actor: Actor, action: Action, target: Target | None = None) -> bool:
    """Tells whether somebody may do something with what belongs to `target`; None: with nobody's."""
    found = reach(actor, action)
    if found is Reach.NOBODY:
        return False
    if found is Reach.ANY or target is None:
        return True
    if found is Reach.ORG:
        return target.organization_id is not None and target.organization_id == actor.organization_id
    return target.user_id is not None and target.user_id == actor.id


def require(actor: Actor, action: Action, target: Target | None = None) -> None:
    """Refuses what somebody may not do.

    Raises:
        NotApproved: their approval is what they lack.
        Forbidden: their role does not allow it, or not with that.
    """
    if may(actor, action, target):
        return
    what = f"{action.value} is not for you"
    if not actor.approval.is_approved:
        raise NotApproved(what, why="the project admin has not approved you yet", hint="wait for the approval")
    if actor.lacks_factor and action not in WITHOUT_FACTOR:
        raise Forbidden(what, why="the project demands a second factor of you", hint="set it up at Account")
    raise Forbidden(what, why=f"you are {actor.role.value} of {actor.organization}", hint="ask the project admin")


def check_proof(actor: Actor, action: Action) -> None:
    """Refuses what a browser that was left alone must not be enough for.

    Raises:
        ProofNeeded: it was too long ago that they showed who they are.
    """
    if action in SENSITIVE and not actor.is_fresh:
        raise ProofNeeded(
            "it must be certain that it is you", why="you typed the password some time ago", hint="type it again"
        )


def check_token(actor: Actor, action: Action) -> None:
    """Refuses what a token was not made for.

    Raises:
        Forbidden: it lacks the scope, or only a person may do this.
    """
    if action in DEMANDED:
        check_scope(actor, DEMANDED[action])


def check_scope(actor: Actor, scope: Scope) -> None:
    """Refuses what a token was not made for.

    Raises:
        Forbidden: it lacks the scope.
    """
    if scope is Scope.ACCOUNT and scope not in actor.scopes:
        raise Forbidden("the token does not allow this", why="no token does", hint="log in with the password")
    if scope not in actor.scopes:
        raise Forbidden(
            "the token does not allow this", why=f"it lacks the scope {scope.value}", hint="make another token"
        )


def check_sign_up(*, is_public: bool, is_invited: bool, role: Role) -> None:
    """Refuses a sign-up that nobody asked for.

    Raises:
        Forbidden: the project is not public and there is no invitation, or somebody wants to be project admin.
    """
    if not is_public and not is_invited:
        raise Forbidden(
            "nobody can sign up now", why="the project is not public", hint="ask the project admin for an invitation"
        )
    if role is Role.PROJECT_ADMIN:
        raise Forbidden("a project admin does not sign up", why="there is one", hint="choose another role")


def check_invitation(inviter: Role, invited: Role) -> None:
    """Refuses to invite somebody to more than the inviter may give.

    Raises:
        Forbidden: the role is not theirs to give.
    """
    if invited not in INVITABLE.get(inviter, frozenset()):
        raise Forbidden(
            f"you cannot invite a {invited.value}", why=f"you are {inviter.value}", hint="choose another role"
        )


def check_project_change(changes: Collection[str], *, is_frozen: bool) -> None:
    """Refuses to change what kits depend on once the project is frozen.

    Raises:
        Conflict: it is, and something of that is among the changes.
    """
    stuck = sorted(set(changes) - FROZEN_MAY_CHANGE)
    if is_frozen and stuck:
        raise Conflict(
            f"{', '.join(stuck)} cannot be changed",
            why="the project is frozen, and kits depend on it",
            hint="start another dashboard folder for another project",
            word="Project is frozen",
        )


def check_approval(before: Approval, after: int) -> Approval:
    """Returns the new state of somebody or of a site.

    Raises:
        Conflict: the first project admin stays what they are; what was decided does not become undecided.
        Invalid: there is no such state.
    """
    if before is Approval.SEED:
        raise Conflict("the first project admin stays approved", why="nobody else could approve anybody")
    if after < 0:
        return Approval.DENIED
    if after == Approval.PENDING:
        if before is not Approval.PENDING:
            raise Conflict("a decision is not taken back", why="it is approved or denied", hint="approve or deny it")
        return before
    if after != Approval.APPROVED:
        raise Invalid(f"{after} is no state", hint="-1 denies, 100 approves")
    return Approval.APPROVED


def check_site_change(changes: Collection[str], approval: Approval) -> None:
    """Refuses to change what an approval was given for.

    Raises:
        Conflict: an approved site gets another name or organisation.
    """
    stuck = sorted({"name", "organization"} & set(changes))
    if stuck and approval.is_approved:
        raise Conflict(
            f"the site's {' and '.join(stuck)} cannot be changed", why="it is approved", hint="make another site"
        )


def check_user_change(changes: Collection[str], approval: Approval) -> None:
    """Refuses another role or organisation for somebody approved: their certificate would say the old one.

    Raises:
        Conflict: they are approved.
    """
    stuck = sorted({"role", "organization"} & set(changes))
    if stuck and approval.is_approved:
        raise Conflict(
            f"{' and '.join(stuck)} cannot be changed",
            why="the person is approved, and a certificate says it",
            hint="deny them first; they need another e-mail address if they had a kit",
        )


def check_deletion(what: str, approval: Approval) -> None:
    """Refuses to delete what is approved.

    Raises:
        Conflict: it is.
    """
    if approval.is_approved:
        raise Conflict(f"{what} cannot be deleted", why="it is approved", hint="deny it first, which revokes its kit")


def check_download(what: str, *, is_frozen: bool, approval: Approval) -> None:
    """Refuses kits of a project that may still change, and of those who are not in.

    Raises:
        NotApproved: it is not approved.
        Conflict: the project is not frozen.
    """
    if not approval.is_approved:
        raise NotApproved(f"{what} gets no kit", why="it is not approved", hint="wait for the project admin")
    if not is_frozen:
        raise Conflict(
            f"{what} gets no kit yet", why="the project is not frozen", hint="wait for the project admin to freeze it"
        )
