"""The question before what cannot be taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session


def confirm(session: Session, question: str) -> None:
    """Returns when the user agrees. It is asked on stderr, since stdout may be a file, or hold JSON.

    Raises:
        ConfigError: nobody is there to be asked, or the answer is no.
    """
    if not session.may_ask:
        raise ConfigError("this needs a confirmation", why="nobody is there to ask", hint="add --yes")
    if not click.confirm(question, err=True):
        raise ConfigError("not confirmed", why="the answer was no", hint="nothing was changed")
