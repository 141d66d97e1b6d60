"""Parses YAML and remembers the line of every key, so that a problem can be shown where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from pathlib import Path

MAX_NODES = 200_000
"""Far above 500 sites; nested aliases (a "billion laughs") reach it before they reach the memory's end."""

Key = tuple[str | int, ...]


@dataclass
class Source:
    """A parsed YAML file."""

    name: str
    """How the file is called in messages."""
    data: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    """Path of keys and indices → line, from 1."""
    problems: list[Problem] = field(default_factory=list)
    """Duplicate keys and the like; everything else parsed."""

    def line(self, key: Key) -> int:
        """Return the line of a key, or of the nearest thing around it that exists."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)


def parse(path: Path) -> Source:
    """Read and parse a file.

    Raises:
        ProjectFileError: it cannot be read, is not UTF-8, or is not YAML.
    """
    name = str(path)
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        problem = Problem(name, 0, rule=f"cannot be read: {exc.strerror or type(exc).__name__}")
        raise ProjectFileError(name, [problem]) from exc
    except UnicodeDecodeError as exc:
        raise ProjectFileError(name, [Problem(name, 0, rule="is not UTF-8 text")]) from exc
    source = Source(name)
    # libyaml's loader where PyYAML has it: ten times faster on 500 sites, and the same nodes.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if root is not None:
            source.data = _Builder(source, loader).build(root, ())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        rule = f"is not YAML: {exc.problem or exc.context}"
        raise ProjectFileError(name, [Problem(name, mark.line + 1 if mark else 0, rule=rule)]) from exc
    except yaml.YAMLError as exc:
        raise ProjectFileError(name, [Problem(name, 0, rule=f"is not YAML: {exc}")]) from exc
    except (ValueError, RecursionError) as exc:  # a date such as 2026-13-99, or nesting without end
        raise ProjectFileError(name, [Problem(name, 0, rule=f"holds a value that is none: {exc}")]) from exc
    finally:
        loader.dispose()
    return source


class _Builder:
    """Turns nodes into plain data, noting lines on the way."""

    def __init__(self, source: Source, loader: Any) -> None:
        self._source = source
        self._loader = loader
        self._left = MAX_NODES

    def build(self, node: yaml.Node, key: Key) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("it has more nodes than any project needs")
        self._source.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            if not name or name == "<<":
                rule = "merge keys are not supported" if name else "a key must be text"
                self._source.problems.append(Problem(self._source.name, line, rule=rule))
                continue
            if name in result:
                self._source.problems.append(Problem(self._source.name, line, key=name, rule="stands here twice"))
            self._source.lines[(*key, name)] = line
            result[name] = self.build(value_node, (*key, name))
        return result
