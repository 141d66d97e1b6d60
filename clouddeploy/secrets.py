"""Values that must never be shown, and where they may come from."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

KEYRING_SERVICE = "clouddeploy"
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


def ca_passphrase(*, file: Path | None, may_ask: bool, confirm: bool, keyring_entry: str | None = None) -> Secret:
    """Returns the passphrase of the project's certificate authority.

    Taken from `file`, else from the environment, else from the operating system's keyring when that is wanted, else
    asked for; a command line would show it to all users. What was asked for is kept in a wanted keyring.

    Args:
        file: a file whose first line is the passphrase.
        keyring_entry: name of the entry in the keyring; None: the keyring is not used.
        may_ask: whether a person is there to be asked.
        confirm: ask twice, for a new certificate authority.

    Raises:
        ConfigError: there is no passphrase, or the two answers differ.
    """
    value = _from_file(file) if file else os.environ.get(PASSPHRASE_VARIABLE, "")
    if not value and keyring_entry is not None:
        value = _keyring(keyring_entry) or ""
    if not value and may_ask:
        value = getpass.getpass("Passphrase of the certificate authority: ")
        if confirm and value != getpass.getpass("Once more: "):
            raise ConfigError("the passphrases differ", hint="start again and type the same twice")
        if value and keyring_entry is not None:
            _keyring(keyring_entry, keep=value)
    if not value:
        raise ConfigError(
            "no passphrase for the certificate authority",
            why="its private key is only ever stored encrypted",
            hint=f"set {PASSPHRASE_VARIABLE}, or pass --passphrase-file FILE or --keyring",
        )
    return Secret(value)


def _keyring(entry: str, *, keep: str | None = None) -> str | None:
    """Reads an entry of the operating system's keyring, or writes it."""
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to load
        import keyring.errors  # noqa: PLC0415

        if keep is None:
            found: str | None = keyring.get_password(KEYRING_SERVICE, entry)
            return found
        keyring.set_password(KEYRING_SERVICE, entry, keep)
    except ImportError as error:
        raise ConfigError(
            "the keyring cannot be used", why=str(error), hint="pip install 'clouddeploy[keyring]'"
        ) from error
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            "the keyring cannot be used", why=str(error), hint="unlock it, or give the passphrase another way"
        ) from error
    return keep


def _from_file(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the passphrase file {file}", why=str(error)) from error
    return lines[0] if lines else ""
