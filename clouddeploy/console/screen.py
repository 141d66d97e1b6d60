"""What the console writes, and where: to the terminal, to a file, or into the one JSON envelope of a script."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TextIO

from clouddeploy_runtime.errors import printable

from clouddeploy.console.errors import SyntaxFault, word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clouddeploy_runtime.errors import ClouddeployError

    from clouddeploy.console.line import Line


class Screen:
    """Where the console's words go; what others wrote cannot steer the terminal.

    Args:
        shown: the terminal; None: nothing is shown, as when a script wants JSON.
        errors: where errors go; None: to `shown`.
    """

    def __init__(self, shown: TextIO | None, *, errors: TextIO | None = None) -> None:
        self._shown = shown
        self._errors = errors or shown
        self._file: TextIO | None = None
        self._is_shown = True

    def say(self, text: str) -> None:
        """Write lines."""
        self._write(self._shown if self._is_shown else None, text)

    def refuse(self, error: ClouddeployError) -> None:
        """Write what failed, with the word that programs of old look for, why, and what to do."""
        lines = [f"Error: {word(error.error_code)}: {error.what}."]
        lines += [f"  Why: {error.why}"] if error.why else []
        lines += [f"  Do:  {error.hint}"] if error.hint else []
        self._write(self._errors, "\n".join(lines))

    def _write(self, stream: TextIO | None, text: str) -> None:
        for target in (stream, self._file):
            if target is not None:
                target.write(f"{printable(text)}\n")
                target.flush()

    @contextlib.contextmanager
    def redirected(self, line: Line) -> Iterator[None]:
        """Write to the line's file meanwhile, and to the terminal too unless the line says otherwise.

        Raises:
            SyntaxFault: the file cannot be written.
        """
        if line.file is None:
            yield
            return
        try:
            # What a federation says is for its admins: 0600, as the kit beside it.
            descriptor = os.open(line.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as exc:
            raise SyntaxFault(
                f"{line.file} cannot be written", why=exc.strerror or str(exc), hint="Name another file."
            ) from exc
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as self._file:
                self._is_shown = line.is_shown
                yield
        finally:
            self._file, self._is_shown = None, True
