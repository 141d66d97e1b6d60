"""Values that must never be shown, and where they may come from."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE_VARIABLE = "CLOUDDEPLOY_CA_PASSPHRASE"  # noqa: S105 - the name of the variable, not its value


class Secret:
    """Holds text whose repr, str and format are `[REDACTED]`; `reveal` is the one way to the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the text itself."""
        return self._value

    def __repr__(self) -> str:
        return "[REDACTED]"

    __str__ = __repr__


def ca_passphrase(*, file: Path | None, may_ask: bool, confirm: bool) -> Secret:
    """Returns the passphrase of the project's certificate authority.

    Taken from `file`, else from the environment, else asked for; a command line would show it to all users.

    Args:
        file: a file whose first line is the passphrase.
        may_ask: whether a person is there to be asked.
        confirm: ask twice, for a new certificate authority.

    Raises:
        ConfigError: there is no passphrase, or the two answers differ.
    """
    value = _from_file(file) if file else os.environ.get(PASSPHRASE_VARIABLE, "")
    if not value and may_ask:
        value = getpass.getpass("Passphrase of the certificate authority: ")
        if confirm and value != getpass.getpass("Once more: "):
            raise ConfigError("the passphrases differ", hint="start again and type the same twice")
    if not value:
        raise ConfigError(
            "no passphrase for the certificate authority",
            why="its private key is only ever stored encrypted",
            hint=f"set {PASSPHRASE_VARIABLE} or pass --passphrase-file FILE",
        )
    return Secret(value)


def _from_file(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the passphrase file {file}", why=str(error)) from error
    return lines[0] if lines else ""
