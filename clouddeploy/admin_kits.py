"""Which admin's kit a command uses: those that this user has given a name, and the one that is active.

    ~/.config/clouddeploy/config.json    0600, {"version": 1, "startup_kits": {"active": ID, "entries": {ID: folder}}}

Chosen, first one wins: a name (`--kit-id`), a folder (`--startup-kit`), the environment, the active entry. What is
named and cannot be used is refused; no other one is used in its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy import durable
from clouddeploy.errors import ConfigError, KitMissing, KitNotConfigured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLES = ("CLOUDDEPLOY_STARTUP_KIT", "NVFLARE_STARTUP_KIT_DIR")
VERSION = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_HINT = (
    "name it with --startup-kit DIR, set CLOUDDEPLOY_STARTUP_KIT, or `clouddeploy config add ID DIR` and "
    "`clouddeploy config use ID`"
)


@dataclass(frozen=True)
class AdminKits:
    """The kits of this user that have a name."""

    entries: Mapping[str, Path] = field(default_factory=dict)
    active: str = ""
    """The one that is used where none is named; empty: none."""

    def folder(self, kit_id: str) -> Path:
        """Returns the folder of a named kit.

        Raises:
            KitMissing: there is none of this name.
        """
        if kit_id not in self.entries:
            known = ", ".join(sorted(self.entries)) or "there are none"
            raise KitMissing(
                f"there is no startup kit with the id {kit_id!r}",
                why=f"known: {known}",
                hint="see `clouddeploy config list`",
            )
        return self.entries[kit_id]

    def with_kit(self, kit_id: str, folder: Path) -> AdminKits:
        """Returns these and one more, which takes the place of one of the same name; the first is the active one.

        Raises:
            ConfigError: the name cannot be used.
        """
        if not _ID.fullmatch(kit_id):
            raise ConfigError(
                f"a kit cannot have the id {kit_id!r}",
                hint="use at most 64 letters, digits and . _ @ -, a letter first",
            )
        return AdminKits({**self.entries, kit_id: folder}, self.active or kit_id)

    def using(self, kit_id: str) -> AdminKits:
        """Returns the same with another active one; empty: none.

        Raises:
            KitMissing: there is none of this name.
        """
        if kit_id:
            self.folder(kit_id)
        return replace(self, active=kit_id)

    def without(self, kit_id: str) -> AdminKits:
        """Returns these without one; its folder stays.

        Raises:
            KitMissing: there is none of this name.
        """
        self.folder(kit_id)
        left = {name: folder for name, folder in self.entries.items() if name != kit_id}
        return AdminKits(left, "" if self.active == kit_id else self.active)


def config_file() -> Path:
    """Returns where the names are kept: as the XDG base directories say, else in the home."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():  # the specification tells to ignore any other
        base = Path.home() / ".config"
    return base / "clouddeploy" / "config.json"


def read() -> AdminKits:
    """Returns the named kits.

    Raises:
        ConfigError: the file cannot be read.
    """
    file = config_file()
    try:
        document = json.loads(file.read_bytes())
        kits = document["startup_kits"]
        entries = {str(name): Path(str(folder)) for name, folder in dict(kits["entries"]).items()}
        active = str(kits.get("active", ""))
    except FileNotFoundError:
        return AdminKits()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} cannot be used", why=f"{type(error).__name__}: {error}", hint="correct or remove it"
        ) from error
    return AdminKits(entries, active if active in entries else "")


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Holds the names for whoever reads, changes and writes them; others wait."""
    file = config_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(file.with_name("config.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.MODE)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written", why=error.strerror or str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write(kits: AdminKits) -> None:
    """Replaces the names; the old ones or the new ones survive a kill.

    Raises:
        ConfigError: the file cannot be written.
    """
    file = config_file()
    entries = {name: str(folder) for name, folder in kits.entries.items()}
    document = {"version": VERSION, "startup_kits": {"active": kits.active, "entries": entries}}
    try:
        durable.replace(file, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written", why=error.strerror or str(error)) from error


def choose(*, kit_id: str = "", startup_kit: Path | None = None) -> Path:
    """Returns the folder of the kit to use.

    Args:
        kit_id: the name of one of `config`; it wins.
        startup_kit: a folder.

    Raises:
        KitNotConfigured: nothing says which.
        KitMissing: what was named is no folder with a kit.
    """
    if kit_id:
        return _existing(read().folder(kit_id), f"the kit {kit_id!r} of {config_file()}")
    if startup_kit is not None:
        return _existing(startup_kit, "--startup-kit")
    for variable in VARIABLES:
        if os.environ.get(variable):
            return _existing(Path(os.environ[variable]), variable)
    kits = read()
    if not kits.active:
        why = "none is named, and none is active" if kits.entries else "none is named, and `config` knows none"
        raise KitNotConfigured("which admin's startup kit is meant", why=why, hint=_HINT)
    return _existing(kits.folder(kits.active), f"the active kit {kits.active!r} of {config_file()}")


def _existing(folder: Path, source: str) -> Path:
    if not (folder / "startup").is_dir():
        raise KitMissing(
            f"there is no startup kit in {folder}", why=f"{source} names it, and it has no startup/", hint=_HINT
        )
    return folder.absolute()
