"""Who may do what: the table itself, and what the state of things forbids."""

from dataclasses import replace

import pytest

from clouddeploy.dashboard.errors import Conflict, Forbidden, Invalid, NotApproved, ProofNeeded
from clouddeploy.dashboard.rules import (
    DEMANDED,
    MATRIX,
    WHILE_PENDING,
    Action,
    Actor,
    Approval,
    Reach,
    Role,
    Scope,
    Target,
    check_approval,
    check_deletion,
    check_download,
    check_invitation,
    check_project_change,
    check_proof,
    check_scope,
    check_sign_up,
    check_site_change,
    check_token,
    check_user_change,
    may,
    require,
)

OWN, COLLEAGUE, STRANGER = Target(1, 1), Target(1, 2), Target(2, 3)


def actor(role=Role.MEMBER, approval=Approval.APPROVED, scopes=frozenset(Scope)):
    return Actor(1, "a@a.example", role, 1, "org_a", approval, scopes)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_a_role_reaches_what_the_table_says(role, action):
    reached = [may(actor(role), action, target) for target in (OWN, COLLEAGUE, STRANGER)]
    assert (
        reached
        == {
            Reach.NOBODY: [False, False, False],
            Reach.OWN: [True, False, False],
            Reach.ORG: [True, True, False],
            Reach.ANY: [True, True, True],
        }[MATRIX[action][role]]
    )


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_nobody_reaches_more_while_waiting_than_their_own(role, action):
    waiting = actor(role, Approval.PENDING)
    for target in (COLLEAGUE, STRANGER):  # everybody can sign up as the admin of an organisation
        is_new_site = action is Action.SITE_CREATE and target is COLLEAGUE
        assert not may(waiting, action, target) or MATRIX[action][role] is Reach.ANY or is_new_site
    assert may(waiting, action, OWN) == (action in WHILE_PENDING and MATRIX[action][role] is not Reach.NOBODY)
    assert not may(actor(role, Approval.DENIED), action, OWN)


def test_only_the_project_admin_decides():
    deciding = {Action.USER_APPROVE, Action.SITE_APPROVE, Action.PROJECT_EDIT, Action.PROJECT_FREEZE, Action.SERVER_KIT}
    for action in deciding:
        assert [role for role in Role if MATRIX[action][role] is not Reach.NOBODY] == [Role.PROJECT_ADMIN]


def test_only_the_project_admin_runs_deployments_or_makes_another_project_admin():
    for action in (Action.DEPLOY_VIEW, Action.DEPLOY_RUN, Action.DEPLOY, Action.USER_ROLE, Action.ADMIN_MAKE):
        assert [role for role in Role if MATRIX[action][role] is not Reach.NOBODY] == [Role.PROJECT_ADMIN]


def test_a_browser_is_asked_again_before_it_decides_who_is_in():
    deciding = {Action.USER_APPROVE, Action.SITE_APPROVE, Action.INVITE, Action.PROJECT_EDIT, Action.PROJECT_FREEZE}
    for action in {*deciding, Action.USER_ROLE, Action.ADMIN_MAKE, Action.DEPLOY}:
        with pytest.raises(ProofNeeded):
            check_proof(replace(actor(Role.PROJECT_ADMIN), is_fresh=False), action)
    check_proof(replace(actor(Role.PROJECT_ADMIN), is_fresh=False), Action.DEPLOY_RUN)


@pytest.mark.parametrize("action", DEMANDED)
def test_an_act_demands_its_scope_of_a_token(action):
    check_token(actor(scopes=frozenset({DEMANDED[action]})), action)
    with pytest.raises(Forbidden):
        check_token(actor(scopes=frozenset(Scope) - {DEMANDED[action]}), action)


def test_nobody_makes_a_site_for_another_organisation():
    assert not [role for role in Role if may(actor(role), Action.SITE_CREATE, STRANGER)]
    assert not [role for role in Role if may(actor(role), Action.SITE_CREATE, Target(None))]


def test_a_refusal_says_what_is_lacking():
    with pytest.raises(NotApproved):
        require(actor(approval=Approval.PENDING), Action.USER_KIT, OWN)
    with pytest.raises(Forbidden, match="member of org_a"):
        require(actor(), Action.SITE_CREATE, OWN)
    with pytest.raises(Forbidden, match="scope write"):
        check_scope(actor(scopes=frozenset({Scope.READ})), Scope.WRITE)


@pytest.mark.parametrize(("is_public", "is_invited", "is_taken"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)])
def test_sign_up_takes_a_public_project_or_an_invitation(is_public, is_invited, is_taken):
    def sign_up():
        check_sign_up(is_public=bool(is_public), is_invited=bool(is_invited), role=Role.LEAD)
        return 1

    if is_taken:
        assert sign_up()
    else:
        with pytest.raises(Forbidden):
            sign_up()


def test_nobody_signs_up_as_project_admin_or_invites_one():
    with pytest.raises(Forbidden):
        check_sign_up(is_public=True, is_invited=True, role=Role.PROJECT_ADMIN)
    for inviter in Role:
        with pytest.raises(Forbidden):
            check_invitation(inviter, Role.PROJECT_ADMIN)
    with pytest.raises(Forbidden):
        check_invitation(Role.ORG_ADMIN, Role.ORG_ADMIN)


def test_what_kits_depend_on_stays_after_the_freeze():
    check_project_change({"short_name", "server"}, is_frozen=False)
    check_project_change({"title", "public"}, is_frozen=True)
    with pytest.raises(Conflict) as raised:
        check_project_change({"title", "server"}, is_frozen=True)
    assert raised.value.word == "Project is frozen"


@pytest.mark.parametrize(
    ("before", "after", "result"),
    [
        (Approval.PENDING, 100, Approval.APPROVED),
        (Approval.PENDING, -5, Approval.DENIED),
        (Approval.PENDING, 0, Approval.PENDING),
        (Approval.DENIED, 100, Approval.APPROVED),
        (Approval.APPROVED, -1, Approval.DENIED),
        (Approval.APPROVED, 0, Conflict),
        (Approval.SEED, -1, Conflict),
        (Approval.SEED, 100, Conflict),
        (Approval.PENDING, 50, Invalid),
        (Approval.PENDING, 200, Invalid),
    ],
)
def test_an_approval_moves(before, after, result):
    if isinstance(result, Approval):
        assert check_approval(before, after) is result
        return
    with pytest.raises(result):
        check_approval(before, after)


def test_an_approved_site_keeps_its_name_and_organisation():
    check_site_change({"name", "organization"}, Approval.PENDING)
    check_site_change({"description"}, Approval.APPROVED)
    for change in ("name", "organization"):
        with pytest.raises(Conflict):
            check_site_change({change}, Approval.APPROVED)
        with pytest.raises(Conflict):
            check_user_change({"role", "organization"}, Approval.APPROVED)


def test_what_is_approved_is_not_deleted():
    check_deletion("it", Approval.DENIED)
    with pytest.raises(Conflict):
        check_deletion("it", Approval.APPROVED)


def test_kits_are_for_the_approved_of_a_frozen_project():
    check_download("it", is_frozen=True, approval=Approval.SEED)
    with pytest.raises(NotApproved):
        check_download("it", is_frozen=True, approval=Approval.PENDING)
    with pytest.raises(Conflict):
        check_download("it", is_frozen=False, approval=Approval.APPROVED)
