"""`audit verify`: whether a log of what was done is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clouddeploy import config
from clouddeploy.audit import LOG
from clouddeploy.audit import verify as verify_log
from clouddeploy.cli.main import command_options
from clouddeploy.stores import open_store

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session

DEPLOY_FILES = {".yml", ".yaml"}


@click.group()
def audit() -> None:
    """What was done by whom: logs whose lines are chained, so that a change shows."""


@audit.command("verify")
@click.argument("file", type=click.Path(path_type=Path), default=Path("deploy.yml"))
@click.option(
    "--known-hash", "known", default="", help="Hash of an entry that has to be in it, so that a cut end shows too."
)
@command_options
def verify(session: Session, file: Path, known: str) -> None:
    """Verify an audit log: a file, or that of a deploy file, also in shared storage."""
    if file.suffix in DEPLOY_FILES:
        folder = file.parent / ".clouddeploy" / file.stem
        path, store = folder / LOG, open_store(config.load(file).state, folder)
    else:
        path, store = file, None
    found = verify_log(path, store=store, known=known)
    where = str(path) if store is None else f"{store.where}/{path.name}"
    torn = f" {found.torn_lines} line(s) were cut by a kill." if found.torn_lines else ""
    session.output.result(
        {"file": where, "entries": found.entries, "last_hash": found.last_hash, "torn_lines": found.torn_lines},
        f"{where}: {found.entries} entries, the chain is whole.{torn}\nLast hash: {found.last_hash}",
    )
