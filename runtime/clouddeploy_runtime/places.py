"""Where this user's records are."""

from __future__ import annotations

import os
from pathlib import Path

STATE_VARIABLE = "CLOUDDEPLOY_STATE_DIR"
WORKSPACE_VARIABLES = ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE")
_WITHOUT_HOME = Path("/var/lib/clouddeploy")


def state_folder() -> Path:
    """Return the folder of this user's records: `CLOUDDEPLOY_STATE_DIR`, else as the XDG base directories say.

    A user without a home, as in a container with a number that no `/etc/passwd` knows, has them in
    `/var/lib/clouddeploy`.
    """
    given = os.environ.get(STATE_VARIABLE)
    if given:
        return Path(given)
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # the specification tells to ignore any other
        return base / "clouddeploy"
    try:
        return Path.home() / ".local" / "state" / "clouddeploy"
    except RuntimeError:
        return _WITHOUT_HOME


def workspace_of(kit: Path) -> Path | None:
    """Return the workspace that the environment names, unless it is the kit itself."""
    for variable in WORKSPACE_VARIABLES:
        given = os.environ.get(variable)
        if given:
            workspace = Path(given).resolve()
            return None if workspace.is_relative_to(kit.resolve()) else workspace
    return None
