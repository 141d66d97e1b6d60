"""Turns a page's values into HTML; every value is escaped, since most of them others wrote."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from clouddeploy_runtime.errors import printable
from jinja2 import Environment, PackageLoader, StrictUndefined

from clouddeploy.dashboard import rules
from clouddeploy.dashboard.rules import Action, Approval, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clouddeploy.dashboard.web.asking import Ask, Page

_MENU: tuple[tuple[str, str, Action | None], ...] = (
    ("/", "Overview", None),
    ("/live", "Live", Action.LIVE_VIEW),
    ("/deployments", "Deployments", Action.DEPLOY_VIEW),
    ("/downloads", "Downloads", None),
    ("/sites", "Sites", None),
    ("/users", "People", Action.USER_LIST),
    ("/project", "Project", Action.PROJECT_VIEW),
    ("/certificates", "Certificates", Action.AUDIT_VIEW),
    ("/audit", "Audit", Action.AUDIT_VIEW),
    ("/account", "Account", None),
)
"""Path, word, and what one must be allowed to see it."""


class Renderer:
    """Holds the compiled templates; safe for several threads.

    Args:
        has_provider: whether one can log in by way of a provider.
    """

    def __init__(self, *, has_provider: bool = False) -> None:
        self._environment = _environment(has_provider=has_provider)

    def page(self, page: Page, ask: Ask | None) -> str:
        """Returns a page as HTML.

        Args:
            page: what to show.
            ask: who asked for it; None: it is not known, the page is one of an error.
        """
        known = ask.known if ask is not None else None
        actor = known.actor if known is not None else None
        menu = [(path, word) for path, word, action in _MENU if actor and (action is None or rules.may(actor, action))]
        values: Mapping[str, Any] = {
            "error": None,
            "me": actor,
            "menu": menu,
            "form_token": ask.form_token if ask is not None else "",
            "query": ask.query if ask is not None else {},
            "may": (lambda action: actor is not None and rules.may(actor, action)),
            **page.values,
        }
        return self._environment.get_template(page.template).render(values)


@cache
def _environment(*, has_provider: bool) -> Environment:
    """Return the templates, each compiled when it is first asked for; once for a process."""
    made = Environment(
        loader=PackageLoader("clouddeploy.dashboard.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": _moment, "state": state_of, "printable": printable}
    made.globals |= {"Action": Action, "Role": Role, "turned": _turned, "kept": kept}
    made.globals["has_provider"] = has_provider
    return made


def state_of(approval: int) -> str:
    """Returns an approval as a word."""
    if approval < 0:
        return "denied"
    return "approved" if approval >= Approval.APPROVED else "pending"


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"


def _turned(query: Mapping[str, str], page: int) -> str:
    """Returns the query of another page of the same list."""
    return "?" + urlencode({**query, "page": str(page)})


def kept(query: Mapping[str, str]) -> str:
    """Returns the query of the same part of a list, for a form that leads back to it; empty: it was the whole list."""
    found = {name: query[name] for name in ("q", "state", "page") if query.get(name)}
    return f"?{urlencode(found)}" if found else ""
