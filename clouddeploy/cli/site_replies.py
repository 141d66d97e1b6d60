"""What several sites have answered: shown together, and who did not answer makes the exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import AuthorizationRefused, ExitCode, printable

from clouddeploy.errors import PartialFailure, exit_code_of_sites

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from clouddeploy_runtime.admin.sites import SiteReply

    from clouddeploy.cli.main import Session


def show(
    session: Session,
    replies: Mapping[str, SiteReply],
    text: Callable[[Mapping[str, SiteReply]], str],
    *,
    more: Mapping[str, object] | None = None,
    exit_code: ExitCode = ExitCode.OK,
) -> None:
    """Ends a command that asked sites.

    Args:
        session: of the command.
        replies: by site.
        text: makes text for people of those that answered; is made printable here.
        more: further members of the JSON result.
        exit_code: where all have answered.
    """
    answered = {site: reply for site, reply in replies.items() if reply.is_ok}
    data = {**(more or {}), "sites": {site: _document(reply) for site, reply in replies.items()}}
    silent = [reply for reply in replies.values() if not reply.is_ok]
    if not silent:
        session.output.result(data, printable(text(answered)), exit_code=exit_code)
        return
    if answered and not session.output.as_json:
        session.output.say(printable(text(answered)))
    failure = PartialFailure(_who(silent, len(replies)), why=_reasons(silent), hint=_hint(silent))
    codes = {reply.code for reply in silent}
    if not answered:
        failure.exit_code = exit_code_of_sites(codes)
        failure.error_code = next(iter(codes)) if len(codes) == 1 else "NO_REPLY"
    session.output.error(failure, data=data)
    sys.exit(failure.exit_code)


def blocks(replies: Mapping[str, SiteReply]) -> str:
    """Returns each site's answer below its name, one value a line."""
    return "\n".join(
        "\n".join([site, *(f"  {line}" for line in _lines(reply.data))]) for site, reply in sorted(replies.items())
    )


def target(words: Sequence[str], *, usual: str = "all") -> str | tuple[str, ...]:
    """Returns a target as `Sites` takes it: one of its words, or names."""
    if not words:
        return usual
    return words[0] if len(words) == 1 else tuple(words)


site_option = click.option(
    "--site",
    "sites",
    multiple=True,
    help="`server`, `client` (every one), `all`, or a name; may be repeated.",
)


def _who(silent: Sequence[SiteReply], asked: int) -> str:
    names = ", ".join(reply.site for reply in silent)
    return f"{names} did not do it" if len(silent) == asked or asked == 1 else f"{len(silent)} of {asked} did not do it"


def _reasons(silent: Sequence[SiteReply]) -> str:
    """Returns why; what several say is said once."""
    by_reason: dict[str, list[str]] = {}
    for reply in silent:
        by_reason.setdefault(f"{reply.code} {reply.reason}".rstrip(), []).append(reply.site)
    return "; ".join(f"{', '.join(sites)}: {reason}" for reason, sites in by_reason.items())


def _hint(silent: Sequence[SiteReply]) -> str:
    codes = {reply.code for reply in silent}
    if codes & {"NO_REPLY", "SITE_GONE"}:
        return "see `clouddeploy system status`, and the log.txt of the site"
    if AuthorizationRefused.error_code in codes:
        return "`clouddeploy auth can-i RIGHT --site SITE` says which rule of its policy decides"
    return "see --help for what may be given"


def _document(reply: SiteReply) -> dict[str, object]:
    if reply.is_ok:
        return {"status": "ok", "data": dict(reply.data)}
    return {"status": "error", "error_code": reply.code, "message": reply.reason}


def _lines(data: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in data.items():
        if isinstance(value, dict) and value:
            found += _lines(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            found += [f"{prefix}{name}:", *(f"  {one}" for one in value)]
        else:
            found.append(f"{prefix + name:<28}{value}")
    return found
