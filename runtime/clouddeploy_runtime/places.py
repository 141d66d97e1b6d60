"""Where this user's records are."""

from __future__ import annotations

import os
from pathlib import Path

STATE_VARIABLE = "CLOUDDEPLOY_STATE_DIR"
WORKSPACE_VARIABLES = ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE")


def state_folder() -> Path:
    """Return the folder of this user's records: `CLOUDDEPLOY_STATE_DIR`, else as the XDG base directories say."""
    given = os.environ.get(STATE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "clouddeploy"


def workspace_of(kit: Path) -> Path | None:
    """Return the workspace that the environment names, unless it is the kit itself."""
    for variable in WORKSPACE_VARIABLES:
        given = os.environ.get(variable)
        if given:
            workspace = Path(given).resolve()
            return None if workspace.is_relative_to(kit.resolve()) else workspace
    return None
