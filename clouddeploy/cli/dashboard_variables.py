"""The dashboard's variables: read once, and those that are secret leave no trace in the process or what it starts."""

from __future__ import annotations

import ctypes
import os

from clouddeploy.errors import ConfigError
from clouddeploy.secrets import PASSPHRASE_VARIABLE

CREDENTIAL = ("CLOUDDEPLOY_DASHBOARD_CREDENTIAL", "NVFL_CREDENTIAL")
PASSPHRASE = (PASSPHRASE_VARIABLE, "NVFL_DASHBOARD_PP")
DATABASE = ("CLOUDDEPLOY_DASHBOARD_DATABASE", "DATABASE_URL")
OIDC = tuple(f"CLOUDDEPLOY_DASHBOARD_OIDC_{name}" for name in ("ISSUER", "CLIENT_ID", "CLIENT_SECRET", "CALLBACK"))
PORT = "NVFL_WEB_PORT"
SECRET = frozenset({*CREDENTIAL, *PASSPHRASE, *DATABASE, OIDC[2]})
"""A database's address may have its password in it."""


def set_from(pairs: tuple[str, ...]) -> list[str]:
    """Sets variables from words `VAR=VALUE`; returns the names of those that should not have been on a command line.

    Raises:
        ConfigError: a word is no such pair.
    """
    shown = []
    for one in pairs:
        name, is_pair, value = one.partition("=")
        if not is_pair or not name:
            raise ConfigError(f"-e {name} is not understood", why="it is not VAR=VALUE", hint="-e DATABASE_URL=…")
        if name in SECRET:
            shown.append(name)
        os.environ[name] = value
    return shown


def take_secrets() -> dict[str, str]:
    """Returns the secret variables that are set, and takes them out of the environment.

    Taking them out of `os.environ` keeps them from what is started later. `/proc/PID/environ` shows the memory that
    the process was started with nevertheless, for as long as it lives, so the values are overwritten there too. Only
    whoever has the same account, or root, can read either.
    """
    taken = {}
    for name in sorted(SECRET & os.environ.keys()):
        taken[name] = os.environ[name]
        _overwrite(name)
        del os.environ[name]
    return taken


def first(values: dict[str, str], names: tuple[str, ...]) -> str:
    """Returns the value of the first of some names that has one; empty: none has."""
    return next((values[name] for name in names if values.get(name)), "")


def _overwrite(name: str) -> None:
    """Overwrites a variable's value where it is; `getenv` points there (POSIX.1-2017, getenv)."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype, getenv.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    place = getenv(os.fsencode(name))
    if place:
        ctypes.memset(place, 0, len(ctypes.string_at(place)))
