"""The folder of a federation on this machine, and what stands in it about itself.

<workspace>/
  poc.json        written first: what else is here was made by `poc`, and may be deleted by it
  poc.lock        held by whoever prepares, starts, stops or cleans
  passphrase      0600, of the certificate authority
  project.yml     what was provisioned
  provisioned/    the kits, as `provision` makes them
  sites/NAME/     the workspace of each participant
  state/          what the participants remember of certificates, see `clouddeploy_runtime.places`
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clouddeploy import durable
from clouddeploy.errors import LockedError, PocState, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORKSPACE_VARIABLE = "CLOUDDEPLOY_POC_WORKSPACE"
FILE, LOCK, PASSPHRASE, PROJECT = "poc.json", "poc.lock", "passphrase", "project.yml"
PROVISIONED, SITES, STATE = "provisioned", "sites", "state"
OWN = (PASSPHRASE, PROJECT, PROVISIONED, SITES, STATE)
"""What is deleted with it, besides the record and the lock."""
LOCALHOST = "127.0.0.1"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`poc.json`."""

    version: int = 1
    is_ready: bool = False
    """False: it is being prepared, or that was interrupted."""
    project: str = ""
    port: int = 0
    server: str = ""
    clients: tuple[str, ...] = ()
    admin: str = ""
    kits: dict[str, str] = {}
    """Participant → its kit's folder in the workspace."""
    kit_id: str = ""
    """Name of the admin's kit in `config`."""
    was_active: str = ""
    """The one that was active there before."""

    @property
    def participants(self) -> tuple[str, ...]:
        """Those that are processes, the server first."""
        return (self.server, *self.clients)

    @property
    def address(self) -> str:
        """Where the server is reached."""
        return f"{LOCALHOST}:{self.port}"


def default_workspace() -> Path:
    """Returns the folder of this user's federation: the environment's, else as the XDG base directories say."""
    if given := os.environ.get(WORKSPACE_VARIABLE):
        return Path(given)
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():  # the specification tells to ignore any other
        base = Path.home() / ".local" / "share"
    return base / "clouddeploy" / "poc"


def read(workspace: Path) -> Record | None:
    """Returns what stands in a workspace; None when it is none of ours.

    Raises:
        StateError: the record cannot be read.
    """
    file = workspace / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StateError(f"{file} cannot be read", why=str(error), hint="remove the folder by hand") from error


def prepared(workspace: Path) -> Record:
    """Returns the record of a workspace that is ready to be started.

    Raises:
        PocState: it is not prepared.
    """
    found = read(workspace)
    if found is None or not found.is_ready:
        why = "there is none" if found is None else "preparing it was interrupted"
        raise PocState(
            f"no federation is prepared in {workspace}", why=why, hint="run `clouddeploy poc prepare --force`"
        )
    return found


def write(workspace: Path, record: Record) -> None:
    """Replaces the record."""
    durable.replace(workspace / FILE, msgspec.json.format(msgspec.json.encode(record)).decode() + "\n")


def kits(workspace: Path, record: Record) -> Mapping[str, Path]:
    """Returns each participant's kit."""
    return {name: workspace / folder for name, folder in record.kits.items()}


@contextlib.contextmanager
def held(workspace: Path) -> Iterator[None]:
    """Holds a workspace for one command; the lock ends with its process, however that ends.

    Raises:
        LockedError: another command holds it.
        StateError: the folder cannot be written.
    """
    is_new = not workspace.exists()
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(workspace / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.MODE)
    except OSError as error:
        raise StateError(
            f"{workspace} cannot be written", why=error.strerror or str(error), hint="name another folder"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"another command works in {workspace}", hint="wait for it, or end it, and try again"
            ) from None
        if not os.fstat(lock).st_nlink:  # deleted with the rest of it, or by whoever was refused, since it was opened
            raise LockedError(f"another command works in {workspace}", hint="try again")
        try:
            yield
        finally:
            if not (workspace / FILE).exists():  # a folder that is none of ours is left as it was
                (workspace / LOCK).unlink(missing_ok=True)
                if is_new:
                    with contextlib.suppress(OSError):  # something is in it
                        workspace.rmdir()
    finally:
        os.close(lock)
