"""What Tab offers: commands, jobs, clients, targets, folders."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, printable

from clouddeploy.console.targets import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from clouddeploy.console.command import Command
    from clouddeploy.console.desk import Desk

_FRESH_S = 5.0
"""Who presses Tab twice asks the server once."""
_JOBS = 50


class Suggestions:
    """Words that may stand next.

    Args:
        desk: where it is typed; given later, as it needs the keyboard that needs this.
        commands: by name.
    """

    def __init__(self, commands: Mapping[str, Command], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._commands = commands
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self.desk: Desk | None = None

    def after(self, words: Sequence[str]) -> Iterable[str]:
        """Return what may stand after some words; nothing where nobody can tell, as without a connection."""
        if not words:
            return [name for name, command in self._commands.items() if not command.is_hidden]
        command = self._commands.get(words[0])
        if command is None or not command.completes:
            return []
        place = sum(not word.startswith("-") for word in words[1:])
        return self._of_kind(command.completes[min(place, len(command.completes) - 1)])

    def _of_kind(self, kind: str) -> Iterable[str]:
        fixed = {"command": tuple(self._commands), "kind": KINDS}
        if kind in fixed:
            return fixed[kind]
        since, words = self._known.get(kind, (float("-inf"), ()))
        if self._clock() - since > _FRESH_S and self.desk is not None:
            with contextlib.suppress(ClouddeployError, OSError):
                words = tuple(printable(word) for word in self._asked(self.desk, kind))
            self._known[kind] = (self._clock(), words)
        return words

    def _asked(self, desk: Desk, kind: str) -> list[str]:
        if kind == "job":
            return [info.job_id for info in reversed(desk.session.list_jobs(limit=_JOBS))]
        if kind == "study":
            return [study.name for study in desk.session.studies.list()]
        if kind == "folder":
            return sorted(path.name for path in desk.kit.transfer.iterdir() if path.is_dir())
        before = {"site": ["server"], "target": ["server", "all"]}.get(kind, [])
        return before + [client.name for client in desk.session.system_status().clients]
