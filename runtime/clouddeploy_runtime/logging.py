"""Logging of the long-lived parents: files in the workspace, as `local/log_config.json` says, and the console.

`log.txt` has every record as text, `log.json` the same as JSON lines, `log_error.txt` what someone must look at, and
`log_fl.txt` what belongs to a job. All are rotated. Of the reference's configuration, a `dictConfig`, the levels of the
loggers count, and of each handler, by its id, `level`, `maxBytes` and `backupCount`; classes and formats are ours.
"""

from __future__ import annotations

import copy
import json
import logging
import logging.handlers
import os
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.lifecycle import is_supervised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
MODES: Mapping[str, str] = {
    "concise": "%(asctime)s - %(levelname)s - %(message)s",
    "msg_only": "%(message)s",
    "full": FORMAT,
    "verbose": "%(asctime)s - %(name)s - %(levelname)s - %(threadName)s %(filename)s:%(lineno)d - %(message)s",
}
"""How a line of text looks, by the reference's names; `verbose` has every record, too."""
CONFIG_FILES = ("log_config.json", "log_config.json.default")
"""The site's own file wins over the one the kit was made with."""
CONSOLE = "console"
_INDENT = "    "
FILES = {
    "log_file": "log.txt",
    "json_file": "log.json",
    "error_file": "log_error.txt",
    "fl_file": "log_fl.txt",
}
"""File names by the ids of their handlers."""
_FILE_BYTES = 20 << 20
_FILES = 10
_OWN_KEYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else came by `extra`."""


@dataclass(frozen=True)
class HandlerConfig:
    """What a site says of one handler; its usual values are the reference's."""

    level: int = logging.NOTSET
    max_bytes: int = _FILE_BYTES
    """0: never rotated."""
    backups: int = _FILES


@dataclass(frozen=True)
class Config:
    """How much is logged.

    Attributes:
        levels: by the names of loggers; `root` is the one for all that are not named.
        handlers: by the ids of the handlers.
    """

    levels: Mapping[str, int] = field(default_factory=lambda: {"root": logging.INFO})
    handlers: Mapping[str, HandlerConfig] = field(default_factory=dict)

    def handler(self, name: str) -> HandlerConfig:
        """Return what is said of a handler."""
        usual = HandlerConfig(level=logging.ERROR if name == "error_file" else logging.NOTSET)
        return self.handlers.get(name, usual)


class BadConfig(ValueError):
    """The configuration is no use; never leaves this module, since a site must not stop for want of a level."""


class TextFormatter(logging.Formatter):
    """A record as text: what it quotes can neither steer a terminal nor look like a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; its further lines, if it has some, are moved in."""
        own = copy.copy(record)  # the texts that formatters leave in a record are theirs
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return what was said."""
        record.message = _quoted(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return where it came from."""
        return f"{_INDENT}{_quoted(super().formatException(ei))}"


