"""An app's `config_fed_server.json` and `config_fed_client.json`: read, its variables put in, checked in form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Side = Literal["server", "client"]
FORMAT_VERSION = 2
_MAX_BYTES = 4 << 20
"""Guessed: a large configuration has some kilobytes; a model as nested lists may have more."""
_REFERENCE = re.compile(r"\{(\$?[A-Za-z_][A-Za-z0-9_]*)\}")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_DEPTH = 8
"""Of variables that name variables."""
_MAX_LEVELS = 64
"""Of objects and lists in each other; Python's own limit would end a recursion with no useful message."""
_MAX_REFERENCES = 10_000
"""In one file, all in all: a few lines that name each other ten times each would fill the memory."""
_OWN_KEYS = frozenset(
    {"format_version", "components", "workflows", "executors", "task_data_filters", "task_result_filters"}
)


@dataclass(frozen=True)
class Component:
    """One entry that names a class.

    Attributes:
        path: the class, `package.module.Class`.
        args: what it is made with; variables are put in.
        id: what other components call it; may be empty.
        where: file and key, for messages.
    """

    path: str
    args: Mapping[str, Any]
    id: str
    where: str


@dataclass(frozen=True)
class Executor:
    """Which tasks a component does; names may hold `*`."""

    tasks: tuple[str, ...]
    component: Component


@dataclass(frozen=True)
class FilterChain:
    """Filters in their order, for the tasks that it names."""

    tasks: tuple[str, ...]
    filters: tuple[Component, ...]


@dataclass(frozen=True)
class AppConfig:
    """One side's configuration."""

    file: str
    workflows: tuple[Component, ...] = ()
    executors: tuple[Executor, ...] = ()
    components: Mapping[str, Component] = field(default_factory=dict)
    task_data_filters: tuple[FilterChain, ...] = ()
    task_result_filters: tuple[FilterChain, ...] = ()

    def all(self) -> Iterator[tuple[str, Component]]:
        """Yield every component and the part that it stands in, as `INSTEAD` of `known` calls it."""
        yield from (("workflows", one) for one in self.workflows)
        yield from (("executors", one.component) for one in self.executors)
        yield from (("components", one) for one in self.components.values())
        for chain in (*self.task_data_filters, *self.task_result_filters):
            yield from (("filters", one) for one in chain.filters)


