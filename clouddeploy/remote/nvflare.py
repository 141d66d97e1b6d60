"""Gives a kit that NVFLARE has made the scripts that our machines start, stop and ask; its own run under them."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KIT = "nvflare"
"""Where the kit is in the folder, unchanged."""
SCRIPTS = ("start.sh", "sub_start.sh")


def supervise(folder: Path) -> None:
    """Makes a folder that holds the kit like a kit of ours, with `startup/start.sh`.

    The reference notes its supervisor's number in a file, which may be another process's after a reboot, and says
    nothing of how it is. Ours holds a lock while it lives, reads the log, and writes `status.json` as our runtime does.
    """
    (folder / "startup").mkdir()
    for name in SCRIPTS:
        script = folder / "startup" / name
        script.write_bytes(resources.files("clouddeploy.remote").joinpath("nvflare_kit", name).read_bytes())
        script.chmod(0o755)
