"""Parts of long lists: one page of what a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import func, or_, select

from clouddeploy.dashboard.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

T = TypeVar("T")
USUAL = 50
MOST = 1000
_LAST_PAGE = 1_000_000


@dataclass(frozen=True)
class Wanted:
    """Which part is wanted.

    Attributes:
        search: part of a name, in either case; empty: everything.
        state: pending, approved or denied; empty: all.
        page: from 1.
        per_page: 1 to `MOST`.
    """

    search: str = ""
    state: str = ""
    page: int = 1
    per_page: int = USUAL

    def __post_init__(self) -> None:
        """Refuse what is no part.

        Raises:
            Invalid: a number is out of bounds.
        """
        if not 1 <= self.page <= _LAST_PAGE or not 1 <= self.per_page <= MOST:
            raise Invalid("there is no such page", why=f"page is from 1, per_page from 1 to {MOST}")
        if self.state not in {"", "pending", "approved", "denied"}:
            raise Invalid(f"there is no state {self.state[:20]!r}", hint="pending, approved or denied")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page, and how much there is in all."""

    rows: Sequence[T]
    total: int
    wanted: Wanted

    @property
    def last(self) -> int:
        """The number of the last page, at least 1."""
        return max(1, -(-self.total // self.wanted.per_page))


def page(
    db: Session, query: Select[T], wanted: Wanted, *, searched: Sequence[Any], state: Any, order: Sequence[Any]
) -> Page[T]:
    """Returns one page of a query.

    Args:
        db: where.
        query: everything that the one who asks may see.
        wanted: which part.
        searched: columns that a search looks into.
        state: the column with the approval.
        order: what comes first.
    """
    if wanted.search:
        # `autoescape`: % and _ are signs like others to who types them.
        found = [column.icontains(wanted.search, autoescape=True) for column in searched]
        query = query.where(or_(*found))
    if wanted.state:
        bounds = {"denied": state < 0, "pending": (state >= 0) & (state < 100), "approved": state >= 100}  # noqa: PLR2004
        query = query.where(bounds[wanted.state])
    total = int(db.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0)
    rows: Sequence[Any] = db.scalars(
        query.order_by(*order).offset((wanted.page - 1) * wanted.per_page).limit(wanted.per_page)
    ).all()
    return Page(rows, total, wanted)


def part(rows: Iterable[T], wanted: Wanted, *, said: Callable[[T], Iterable[str]] = lambda _row: ()) -> Page[T]:
    """Returns one page of what is no table of the database.

    Args:
        rows: everything that the one who asks may see, in its order.
        wanted: which part; its state is not looked at.
        said: returns the texts that a search looks into.
    """
    word = wanted.search.casefold()
    found = [one for one in rows if not word or any(word in text.casefold() for text in said(one))]
    begin = (wanted.page - 1) * wanted.per_page
    return Page(found[begin : begin + wanted.per_page], len(found), wanted)