def read(
    app: Path, side: Side, *, system: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> AppConfig:
    """Read one side's configuration of an app.

    Args:
        app: the app's folder.
        side: whose.
        system: SITE_NAME and its like; None leaves those references as they are, as for a check before the run.
        environment: for `{$NAME}`; None as above.

    Raises:
        InvalidJob: names the file, the key and what it should be; all problems at once.
    """
    name = f"config_fed_{side}.json"
    document = load_object(app / "config" / name, name)
    values = {key: value for key, value in document.items() if key not in _OWN_KEYS}
    resolver = _Resolver(name, {**values, **(system or {})}, environment)
    reader = _Reader(name, resolver)
    config = reader.config(document)
    needed, has = ("workflows", config.workflows) if side == "server" else ("executors", config.executors)
    if not has:
        reader.problems.append(f'{name}: "{needed}" needs at least one entry')
    if reader.problems:
        raise _invalid("; ".join(reader.problems))
    return config


def load_object(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object; `name` is what messages call the file.

    Raises:
        InvalidJob: missing, too large, not JSON or no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise _invalid(f"{name} is larger than {_MAX_BYTES} bytes")
        document = json.loads(content, parse_constant=_no_number)
    except OSError as exc:
        raise _invalid(f"{name} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise _invalid(f"{name} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise _invalid(f"{name} is not an object")
    level: list[Any] = [document]
    for _ in range(_MAX_LEVELS):
        level = [one for holder in level for one in (holder.values() if isinstance(holder, dict) else holder)]
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return document
    raise _invalid(f"{name} has more than {_MAX_LEVELS} levels")


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")  # RFC 8259 §6


def _invalid(why: str) -> InvalidJob:
    return InvalidJob("The job cannot be used", why=why, hint="Correct the file and submit the job again.")


class _Resolver:
    """Puts variables in; a text that is one reference and nothing else takes the value with its type."""

    def __init__(self, file: str, values: Mapping[str, Any], environment: Mapping[str, str] | None) -> None:
        self._file = file
        self._values = values
        self._environment = environment
        self._left = _MAX_REFERENCES

    def resolve(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict):
            return {key: self.resolve(one, depth) for key, one in value.items()}
        if isinstance(value, list):
            return [self.resolve(one, depth) for one in value]
        if not isinstance(value, str) or "{" not in value:
            return value
        if depth > _MAX_DEPTH:
            raise _invalid(f"{self._file}: the variables in {value!r} name each other in a circle")
        sole = _REFERENCE.fullmatch(value)
        if sole:
            found = self._find(sole)
            return value if found == value else self.resolve(found, depth + 1)  # unknown: text in braces stays text
        return _REFERENCE.sub(lambda match: self._put(match, depth), value)

    def _put(self, match: re.Match[str], depth: int) -> str:
        found = self._find(match)
        text = found if found == match[0] else self.resolve(found, depth + 1)
        return text if isinstance(text, str) else json.dumps(text)

    def _find(self, match: re.Match[str]) -> Any:
        name = match[1]
        self._left -= 1
        if self._left < 0:
            raise _invalid(f"{self._file} names variables more than {_MAX_REFERENCES} times")
        if not name.startswith("$"):
            return self._values.get(name, match[0])
        if self._environment is None:
            return match[0]
        if name[1:] not in self._environment:
            raise _invalid(f"{self._file}: the environment variable {name[1:]} is not passed on to jobs")
        return self._environment[name[1:]]


class _Reader:
    """Collects the parts of one file and every problem in it."""

    def __init__(self, file: str, resolver: _Resolver) -> None:
        self._file = file
        self._resolver = resolver
        self.problems: list[str] = []

    def config(self, document: dict[str, Any]) -> AppConfig:
        version = document.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            self._wrong("format_version", f"must be {FORMAT_VERSION}, and is {version!r}")
        workflows = tuple(self._found(self._list(document, "workflows"), "workflows"))
        components: dict[str, Component] = {}
        for one in self._found(self._list(document, "components"), "components"):
            if not one.id or one.id in components:
                self._wrong(
                    one.where.partition(": ")[2], f'needs an "id"{" of its own" if one.id else ""}, and has {one.id!r}'
                )
            components[one.id] = one
        return AppConfig(
            file=self._file,
            workflows=workflows,
            executors=tuple(self._executors(document)),
            components=components,
            task_data_filters=tuple(self._chains(document, "task_data_filters")),
            task_result_filters=tuple(self._chains(document, "task_result_filters")),
        )

    def _wrong(self, where: str, why: str) -> None:
        self.problems.append(f"{self._file}: {where} {why}")

    def _list(self, holder: Mapping[str, Any], key: str, where: str = "") -> list[Any]:
        value = holder.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._wrong(where + key, "must be a list")
            return []
        return value

    def _found(self, entries: list[Any], where: str) -> Iterator[Component]:
        for number, entry in enumerate(entries):
            component = self._component(entry, f"{where}[{number}]")
            if component is not None:
                yield component

    def _component(self, entry: Any, where: str) -> Component | None:
        if not isinstance(entry, dict):
            self._wrong(where, "must be an object")
            return None
        path = self._resolver.resolve(entry.get("path", entry.get("class_path")))
        args, name = entry.get("args"), entry.get("id", "")
        args = {} if args is None else args
        if path is None:
            self._wrong(where, 'must name its class by "path", the whole package.module.Class')
        elif not isinstance(path, str) or not _CLASS.fullmatch(path):
            self._wrong(where, f'"path" must be package.module.Class, and is {path!r}')
        elif not isinstance(args, dict):
            self._wrong(where, '"args" must be an object')
        elif not isinstance(name, str):
            self._wrong(where, '"id" must be text')
        else:
            return Component(path=path, args=self._resolver.resolve(args), id=name, where=f"{self._file}: {where}")
        return None

    def _executors(self, document: dict[str, Any]) -> Iterator[Executor]:
        for number, entry in enumerate(self._list(document, "executors")):
            where = f"executors[{number}]"
            if not isinstance(entry, dict):
                self._wrong(where, "must be an object")
                continue
            tasks = self._tasks(entry, where)
            component = self._component(entry.get("executor"), f"{where}.executor")
            if tasks and component is not None:
                yield Executor(tasks, component)

    def _chains(self, document: dict[str, Any], key: str) -> Iterator[FilterChain]:
        for number, entry in enumerate(self._list(document, key)):
            where = f"{key}[{number}]"
            if not isinstance(entry, dict):
                self._wrong(where, "must be an object")
                continue
            tasks = self._tasks(entry, where)
            filters = tuple(self._found(self._list(entry, "filters", f"{where}."), f"{where}.filters"))
            yield FilterChain(tasks, filters)

    def _tasks(self, entry: dict[str, Any], where: str) -> tuple[str, ...]:
        tasks = entry.get("tasks")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) and task for task in tasks):
            self._wrong(where, '"tasks" must be a list of task names, or ["*"]')
            return ()
        return tuple(tasks)
