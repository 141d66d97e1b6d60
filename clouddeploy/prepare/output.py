"""Where a prepared kit goes, and how it gets there: whole or not at all, and with nothing lost of what was there.

The copy is made beside the output and takes its place in one step. What a site that ran in the earlier output has left,
jobs and logs, goes on in the new one; files of the earlier one that differ are kept in a folder beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.lifecycle import PID_FILE

from clouddeploy.prepare import record as records
from clouddeploy.prepare.errors import InvalidArguments, PrepareError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

    from clouddeploy.prepare.record import Record

NEW, CHANGING, OLD = "new", "changing", "old"
"""What stands beside an output for a moment: the copy while it is made, what changes places, what had to give way."""
_LOCKS = (PID_FILE, "daemon_pid.fl")
_AT_FDCWD, _EXCHANGE = -100, 2
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def check(output: Path, source: Path) -> Path:
    """Return where the output goes, without links.

    Raises:
        InvalidArguments: it is or holds the kit, is in its `startup` or `local`, or is no folder.
    """
    place = output.absolute()
    place = place.parent.resolve() / place.name if place.name not in {"", ".."} else place.resolve()
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise _wrong(output, "it is a file or a link, and a prepared kit is a folder")
    if place == source or source.is_relative_to(place):
        raise _wrong(output, f"the kit {source} is there, and it stays as it is")
    for part in ("startup", "local"):
        if place.is_relative_to(source / part):
            raise _wrong(output, f"it is in {part}/ of the kit, which stays as it is")
    return place


def check_earlier(output: Path, kit: Kit) -> Record | None:
    """Look at what is there already.

    Returns:
        What `prepare` made there; None: nothing is there.

    Raises:
        InvalidArguments: it is something else, or of another participant or account.
        PrepareError: a site runs there.
    """
    if not output.exists():
        return None
    if not _is_mine(output):  # what somebody else has put there would go on: scripts of `study_runtime.yaml`, say
        raise _wrong(output, "it belongs to another account")
    if not any(output.iterdir()):
        return None
    found = records.read(output)
    if found is None:
        raise _wrong(output, f"there is something that prepare has not made, or its {records.FILE} was changed")
    if (found.project, found.participant) != (kit.project, kit.name):
        raise _wrong(output, f"it is the kit of {found.participant} in the project {found.project}")
    for name in _LOCKS:
        if _is_locked(output / name):
            raise PrepareError(
                f"{output} cannot be replaced",
                why=f"{found.participant} runs there ({name} is locked)",
                hint="stop it first: startup/stop_fl.sh, or the engine's own command",
            )
    return found


@contextlib.contextmanager
def room(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside the output, for the copy; another `prepare` for the same folder waits.

    What one that was killed has left is settled first. The folder is gone afterwards, unless it took its place.

    Raises:
        PrepareError: it cannot be made, or another account has put something of that name there.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(output.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        hint = "name a folder with --output in which this account can write"
        raise PrepareError(f"{output} cannot be made", why=exc.strerror or str(exc), hint=hint) from exc
    new = _beside(output, NEW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for what in (NEW, CHANGING, OLD):
            if not _is_mine(_beside(output, what)):
                raise PrepareError(
                    f"{output} cannot be made",
                    why=f"{_beside(output, what)} belongs to another account, or is no folder",
                    hint="name a folder with --output in which only this account writes",
                )
        _settle(output)
        _remove(new)
        new.mkdir(mode=0o700)
        yield new
    except OSError as exc:
        hint = "make room there, or name another folder with --output; an earlier output is as it was"
        raise PrepareError(f"{output} cannot be written", why=str(exc), hint=hint) from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)
        os.close(lock)


def back_up(output: Path, new: Path, earlier: Record, *, now: datetime | None = None) -> Path | None:
    """Keep those files of the earlier output that the new one has not, or has otherwise.

    Returns:
        The folder that has them; None: there is none.
    """
    fresh = records.digests(new)
    old = {name: digest for part in sorted(earlier.parts) for name, digest in _of_part(output, part).items()}
    different = [name for name, digest in old.items() if fresh.get(name) != digest]
    if not different:
        return None
    stamp = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    target = _fresh(output.with_name(f"{output.name}.before-{stamp}"))
    for name in different:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(output / name, path)  # with its mode: keys stay private
    return target


def take_place(output: Path, new: Path) -> None:
    """Put the copy where the output is, in one step; what a site had left there goes on in it.

    Raises:
        OSError: it could not be done; the earlier output is there, or the next `prepare` brings it back.
    """
    if not output.exists():
        new.rename(output)
        return
    changing = _beside(output, CHANGING)
    new.rename(changing)
    if not _exchanged(changing, output):
        old = _beside(output, OLD)
        output.rename(old)
        changing.rename(output)
    _settle(output)


def _settle(output: Path) -> None:
    """Finish, or take back, what was begun: afterwards there is the output alone."""
    old = _beside(output, OLD)
    if old.exists() and not output.exists():
        old.rename(output)
    for left in (old, _beside(output, CHANGING)):
        if not left.exists():
            continue
        made = records.read(left)
        for path in sorted(left.iterdir()):
            is_own = made is not None and path.name in made.parts
            if not is_own and output.exists() and not os.path.lexists(output / path.name):
                path.rename(output / path.name)
        _remove(left)


def _fresh(folder: Path) -> Path:
    """Make a folder of this name, or with a number after it: one that is there may be somebody else's."""
    for number in itertools.count(1):
        found = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            found.mkdir(mode=0o700)
            break
    return found


def _of_part(root: Path, part: str) -> dict[str, str]:
    path = root / part
    if path.is_dir() and not path.is_symlink():
        return {f"{part}/{name}": digest for name, digest in records.digests(path).items()}
    return {part: records.digest(path)} if path.is_file() and part != records.FILE else {}


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f".{output.name}.{what}")


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)


def _is_mine(folder: Path) -> bool:
    """Tell whether a folder is this account's, or is not there."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return True
    return status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places; return whether this system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux, or an old C library
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _wrong(output: Path, why: str) -> InvalidArguments:
    return InvalidArguments(f"{output} cannot be the output", why=why, hint="name another folder with --output")
