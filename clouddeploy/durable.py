"""Files that survive a kill: a reader finds the old content or the new one, and the new one stays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODE = 0o600
"""Born so, before there is content: what a deployment keeps is nobody else's business."""


def replace(path: Path, text: str) -> None:
    """Replaces a file; once this returns, neither a kill nor a power cut brings the old content back.

    Raises:
        OSError: it could not be written; the old content is still there.
    """
    aside = path.with_name(f"{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
