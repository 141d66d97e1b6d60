"""One request, parsed: who asks, from where, for what; and one answer, before it becomes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard.errors import Invalid, NotFound
from clouddeploy.dashboard.listing import MOST, USUAL, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from pydantic import BaseModel

    from clouddeploy.dashboard.desk import Desk, Visit
    from clouddeploy.dashboard.logins import Known

_MAX_SEARCH = 100
_MAX_DIGITS = 9


@dataclass(frozen=True)
class Ask:
    """What a handler is given.

    Attributes:
        desk: the dashboard.
        known: who asks; None: nobody who is logged in.
        address: where from.
        path: what stands in the path's places.
        query: what stands behind the question mark.
        body: what was sent, checked; of a page: the form's fields.
        upload: a file that was sent.
        form_token: what forms of the answer must send back.
        seen: digests of what the one who asks has seen (`If-Match`); None: it was not said.
    """

    desk: Desk
    known: Known | None
    address: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    upload: bytes = b""
    form_token: str = ""
    device: str = ""
    seen: tuple[str, ...] | None = None

    def visit(self) -> AbstractContextManager[Visit]:
        """Opens a transaction of the one who asks."""
        return self.desk.visit(self.known.actor if self.known is not None else None, address=self.address)

    @property
    def id(self) -> int:
        """The number in the path.

        Raises:
            NotFound: what stands there is none.
        """
        given = self.path.get("id", "")
        if not (given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS):
            raise NotFound("there is no such thing", why="an id is a number")
        return int(given)

    @property
    def wanted(self) -> Wanted:
        """Which part of a list is asked for.

        Raises:
            Invalid: there is no such part.
        """
        return Wanted(
            search=self.query.get("q", "")[:_MAX_SEARCH],
            state=self.query.get("state", ""),
            page=self.number("page", 1),
            per_page=min(self.number("per_page", USUAL), MOST),
        )

    def number(self, name: str, usual: int) -> int:
        """Returns a number of the query.

        Raises:
            Invalid: it is none.
        """
        given = self.query.get(name, "") or str(usual)
        if not (given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS):
            raise Invalid(f"{name} is refused", why="it is no number", hint="1")
        return int(given)


@dataclass(frozen=True)
class Reply:
    """An answer in JSON; `session` as with a page."""

    data: BaseModel
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None


@dataclass(frozen=True)
class Archive:
    """An answer that is a file."""

    content: bytes
    filename: str
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/zip"


@dataclass(frozen=True)
class Page:
    """An answer that is a page.

    Attributes:
        template: its file.
        values: what it shows.
        status: of the answer.
        session: a session that the browser is to have from now on; empty: to lose; None: as it is.
    """

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    session: str | None = None


@dataclass(frozen=True)
class Redirect:
    """An answer that leads to another page.

    Attributes:
        to: its path.
        session: as with a page.
        device: what the browser is known by from now on; empty: as it is.
    """

    to: str
    session: str | None = None
    device: str = ""


@dataclass(frozen=True)
class Stream:
    """An answer that goes on: a part of a page, sent anew with each change.

    Attributes:
        template: the part's.
        revision: another one with each change of what it shows; asked often, so it must be quick.
        values: what it shows now.
        is_over: whether nothing will change any more.
    """

    template: str
    revision: Callable[[], object]
    values: Callable[[], Mapping[str, Any]]
    is_over: Callable[[], bool] = lambda: False


Answer = Reply | Archive | Page | Redirect | Stream
