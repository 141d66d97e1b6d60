"""Makes a startup folder of one that a cluster has mounted: `python -m clouddeploy_runtime.kit.mounted SOURCE KIT`.

What is mounted from a Secret are links, with modes of their own; a kit is verified with the modes that were signed. The
copy is made in memory, by the container that runs before the site's own.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import job_folders, keys
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.kit import manifest as manifests
from clouddeploy_runtime.kit.errors import KitError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODE = 0o600
_MANIFEST = manifests.MANIFEST_PATH.removeprefix("startup/")


def copy(source: Path, kit: Path) -> int:
    """Copy what is mounted at `source` to `startup/` of a kit; returns how many files there were.

    Nothing is verified here: the site's own process does, before it uses anything.

    Raises:
        KitError: a file cannot be read or written, or there is no manifest.
    """
    target = kit / "startup"
    try:
        signed = manifests.decode((source / _MANIFEST).read_bytes())
        modes = {one.path: int(one.mode, 8) for one in signed.files}
        kit.mkdir(mode=0o700, parents=True, exist_ok=True)
        (kit / "local").mkdir(exist_ok=True)
        job_folders.remove(target)
        count = 0
        for path in sorted(_files(source)):
            name = path.relative_to(source).as_posix()
            place = target / name
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            keys.write_private(place, path.read_bytes())
            place.chmod(stat.S_IMODE(modes.get(f"startup/{name}", _MODE)))
            count += 1
    except (OSError, ValueError, msgspec.MsgspecError) as exc:
        raise KitError(
            f"{source} is not the startup folder of a kit",
            why=str(exc),
            hint="Stage it: clouddeploy prepare k8s stage.",
        ) from exc
    return count


def _files(folder: Path) -> Iterator[Path]:
    """Return the files that a kubelet shows; its own folders begin with two dots."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".."):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def main() -> int:
    """Copy; returns the exit status."""
    source, kit = map(Path, sys.argv[1:])
    try:
        count = copy(source, kit)
    except KitError as exc:
        sys.stderr.write(printable(f"{exc}\n  Hint: {exc.hint}") + "\n")
        return exc.exit_code
    sys.stdout.write(f"{count} files of the kit are in {kit}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
