"""Whom a command is for, and how answers of sites are shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import NoClients

from clouddeploy.console.command import Reply
from clouddeploy.console.errors import SitesFailed, SyntaxFault, word
from clouddeploy.log_config import read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.admin.session import SystemStatus
    from clouddeploy_runtime.admin.sites import SiteReply, Target

    from clouddeploy.console.command import Arguments

KINDS = ("server", "client", "all")


def takes_target(arguments: Arguments) -> None:
    """Add `server|client|all [client …]`."""
    arguments.add_argument("kind", choices=KINDS, help="whom it is for")
    arguments.add_argument("names", nargs="*", metavar="client", help="only these clients; default: every one")


def takes_job_and_target(arguments: Arguments) -> None:
    """Add `job_id server|client|all [client …]`."""
    arguments.add_argument("job_id", help="see list_jobs")
    takes_target(arguments)


def takes_log_config(arguments: Arguments, *, before: str = "") -> None:
    """Add `server|client|all [client …] config`: the last word is how to log, as it has always been.

    Args:
        arguments: of the command.
        before: what of its usage stands before that.
    """
    arguments.usage = f"{arguments.prog} {before}{{{','.join(KINDS)}}} [client ...] config"
    arguments.add_argument("kind", choices=KINDS, help="whom it is for")
    arguments.add_argument(
        "words",
        nargs="+",
        metavar="[client ...] config",
        help="a level, a mode (concise, msg_only, full, verbose), reload, or a .json file with levels of loggers",
    )


def log_config(given: argparse.Namespace) -> Any:
    """Return how to log, of what `takes_log_config` was given; sets `names` for `target_of`.

    Raises:
        ConfigError: it is a file that cannot be read.
    """
    *given.names, config = given.words
    return read(config)


def target_of(given: argparse.Namespace) -> Target:
    """Return what `takes_target` was given.

    Raises:
        SyntaxFault: clients are named that are not meant.
    """
    if not given.names:
        return str(given.kind)
    if given.kind != "client":
        raise SyntaxFault(
            f"{given.kind} takes no names",
            why=f"named are {', '.join(given.names)}",
            hint="Write `client` before them.",
        )
    return tuple(given.names)


def connected(status: SystemStatus) -> tuple[str, ...]:
    """Return the names of the connected clients.

    Raises:
        NoClients: there is none.
    """
    names = tuple(client.name for client in status.clients)
    if not names:
        raise NoClients("No client is connected", hint="`check_status server` names those that are.")
    return names


def reply_of(replies: Mapping[str, SiteReply], shown: Callable[[Mapping[str, Any]], str] | None = None) -> Reply:
    """Return what sites answered, each below its name; those that did not make the command fail.

    Args:
        replies: by site.
        shown: writes one site's answer; default: names and values, indented.
    """
    write = shown or written
    parts = []
    for site, reply in replies.items():
        if reply.is_ok:
            parts.append(f"{site}:\n{_indented(write(reply.data))}")
        else:
            parts.append(f"{site}: {word(reply.code)}: {reply.reason}")
    return Reply("\n".join(parts), data=_data(replies), fault=_fault(replies))


def _data(replies: Mapping[str, SiteReply]) -> dict[str, Any]:
    return {
        site: dict(reply.data) if reply.is_ok else {"error_code": reply.code, "message": reply.reason}
        for site, reply in replies.items()
    }


def with_text(replies: Mapping[str, SiteReply], text: str) -> Reply:
    """Return a text made of the answers, followed by what became of those who gave none."""
    failed = [f"{site}: {word(reply.code)}: {reply.reason}" for site, reply in replies.items() if not reply.is_ok]
    return Reply("\n".join(filter(None, (text, *failed))), data=_data(replies), fault=_fault(replies))


def written(data: Any) -> str:
    """Return names and values of an answer, what is inside of others further in; empty texts are left out."""
    if isinstance(data, dict):
        lines = []
        for name, value in data.items():
            if value == "":
                continue
            if isinstance(value, dict | list) and value:
                lines += [f"{name}:", _indented(written(value))]
            else:
                lines.append(f"{name}: {_one(value)}")
        return "\n".join(lines)
    if isinstance(data, list):
        return "\n".join(written(one) if isinstance(one, dict | list) else _one(one) for one in data)
    return _one(data)


def _one(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value in ({}, []):
        return "none"
    return json.dumps(value)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()) or "  done"


def _fault(replies: Mapping[str, SiteReply]) -> SitesFailed | None:
    codes = {site: reply.code for site, reply in replies.items() if not reply.is_ok}
    return SitesFailed(codes, is_partial=len(codes) < len(replies)) if codes else None
