"""Gives a kit that NVFLARE has made the scripts that our machines start, stop and ask; its own run under them."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = ("start.sh", "sub_start.sh")


@contextmanager
def supervised(kit: Path) -> Iterator[Path]:
    """Yields a folder like a kit of ours, with `startup/start.sh`, whose `nvflare/` is the kit, unchanged.

    The reference notes its supervisor's number in a file, which may be another process's after a reboot, and says
    nothing of how it is. Ours holds a lock while it lives, reads the log, and writes `status.json` as our runtime does.
    """
    with tempfile.TemporaryDirectory(prefix="clouddeploy-") as folder:  # 0700: it holds a private key for a moment
        wrapped = Path(folder) / "kit"
        shutil.copytree(kit, wrapped / "nvflare", symlinks=False)
        (wrapped / "startup").mkdir()
        for name in SCRIPTS:
            script = wrapped / "startup" / name
            script.write_bytes(resources.files("clouddeploy.remote").joinpath("nvflare_kit", name).read_bytes())
            script.chmod(0o755)
        yield wrapped
