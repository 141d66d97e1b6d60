"""One call of the REST interface as a row: what the server, the OpenAPI document and the tests are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy.dashboard.rules import Scope
from clouddeploy.dashboard.web import shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from clouddeploy.dashboard.web.asking import Answer, Ask


@dataclass(frozen=True)
class Call:
    """One row of the table.

    Attributes:
        method: of HTTP.
        path: below the prefix.
        summary: one sentence for the document.
        handle: does it.
        takes: what must be sent; None: nothing.
        gives: what is answered; None: a zip archive.
        is_open: whether it is for everybody, logged in or not.
        scope: what a token must have been made for; what it asks for may demand more, see `rules.DEMANDED`.
        status: of an answer that went well.
        in_turn: whether it waits for others that decide who is in.
        takes_file: the media type of a file that is sent; empty: none is.
        is_conditional: whether it can be told what was seen (`If-Match`).
    """

    method: str
    path: str
    summary: str
    handle: Callable[[Ask], Answer]
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | None = shapes.Done
    is_open: bool = False
    scope: Scope = Scope.READ
    status: int = 200
    in_turn: bool = False
    takes_file: str = ""
    is_conditional: bool = False

    @property
    def is_list(self) -> bool:
        """Whether it has pages and a search."""
        return self.gives is shapes.AuditReply or (self.gives is not None and "paging" in self.gives.model_fields)

    @property
    def has_states(self) -> bool:
        """Whether it lists what is pending, approved or denied."""
        return self.gives in {shapes.UsersReply, shapes.SitesReply}
