"""Parses YAML and remembers the file and line of every key, so that a problem can be shown where it stands.

`include: FILE` (or a list of files) may stand in any mapping: the keys of those files are read as if they stood there.
A file may include only what lies below its own folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from pathlib import Path

MAX_NODES = 200_000
"""Far above 500 sites; nested aliases (a "billion laughs") reach it before they reach the memory's end."""
MAX_BYTES = 16 << 20
MAX_INCLUDES = 100
_INCLUDE = "include"

Key = tuple[str | int, ...]


@dataclass
class Source:
    """A parsed YAML file."""

    name: str
    """How the file is called in messages."""
    folder: Path
    """Where paths in it start."""
    data: Any = None
    places: dict[Key, tuple[str, int]] = field(default_factory=dict)
    """Path of keys and indices → file and line, from 1."""
    problems: list[Problem] = field(default_factory=list)
    """Duplicate keys and the like; everything else parsed."""

    def place(self, key: Key) -> tuple[str, int]:
        """Return file and line of a key, or of the nearest thing around it that exists."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, (self.name, 1))


def parse(path: Path) -> Source:
    """Read and parse a file and what it includes.

    Raises:
        ProjectFileError: it cannot be read, is not UTF-8, or is not YAML.
    """
    source = Source(str(path), path.parent)
    reader = _Reader(source)
    source.data = reader.read(path, ())
    return source


class _Reader:
    """Turns the nodes of a file and of those it includes into plain data, noting places on the way."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = MAX_NODES
        self._included = 0
        self._open: list[str] = []
        """Real paths of the files that are being read, outermost first."""

    def read(self, path: Path, key: Key) -> Any:
        """Read one file whose data stand at a key.

        Raises:
            ProjectFileError: it cannot be read, is not UTF-8, or is not YAML.
        """
        name = str(path)
        text = _text(path)
        self._open.append(os.path.realpath(path))
        # libyaml's loader where PyYAML has it: ten times faster on 500 sites, and the same nodes.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            root = loader.get_single_node()
            return None if root is None else self._build(root, key, _File(path, loader))
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            rule = f"is not YAML: {exc.problem or exc.context}"
            raise ProjectFileError(name, [Problem(name, mark.line + 1 if mark else 0, rule=rule)]) from exc
        except yaml.YAMLError as exc:
            rule = f"is not YAML: {str(exc).splitlines()[0]}"
            raise ProjectFileError(name, [Problem(name, 0, rule=rule)]) from exc
        # A date such as 2026-13-99, nesting without end, a key that cannot be one.
        except (ValueError, RecursionError, TypeError, AttributeError) as exc:
            raise ProjectFileError(name, [Problem(name, 0, rule=f"holds a value that is none: {exc}")]) from exc
        finally:
            loader.dispose()
            self._open.pop()

    def _build(self, node: yaml.Node, key: Key, file: _File) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("it has more nodes than any project needs")
        self._source.places.setdefault(key, (file.name, node.start_mark.line + 1))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, file)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*key, index), file) for index, item in enumerate(node.value)]
        return file.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, key: Key, file: _File) -> dict[str, Any]:
        result: dict[str, Any] = {}
        includes: list[tuple[Any, int]] = []
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            if not name or name == "<<":
                rule = "merge keys are not supported" if name else "a key must be text"
                self._source.problems.append(Problem(file.name, line, rule=rule))
            elif name == _INCLUDE:
                includes.append((self._build(value_node, (*key, name), file), line))
            else:
                if name in result:
                    self._source.problems.append(Problem(file.name, line, key=name, rule="stands here twice"))
                self._source.places[(*key, name)] = (file.name, line)
                result[name] = self._build(value_node, (*key, name), file)
        for value, line in includes:
            for wanted in value if isinstance(value, list) else [value]:
                self._merge(result, wanted, key, file, line)
        return result

    def _merge(self, into: dict[str, Any], wanted: Any, key: Key, file: _File, line: int) -> None:
        """Read one included file into the mapping that includes it."""

        def problem(rule: str) -> None:
            self._source.problems.append(
                Problem(file.name, line, key=_INCLUDE, rule=rule, example="include: participants/site-1.yml")
            )

        if not isinstance(wanted, str) or not wanted or "\0" in wanted:
            return problem(f"must be the name of a file or a list of them, not {wanted!r}")
        path = file.path.parent / wanted
        folder, real = os.path.realpath(file.path.parent), os.path.realpath(path)
        if os.path.commonpath([folder, real]) != folder:
            return problem(f"{wanted} is not below the folder of {file.name}")
        self._included += 1
        if real in self._open or self._included > MAX_INCLUDES:
            return problem(f"{wanted} includes itself" if real in self._open else "too many files are included")
        prefix = (*key, _INCLUDE, self._included)
        try:
            data = self.read(path, prefix)
        except ProjectFileError as exc:
            self._source.problems += exc.problems
            data = {}
        if not isinstance(data, dict):
            return problem(f"{wanted} must hold a mapping")
        self._adopt(into, data, key, prefix=prefix)
        return None

    def _adopt(self, into: dict[str, Any], data: dict[str, Any], key: Key, *, prefix: Key) -> None:
        """Move an included mapping's keys and their places to where it is included."""
        for name, value in data.items():
            file, line = self._source.places[(*prefix, name)]
            if name in into:
                first = self._source.places[(*key, name)]
                rule = f"stands in {first[0]}:{first[1]} already"
                self._source.problems.append(Problem(file, line, key=name, rule=rule))
                continue
            into[name] = value
        length = len(prefix)
        moved = {place: at for place, at in self._source.places.items() if place[:length] == prefix}
        for place, at in moved.items():
            del self._source.places[place]
            if place[length:] and into.get(str(place[length])) is data.get(str(place[length])):
                self._source.places[(*key, *place[length:])] = at


@dataclass(frozen=True)
class _File:
    """One file while it is read."""

    path: Path
    loader: Any

    @property
    def name(self) -> str:
        return str(self.path)


def _text(path: Path) -> str:
    name = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProjectFileError(name, [Problem(name, 0, rule=f"has more than {MAX_BYTES >> 20} MiB")])
        return path.read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise ProjectFileError(name, [Problem(name, 0, rule="is not UTF-8 text")]) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise ProjectFileError(name, [Problem(name, 0, rule=f"cannot be read: {reason}")]) from exc
