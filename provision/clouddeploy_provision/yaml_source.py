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
MAX_DEPTH = 50
"""A project needs a dozen; an alias that holds itself has no end."""
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

    def problem(self, key: Key, rule: str, *, example: str = "", place: tuple[str, int] | None = None) -> Problem:
        """Make a problem of a rule that is broken at a key, naming the participant that it is about."""
        participants = self.data.get("participants") if isinstance(self.data, dict) else None
        participant = ""
        if len(key) > 1 and key[0] == "participants" and isinstance(key[1], int):
            entry = participants[key[1]] if isinstance(participants, list) and key[1] < len(participants) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            participant = name if isinstance(name, str) and name else f"participant {key[1] + 1}"
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
        file, line = place or self.place(key)
        return Problem(file, line, shown, participant, rule, example)

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
    source.problems += reader.problems()
    return source


class _Reader:
    """Turns the nodes of a file and of those it includes into plain data, noting places on the way."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = MAX_NODES
        self._included = 0
        self._open: list[str] = []
        """Real paths of the files that are being read, outermost first."""
        self._faults: list[tuple[Key, tuple[str, int], str, str]] = []
        """Key, place, rule and example; whose they are is known only when everything is read."""

    def problems(self) -> list[Problem]:
        """Return what is wrong with the files beyond what stopped reading one."""
        return [
            self._source.problem(_as_included(key), rule, example=example, place=place)
            for key, place, rule, example in self._faults
        ]

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
        file = _File(path, loader, text.count("\n") + 1)
        try:
            root = loader.get_single_node()
            return None if root is None else self._build(root, key, file)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            rule = f"is not YAML: {exc.problem or exc.context}"
            raise ProjectFileError(name, [Problem(name, file.line(mark) if mark else 1, rule=rule)]) from exc
        except yaml.YAMLError as exc:
            line = text.encode()[: getattr(exc, "position", 0)].count(b"\n") + 1
            rule = f"is not YAML: {getattr(exc, 'reason', exc)}"
            raise ProjectFileError(name, [Problem(name, line, rule=rule)]) from exc
        finally:
            loader.dispose()
            self._open.pop()

    def _build(self, node: yaml.Node, key: Key, file: _File) -> Any:
        self._left -= 1
        line = file.line(node.start_mark)
        if self._left < 0 or len(key) > MAX_DEPTH:
            rule = (
                "has more nodes than any project needs" if self._left < 0 else f"is more than {MAX_DEPTH} levels deep"
            )
            raise ProjectFileError(file.name, [Problem(file.name, line, rule=rule)])
        self._source.places.setdefault(key, (file.name, line))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, file)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*key, index), file) for index, item in enumerate(node.value)]
        try:
            return file.loader.construct_object(node)
        # PyYAML checks none of the values that it recognises by their form or by a tag: 2026-13-99, !!bool maybe.
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            kind = node.tag.rpartition(":")[2]
            rule = f"is no {kind}, although it looks like one; put it into quotes if it is text"
            self._faults.append((key, (file.name, line), rule, ""))
            return None

    def _mapping(self, node: yaml.MappingNode, key: Key, file: _File) -> dict[str, Any]:
        result: dict[str, Any] = {}
        includes: list[tuple[Any, int]] = []
        for name_node, value_node in node.value:
            line = file.line(name_node.start_mark)
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            place = (file.name, line)
            if not name:
                self._faults.append((key, place, "a key must be text", "name: site-1"))
            elif name == "<<":
                self._faults.append(((*key, name), place, "merge keys are not supported; write the keys out", ""))
            elif name == _INCLUDE:
                includes.append((self._build(value_node, (*key, name), file), line))
            elif name in result:
                first = self._source.places[(*key, name)][1]
                rule = f"stands in line {first} already; keep one of the two"
                self._faults.append(((*key, name), place, rule, ""))
            else:
                self._source.places[(*key, name)] = place
                result[name] = self._build(value_node, (*key, name), file)
        for value, line in includes:
            for wanted in value if isinstance(value, list) else [value]:
                self._merge(result, wanted, key, file, line)
        return result

    def _merge(  # noqa: PLR0911 - one refusal a line
        self, into: dict[str, Any], wanted: Any, key: Key, file: _File, line: int
    ) -> None:
        """Read one included file into the mapping that includes it."""

        def problem(rule: str) -> None:
            self._faults.append(((*key, _INCLUDE), (file.name, line), rule, "include: participants/site-1.yml"))

        if not isinstance(wanted, str) or not wanted or "\0" in wanted:
            return problem(f"must be the name of a file or a list of them, not {wanted!r}")
        path = file.path.parent / wanted
        folder, real = os.path.realpath(file.path.parent), os.path.realpath(path)
        if os.path.commonpath([folder, real]) != folder:
            return problem(f"{wanted} is not below the folder of {file.name}")
        if not os.path.isfile(path):  # noqa: PTH113 - a pipe would be waited for; no name is too long for this one
            return problem(f"{wanted} cannot be read: there is no such file")
        self._included += 1
        if real in self._open or self._included > MAX_INCLUDES:
            return problem(f"{wanted} includes itself" if real in self._open else "too many files are included")
        prefix = (*key, _INCLUDE, self._included)
        try:
            data = self.read(path, prefix)
        except ProjectFileError as exc:
            self._source.problems += exc.problems
            return None
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
                rule = f"stands in {first[0]}:{first[1]} already; keep one of the two"
                self._faults.append(((*key, name), (file, line), rule, ""))
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
    lines: int

    def line(self, mark: yaml.Mark) -> int:
        """Return the line of a mark, from 1; YAML also counts the end of the file, a lone CR and U+2028."""
        return min(int(mark.line) + 1, self.lines)

    @property
    def name(self) -> str:
        return str(self.path)


def _as_included(key: Key) -> Key:
    """Drop from a key what stands for the including of a file."""
    kept: list[str | int] = []
    for part in key:
        if isinstance(part, int) and kept and kept[-1] == _INCLUDE:
            kept.pop()
        else:
            kept.append(part)
    return tuple(kept)


def _text(path: Path) -> str:
    name = str(path)
    data = b""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProjectFileError(name, [Problem(name, 0, rule=f"has more than {MAX_BYTES >> 20} MiB")])
        data = path.read_bytes()
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise ProjectFileError(name, [Problem(name, line, rule="is not UTF-8 text")]) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise ProjectFileError(name, [Problem(name, 0, rule=f"cannot be read: {reason}")]) from exc
