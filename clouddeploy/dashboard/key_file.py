"""Keys of the dashboard that are beside its tables: made when first needed, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def read(path: Path, make: Callable[[], bytes]) -> bytes:
    """Returns what is in the file of a key; makes it when there is none.

    Args:
        path: of the file; only its owner may read it.
        make: returns a new key.
    """
    if not path.exists():
        # On disk before it has its name: two requests may come at once, and a kill or a power cut must not leave an
        # empty key, which nobody would replace.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()
