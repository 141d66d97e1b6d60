"""A YAML file that people write: its lines, and all that is wrong with it at once, with key, rule and example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pydantic import ValidationError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's where PyYAML has them, which read fifty sites in a tenth of the time."""
_MOST_KEYS, _DEEPEST = 100_000, 50
"""Keys, and levels of them: with aliases a short file may mean more than any memory holds, and one that is its own part
has no end."""


@dataclass(frozen=True)
class Form:
    """One kind of file, for messages.

    Attributes:
        what: how it is called.
        sample: where one is, with its verb.
        first: how one begins.
        page: explains every key.
        keys: those that it may have.
        examples: each key as it may look.
    """

    what: str
    sample: str
    first: str
    page: str
    keys: frozenset[str]
    examples: Mapping[str, str]


@dataclass
class Problems:
    """What is wrong with one file.

    Attributes:
        file: the file.
        lines: path of keys → line.
        form: of the file.
        found: so far.
    """

    file: Path
    lines: Mapping[tuple[str, ...], int]
    form: Form
    found: list[str] = field(default_factory=list)

    def add(self, path: tuple[str, ...], rule: str, *, example: str = "") -> None:
        """Notes a rule that is broken at a key, or above it, where the key is missing."""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        text = f"{self.file}:{line}: {'.'.join(path) or 'file'}: {rule}"
        self.found.append(f"{text} (example: {example})" if example else text)

    def add_schema(self, error: ValidationError, keys_of: Callable[[Sequence[str | int]], tuple[str, ...]]) -> None:
        """Notes what the schema has found.

        Args:
            error: pydantic's.
            keys_of: gives the keys of a place in the file, without what pydantic adds for unions and list items.
        """
        seen = set()
        examples = self.form.examples
        for one in error.errors():
            path = keys_of(one["loc"])
            if path in seen:
                continue  # a union reports each of its members
            seen.add(path)
            key = next((part for part in reversed(path) if part in examples), "")
            if one["type"] == "extra_forbidden":
                self.add(path, "unknown key", example=f"one of {', '.join(sorted(self.form.keys))}")
            elif one["type"] == "missing":
                self.add(path, "is missing", example=examples.get(key, ""))
            else:
                self.add(path, one["msg"][:1].lower() + one["msg"][1:], example=examples.get(key, ""))

    def raise_if_any(self) -> None:
        """Raises when something was noted.

        Raises:
            ConfigError: names it all.
        """
        if self.found:
            raise ConfigError(
                f"{self.file} has {len(self.found)} problem(s)",
                why="\n  ".join(["", *self.found]),
                hint=f"correct the lines named; nothing was created. {self.form.page} explains every key",
            )


def loaded(data: bytes) -> Any:
    """Returns what a document says, where nobody asks for its lines.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(data, _LOADER)  # noqa: S506 - a safe loader


def parse(file: Path, form: Form) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Returns what a file says, and by path of keys the line where each stands.

    Raises:
        ConfigError: it is missing, is not YAML, has a key twice, or is no mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist", hint=f"name a {form.what}; {form.sample} one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}", why=str(error)) from error
    try:
        loader = _LOADER(text)
        node = loader.get_single_node()
        lines: dict[tuple[str, ...], int] = {}
        _note_lines(node, (), lines, file)
        document = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        why = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{where} is not valid YAML", why=str(why), hint="correct the indentation or the quotes"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"{file} is not a {form.what}", why="its top level is not a mapping", hint=f"start with: {form.first}"
        )
    return {str(key): value for key, value in document.items()}, lines


def _note_lines(node: yaml.Node | None, path: tuple[str, ...], lines: dict[tuple[str, ...], int], file: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    if len(lines) > _MOST_KEYS or len(path) > _DEEPEST:
        raise ConfigError(
            f"{file} has too many keys",
            why=f"they are more than {_MOST_KEYS}, or more than {_DEEPEST} levels deep",
            hint="write it without aliases (*name)",
        )
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in lines:
            # PyYAML keeps the last of two equal keys in silence; a site would vanish.
            raise ConfigError(
                f"{file}:{key.start_mark.line + 1}: {'.'.join(here)}: appears twice",
                why=f"first on line {lines[here]}",
                hint="remove one of the two; nothing was created",
            )
        lines[here] = key.start_mark.line + 1
        _note_lines(value, here, lines, file)
