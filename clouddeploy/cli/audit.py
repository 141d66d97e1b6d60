"""`audit verify` and `audit show`: whether logs of what was done are whole, and what stands in them."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clouddeploy import config
from clouddeploy.audit import LOG, read
from clouddeploy.audit import verify as verify_log
from clouddeploy.cli.main import CommandGroup, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import StateError
from clouddeploy.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.cli.main import Session
    from clouddeploy.stores import StateStore

DEPLOY_FILES = {".yml", ".yaml"}
_SHOWN = ("time", "who", "what", "result", "code", "address", "detail", "reference")
_MAX_CELL = 120
_part = click.option(
    "--part",
    "is_part",
    is_flag=True,
    help="What was set aside before is elsewhere: believe how the file begins.",
)


@click.group(cls=CommandGroup)
def audit() -> None:
    """What was done by whom: logs whose lines are chained, so that a change shows."""


@audit.command("verify")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="[FILE]...")
@click.option(
    "--known-hash", "known", default="", help="Hash of an entry that has to be in it, so that a cut end shows too."
)
@_part
@command_options
def verify(session: Session, files: tuple[Path, ...], known: str, *, is_part: bool) -> None:
    """Verify audit logs: of servers, sites and deployments, also in shared storage.

    FILE is an audit.jsonl, with what was set aside of it, or a deploy file for its log; default: deploy.yml.
    """
    found: list[dict[str, Any]] = []
    broken: list[StateError] = []
    for file in files or (Path("deploy.yml"),):
        path, store, where = _log(file)
        try:
            one = verify_log(path, store=store, known=known, is_part=is_part)
        except StateError as exc:
            broken.append(exc)
            continue
        found.append({"file": where, "entries": one.entries, "last_hash": one.last_hash, "torn_lines": one.torn_lines})
    if broken:
        raise _several(broken, len(broken) + len(found))
    session.output.result({**found[0], "files": found}, "\n".join(_said(one) for one in found))


@audit.command("show")
@click.argument("file", type=click.Path(path_type=Path), default=Path("deploy.yml"))
@click.option("--who", default="", help="Only what this person did.")
@click.option("--what", default="", help="Only actions that begin so.")
@click.option("--result", "ending", default="", help="Only with this result: allowed, refused, done, failed.")
@click.option("--reference", default="", help="Only what belongs to this command, at the server and at sites.")
@click.option("--since", default="", help="Only from this time on: 2026-01-31 or 2026-01-31T12:00, UTC.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The last so many.")
@_part
@command_options
def show(session: Session, file: Path, limit: int, *, is_part: bool, **wanted: str) -> None:
    """Show what stands in an audit log that is whole, the newest last."""
    path, store, where = _log(file)
    seen = False
    kept: deque[dict[str, str]] = deque(maxlen=limit)
    for _, link in read(path, store=store, is_part=is_part):
        seen = True
        line = _line(link.entry) if link.entry is not None else None
        if line is not None and _is_wanted(line, **wanted):
            kept.append(line)
    if not seen:
        raise StateError(f"there is no audit log {where}", hint="name an audit.jsonl")
    rows = [[_cell(line[name]) for name in _SHOWN[:-1]] for line in kept]
    session.output.result({"entries": list(kept)}, table(_SHOWN[:-1], rows) if rows else "No entry.")


def _log(file: Path) -> tuple[Path, StateStore | None, str]:
    """Return where a log is, and what to call it."""
    if file.suffix not in DEPLOY_FILES:
        return file, None, str(file)
    folder = file.parent / ".clouddeploy" / file.stem
    store = open_store(config.load(file).state, folder)
    return folder / LOG, store, f"{store.where}/{LOG}"


def _several(broken: list[StateError], count: int) -> StateError:
    if count == 1 or len(broken) == 1:
        return broken[0]
    return StateError(f"{len(broken)} of {count} logs are broken", why="; ".join(map(str, broken)), hint=broken[0].hint)


def _said(one: Mapping[str, Any]) -> str:
    torn = f" {one['torn_lines']} line(s) were cut by a kill." if one["torn_lines"] else ""
    return f"{one['file']}: {one['entries']} entries, the chain is whole.{torn}\nLast hash: {one['last_hash']}"


def _cell(text: str) -> str:
    return " ".join(text.split())[:_MAX_CELL]


def _line(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return an entry of either kind of log with the same names."""
    about = " ".join(str(entry[name]) for name in ("node", "name") if entry.get(name))
    return {
        "time": str(entry.get("time", "")),
        "who": str(entry.get("user") or entry.get("actor") or ""),
        "what": str(entry.get("action") or f"{entry.get('command', '')}: {entry.get('event', '')} {about}".strip()),
        **{name: str(entry.get(name, "")) for name in _SHOWN[3:]},
    }


def _is_wanted(line: Mapping[str, str], *, who: str, what: str, ending: str, reference: str, since: str) -> bool:
    return (
        (not who or line["who"] == who)
        and line["what"].startswith(what)
        and (not ending or line["result"] == ending)
        and (not reference or line["reference"] == reference)
        and line["time"] >= since  # ISO 8601 of one zone: as texts they are in the order of time
    )
