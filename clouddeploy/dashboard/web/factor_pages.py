"""Pages on who somebody is: the second factor, and typing the password again before something sensitive."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard import logins, second_factor
from clouddeploy.dashboard.errors import Unauthenticated
from clouddeploy.dashboard.web.asking import Ask, Page, Redirect
from clouddeploy.dashboard.web.open_pages import field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.dashboard.logins import Opened

_PATH = re.compile(r"/[a-z][A-Za-z0-9/_-]{0,100}")
"""A page of ours; nobody is led to another host by way of the password's form."""


def factor(ask: Ask) -> Page:
    """Shows one's second factor, or that there is none."""
    return _factor(ask)


def _changed(ask: Ask, opened: Opened, codes: list[str]) -> Page:
    """Shows recovery codes in a session that begins with this answer; its forms need its own token."""
    page = _factor(ask, recovery_codes=codes, form_token=opened.form_token)
    return replace(page, session=opened.secret)


def _factor(ask: Ask, **more: Any) -> Page:
    with ask.visit() as visit:
        me = visit.me
        values: Mapping[str, Any] = {
            "has_factor": second_factor.has(visit.db, me.id),
            "offer": second_factor.offered(visit),
            "left": second_factor.recovery_left(visit.db, me.id),
        }
        return Page("factor.html", {**values, "recovery_codes": [], **more})


def offer(ask: Ask) -> Page:
    """Makes a secret and shows it."""
    with ask.visit() as visit:
        second_factor.offer(visit)
    return _factor(ask)


def confirm(ask: Ask) -> Page:
    """Turns the second factor on and shows the recovery codes, once."""
    with ask.visit() as visit:
        codes = second_factor.confirm(visit, field(ask, "code"))
        opened = logins.open_anew(visit)
    return _changed(ask, opened, codes)


def renew(ask: Ask) -> Page:
    """Makes new recovery codes and shows them, once."""
    with ask.visit() as visit:
        codes = second_factor.renew(visit, field(ask, "code"))
        opened = logins.open_anew(visit)
    return _changed(ask, opened, codes)


def remove(ask: Ask) -> Redirect:
    """Turns the second factor off."""
    with ask.visit() as visit:
        second_factor.remove(visit, field(ask, "code"))
        opened = logins.open_anew(visit)
    return Redirect("/account/second-factor", opened.secret)


def reset(ask: Ask) -> Redirect:
    """Turns somebody else's second factor off."""
    with ask.visit() as visit:
        second_factor.reset(visit, ask.id)
    return Redirect("/users")


def proof(ask: Ask) -> Page:
    """Asks for the password again."""
    return proof_page(ask, back(ask.query.get("back", "") or field(ask, "back")))


def proof_page(ask: Ask, path: str) -> Page:
    """Returns the page that asks for the password again and then leads to `path`."""
    with ask.visit() as visit:
        return Page("proof.html", {"back": path, "has_factor": second_factor.has(visit.db, visit.me.id)})


def prove(ask: Ask) -> Redirect:
    """Takes password and code, and leads back to where they were asked for."""
    if ask.known is None:
        raise Unauthenticated("nobody is logged in", hint="log in first")
    logins.prove(ask.desk, ask.known, field(ask, "password"), address=ask.address, code=field(ask, "code"))
    return Redirect(back(field(ask, "back")))


def back(given: str) -> str:
    """Returns a page of ours, whatever was given."""
    return given if _PATH.fullmatch(given) else "/"
