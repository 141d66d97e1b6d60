"""Logging of the long-lived parents: the console and `log.txt` in the workspace."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
_FILE_BYTES = 20 << 20
_FILES = 5


def configure(workspace: Path) -> None:
    """Send records of this process to standard error and to `log.txt`, which is rotated at 20 MiB, 5 files kept."""
    formatter = logging.Formatter(FORMAT)
    handlers: tuple[logging.Handler, ...] = (
        logging.StreamHandler(sys.stderr),
        logging.handlers.RotatingFileHandler(
            workspace / "log.txt", maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8"
        ),
    )
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