def _quoted(text: str) -> str:
    return text if text.isascii() and text.isprintable() else printable(text).replace("\n", f"\n{_INDENT}")


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: `time` (UTC), `level`, `logger`, `message`, what `extra` said, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _OWN_KEYS and key not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _RotatedFile(logging.handlers.RotatingFileHandler):
    """A file that, when it cannot be written, says so once, where logging's own would for every record."""

    _is_failing = False
    _went_well = True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self._went_well = True
        super().emit(record)
        if self._went_well:
            self._is_failing = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say once on standard error why the file gets no lines."""
        problem = sys.exc_info()[1]
        if not isinstance(problem, OSError):
            super().handleError(record)  # a defect in how something is logged
            return
        self._went_well = False
        if not self._is_failing and sys.stderr is not None:
            sys.stderr.write(f"{self.baseFilename} cannot be written: {problem.strerror or problem}\n")
        self._is_failing = True


def _is_of_a_job(record: logging.LogRecord) -> bool:
    return hasattr(record, "job")


def configure(workspace: Path, local: Path | None = None) -> None:
    """Send records of this process to the files, and to standard error unless a supervisor keeps what is said there.

    Args:
        workspace: an existing folder, gets the files.
        local: the kit's folder of that name; None has the usual configuration.
    """
    root = logging.getLogger()
    for name, file in FILES.items():
        # Opened by the first record: what goes wrong then is said, and the site runs.
        handler = _RotatedFile(workspace / file, encoding="utf-8", delay=True)
        handler.setFormatter(JsonFormatter() if name == "json_file" else TextFormatter(FORMAT))
        if name == "fl_file":
            handler.addFilter(_is_of_a_job)
        handler.set_name(name)
        root.addHandler(handler)
    if not is_supervised() or os.isatty(2):
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(TextFormatter(FORMAT))
        console.set_name(CONSOLE)
        root.addHandler(console)
    _apply(Config())
    if local is not None:
        reload(local)


def reload(local: Path) -> str:
    """Read the configuration again and apply it; a broken one is a warning, and the usual one counts.

    May be called at any time after `configure`.

    Returns:
        What is wrong with the file; empty when nothing is.
    """
    config, problem = load(local)
    _apply(config)
    if problem:
        log.warning("%s; until it is corrected the usual levels count", problem)
    return problem


def set_levels(levels: Mapping[str, int], local: Path) -> None:
    """Log as much as these levels say, by the names of loggers, until the next `reload`.

    Args:
        levels: `root` is the one for all that are not named.
        local: the kit's folder, whose configuration counts for the files.
    """
    config, _ = load(local)
    _apply(replace(config, levels={"root": logging.INFO, **levels}))


def set_mode(mode: str) -> None:
    """Write the lines of text in another form, one of `MODES`; those of log.json stay as they are."""
    for handler in logging.getLogger().handlers:
        if handler.get_name() in (*FILES, CONSOLE) and handler.get_name() != "json_file":
            handler.setFormatter(TextFormatter(MODES[mode]))


def load(local: Path) -> tuple[Config, str]:
    """Return the configuration of a kit's `local` folder, and what is wrong with it; the usual one if anything is."""
    for name in CONFIG_FILES:
        path = local / name
        try:
            return _parsed(json.loads(path.read_bytes())), ""
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as exc:
            return Config(), f"{path} cannot be used: {exc}"
    return Config(), ""


def _parsed(document: Any) -> Config:
    loggers, handlers = _objects(document, "loggers"), _objects(document, "handlers")
    # `root` beside "loggers" is dictConfig's own place for it, the reference has it among them.
    if isinstance(document.get("root"), dict):
        loggers = {**loggers, "root": document["root"]}
    levels = {"root": logging.INFO}
    for name, one in loggers.items():
        if "level" in one:
            levels[name or "root"] = _level(one["level"], f"loggers.{name}")
    return Config(
        levels=levels,
        handlers={
            name: HandlerConfig(
                level=_level(one.get("level", "NOTSET"), f"handlers.{name}"),
                max_bytes=_count(one.get("maxBytes", _FILE_BYTES), f"handlers.{name}.maxBytes"),
                backups=_count(one.get("backupCount", _FILES), f"handlers.{name}.backupCount"),
            )
            for name, one in handlers.items()
        },
    )


def _objects(document: Any, key: str) -> dict[str, dict[str, Any]]:
    if not isinstance(document, dict):
        raise BadConfig("it is not an object")
    found = document.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise BadConfig(f'"{key}" must be an object of objects')
    return found


def _level(value: Any, where: str) -> int:
    known = logging.getLevelNamesMapping()
    if isinstance(value, str) and value.upper() in known:
        return known[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise BadConfig(f"the level of {where} must be one of {', '.join(known)}, and is {value!r}")


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadConfig(f"{where} must be a whole number from 0, and is {value!r}")
    return value


def _apply(config: Config) -> None:
    root = logging.getLogger()
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(config.levels.get(name, logging.NOTSET))
    for name, level in config.levels.items():
        (root if name == "root" else logging.getLogger(name)).setLevel(level)
    for handler in root.handlers:
        if handler.get_name() not in (*FILES, CONSOLE):
            continue  # of whoever runs us
        said = config.handler(handler.get_name() or "")
        handler.setLevel(said.level)
        if isinstance(handler, logging.handlers.RotatingFileHandler):
            handler.maxBytes, handler.backupCount = said.max_bytes, said.backups
