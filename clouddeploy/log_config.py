"""How something is to log, as a person says it: a word, or a JSON file with levels of loggers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_BYTES = 64 << 10


def read(text: str) -> str | Mapping[str, Any]:
    """Returns a level or a mode as it is, of a file's name ending in `.json` what the file says.

    Raises:
        ConfigError: the file cannot be read, or holds no object.
    """
    if not text.endswith(".json"):
        return text
    hint = "name a level such as INFO, or a JSON file with `version` 1 and the levels of `loggers`"
    try:
        data = Path(text).expanduser().read_bytes()
        document = json.loads(data) if len(data) <= _MAX_BYTES else None
    except OSError as error:
        raise ConfigError(f"{text} cannot be used", why=error.strerror or str(error), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{text} cannot be used", why=str(error), hint=hint) from error
    if not isinstance(document, dict):
        raise ConfigError(f"{text} cannot be used", why="it holds no object, or is too long", hint=hint)
    return document
