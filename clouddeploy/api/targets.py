"""Whom a call is for, and what sites answered: values, or the error of one that did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy.api.errors import InvalidArgumentError, made
from clouddeploy.api.status import TargetType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_runtime.admin.sites import SiteReply


def target_of(target_type: str, names: Sequence[str] | str | None = None) -> str | tuple[str, ...]:
    """Return whom a call is for, as `clouddeploy_runtime.admin.sites` takes it.

    Args:
        target_type: `server`, `client` or `all`.
        names: with `client`, only these; None or none: every connected client.

    Raises:
        InvalidArgumentError: the type is another one, or names stand beside another type than `client`.
    """
    wanted = listed(names)
    if target_type not in set(TargetType):
        raise InvalidArgumentError(
            "The target type cannot be used", why=f"it is {target_type!r}", hint="Give server, client or all."
        )
    if wanted and target_type != TargetType.CLIENT:
        raise InvalidArgumentError(
            f"Names cannot be given with the target type {target_type}",
            why=f"they are {', '.join(wanted)}",
            hint="Give the type client, or no names.",
        )
    return wanted or str(target_type)


def listed(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return names; of one that came alone, too.

    Raises:
        InvalidArgumentError: one is no text, or empty.
    """
    found = (names,) if isinstance(names, str) else tuple(names or ())
    if any(not isinstance(name, str) or not name for name in found):
        raise InvalidArgumentError("The names cannot be used", why=f"they are {found!r}", hint="Give a list of names.")
    return found


def answers(replies: Mapping[str, SiteReply]) -> dict[str, dict[str, Any]]:
    """Return site → what it said; of one that did not, its `error_code` and `message`.

    Raises:
        ApiError: nobody answered; the first one's error.
    """
    if replies and not any(reply.is_ok for reply in replies.values()):
        raise failure(replies)
    return {site: dict(reply.data) if reply.is_ok else _error(reply) for site, reply in replies.items()}


def require(replies: Mapping[str, SiteReply]) -> None:
    """Go on when every site did it.

    Raises:
        ApiError: one did not; the first one's error, which names all.
    """
    if any(not reply.is_ok for reply in replies.values()):
        raise failure(replies)


def only(replies: Mapping[str, SiteReply]) -> dict[str, Any]:
    """Return what the one site that was asked said.

    Raises:
        ApiError: it gave no answer.
    """
    require(replies)
    return dict(next(iter(replies.values())).data) if replies else {}


def failure(replies: Mapping[str, SiteReply]) -> Exception:
    """Return the error of those that did not answer."""
    failed = [reply for reply in replies.values() if not reply.is_ok]
    return made(
        failed[0].code,
        f"{', '.join(reply.site for reply in failed)} did not do it",
        why="; ".join(f"{reply.site}: {reply.reason or reply.code}" for reply in failed),
        hint="Ask who runs the site, or look at its log.txt.",
    )


def _error(reply: SiteReply) -> dict[str, Any]:
    return {"error_code": reply.code, "message": reply.reason}
