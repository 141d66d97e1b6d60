"""One table of all pages: path, what answers, who may see it without a login, what a form's error is shown on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy.dashboard.web import admin_pages, deploy_pages, factor_pages, live_pages, open_pages, own_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.dashboard.web.asking import Answer, Ask


@dataclass(frozen=True)
class PageCall:
    """One row of the table.

    Attributes:
        method: of HTTP.
        path: of the page, or of the form that is sent to it.
        handle: does it.
        again: the page that a form is on; shown again with the error when it is refused.
        is_open: whether it is for everybody.
        in_turn: whether it waits for others that decide who is in.
        is_watching: whether a page asks by itself, so that nobody has used it.
    """

    method: str
    path: str
    handle: Callable[[Ask], Answer]
    again: Callable[[Ask], Answer] | None = None
    is_open: bool = False
    in_turn: bool = False
    is_watching: bool = False


def _show(path: str, handle: Callable[[Ask], Answer], *, is_open: bool = False) -> PageCall:
    return PageCall("GET", path, handle, is_open=is_open)


def _send(path: str, handle: Callable[[Ask], Answer], again: Callable[[Ask], Answer]) -> PageCall:
    return PageCall("POST", path, handle, again, in_turn=True)


def _watch(path: str, handle: Callable[[Ask], Answer]) -> PageCall:
    return PageCall("GET", path, handle, is_watching=True)


PAGES: tuple[PageCall, ...] = (
    _show("/", open_pages.home, is_open=True),
    # Not in turn: a password takes 0.1 s to check, and many may come at once.
    PageCall("POST", "/login", open_pages.log_in, open_pages.home, is_open=True),
    PageCall("POST", "/logout", open_pages.log_out),
    _show("/sign-up", open_pages.sign_up_page, is_open=True),
    PageCall("POST", "/sign-up", open_pages.sign_up, open_pages.sign_up_page, is_open=True),
    _show("/account", own_pages.account),
    _send("/account", own_pages.change_account, own_pages.account),
    _send("/account/password", own_pages.change_password, own_pages.account),
    _send("/account/tokens", own_pages.make_token, own_pages.account),
    _send("/account/tokens/{id}/delete", own_pages.delete_token, own_pages.account),
    _show("/account/second-factor", factor_pages.factor),
    _send("/account/second-factor/offer", factor_pages.offer, factor_pages.factor),
    _send("/account/second-factor/confirm", factor_pages.confirm, factor_pages.factor),
    _send("/account/second-factor/renew", factor_pages.renew, factor_pages.factor),
    _send("/account/second-factor/remove", factor_pages.remove, factor_pages.factor),
    _show("/proof", factor_pages.proof),
    PageCall("POST", "/proof", factor_pages.prove, factor_pages.proof),
    _show("/downloads", own_pages.downloads),
    _show("/downloads/take/{ticket}", own_pages.take),
    _send("/downloads/{kind}/{id}/prepare", own_pages.prepare, own_pages.downloads),
    _send("/downloads/{kind}/{id}/enrol", own_pages.enrol, own_pages.downloads),
    _send("/downloads/{kind}/{id}/reissue", own_pages.reissue, own_pages.downloads),
    _show("/project", admin_pages.project),
    _send("/project", admin_pages.change_project, admin_pages.project),
    _send("/project/freeze", admin_pages.freeze, admin_pages.project),
    _show("/users", admin_pages.users),
    _show("/users.csv", admin_pages.users_csv),
    _send("/users/decide", admin_pages.decide_users, admin_pages.users),
    _send("/users/invite", admin_pages.invite, admin_pages.users),
    _send("/users/{id}/edit", admin_pages.edit_user, admin_pages.users),
    _send("/users/{id}/reset-second-factor", factor_pages.reset, admin_pages.users),
    _show("/sites", admin_pages.site_list),
    _show("/sites.csv", admin_pages.sites_csv),
    _send("/sites", admin_pages.create_site, admin_pages.site_list),
    _send("/sites/decide", admin_pages.decide_sites, admin_pages.site_list),
    _send("/sites/{id}/edit", admin_pages.edit_site, admin_pages.site_list),
    _show("/certificates", admin_pages.certificates),
    _show("/audit", admin_pages.audit),
    _show("/live", live_pages.live),
    _watch("/live/events", live_pages.live_events),
    _show("/deployments", deploy_pages.deployments),
    _send("/deployments", deploy_pages.keep, deploy_pages.deployments),
    _show("/deployments/{name}", deploy_pages.deployment),
    _watch("/deployments/{name}/events", deploy_pages.deployment_events),
    _send("/deployments/{name}/start", deploy_pages.start, deploy_pages.deployment),
    _send("/deployments/{name}/stop", deploy_pages.stop, deploy_pages.deployment),
)
