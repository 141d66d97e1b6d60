"""Values that must never be shown, and where they may come from."""

from __future__ import annotations

import getpass
import os
import stat
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYRING_SERVICE = "clouddeploy"
PASSPHRASE_VARIABLE = "CLOUDDEPLOY_CA_PASSPHRASE"  # noqa: S105 - the name of the variable, not its value
_MAX_LINE_BYTES = 4096
"""Longer than any passphrase that is accepted; `/dev/zero` has no end of line."""


class Secret:
    """Holds text whose repr, str and format are `[REDACTED]`; `reveal` and `reveal_bytes` are the ways to the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the text itself."""
        return self._value

    def reveal_bytes(self) -> bytes:
        """Returns the bytes that the file, the environment or the terminal had, whatever their encoding was."""
        return os.fsencode(self._value)

    def __repr__(self) -> str:
        return "[REDACTED]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def ca_passphrase(
    *,
    file: Path | None,
    may_ask: bool,
    confirm: bool,
    keyring_entry: str | None = None,
    check: Callable[[Secret], object] | None = None,
) -> Secret:
    """Returns the passphrase of the project's certificate authority.

    Taken from `file`, else from the environment, else from the operating system's keyring when that is wanted, else
    asked for; a command line would show it to all users. What was asked for is kept in a wanted keyring, once it was
    checked: a wrong one would be found there again and again.

    Args:
        file: a file whose first line is the passphrase, or a pipe.
        keyring_entry: name of the entry in the keyring; None: the keyring is not used.
        may_ask: whether a person is there to be asked.
        confirm: ask twice, for a new certificate authority.
        check: raises when it is not the right passphrase; called only before it is kept.

    Raises:
        ConfigError: there is no passphrase, the two answers differ, or others can read the file.
    """
    value = _from_file(file) if file else os.environ.get(PASSPHRASE_VARIABLE, "")
    if not value and keyring_entry is not None:
        value = _keyring(keyring_entry) or ""
    if not value and may_ask:
        value = getpass.getpass("Passphrase of the certificate authority: ")
        if confirm and value != getpass.getpass("Once more: "):
            raise ConfigError("the passphrases differ", hint="start again and type the same twice")
        if value and keyring_entry is not None:
            if check is not None:
                check(Secret(value))
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
    what = f"the passphrase file {file} is refused"
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISREG(status.st_mode) and mode & 0o077:
                raise ConfigError(what, why=f"its mode {mode:04o} lets others read it", hint=f"chmod 600 {file}")
            line = stream.readline(_MAX_LINE_BYTES).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read the passphrase file {file}", why=error.strerror or str(error)) from error
    if not line:
        raise ConfigError(what, why="its first line is empty", hint="put the passphrase there")
    return os.fsdecode(line)
