"""Reads the file that says for which runtime a kit is prepared; all that is wrong with it is told at once."""

from __future__ import annotations

import difflib
import types
import typing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from clouddeploy.prepare.config import KINDS, Config
from clouddeploy.prepare.errors import ConfigNotFound
from clouddeploy.yaml_file import Form, Problems, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORM = Form(
    what="runtime configuration",
    sample="docs/prepare.md has",
    first="runtime: docker",
    page="docs/prepare.md",
    keys=frozenset({"runtime", "namespace", "server_service_name", "parent", "job_launcher"}),
    examples={
        "runtime": "runtime: docker",
        "parent": "parent: {docker_image: registry.example.com/site:1.0}",
        "docker_image": "docker_image: registry.example.com/site:1.0",
        "job_launcher": "job_launcher: {sandbox: none, python_path: /opt/venv/bin/python}",
        "sandbox": "sandbox: none",
        "python_path": "python_path: /opt/venv/bin/python",
    },
)


def read(file: Path) -> Config:
    """Return what a file says.

    Raises:
        ConfigNotFound: there is no such file.
        ConfigError: it is no YAML, names no runtime, or a key or a value is wrong; names each, with its line.
    """
    if not file.exists():
        raise ConfigNotFound(
            f"{file} does not exist",
            why="it says for which runtime the kit is prepared",
            hint="name another one with --config; docs/prepare.md has examples",
        )
    document, lines = parse(file, FORM)
    problems = Problems(file, lines, FORM)
    kind = document.get("runtime")
    if not isinstance(kind, str) or kind not in KINDS:
        rule = f"is one of {', '.join(KINDS)}" if "runtime" in document else "is missing"
        problems.add(("runtime",), rule, example=FORM.examples["runtime"])
        problems.raise_if_any()
    model = KINDS[str(kind)]
    try:
        return model.model_validate(document)
    except ValidationError as error:
        for one in error.errors():
            _note(problems, model, one)
    problems.raise_if_any()
    raise AssertionError("pydantic refused without a reason")


def _note(problems: Problems, model: type[BaseModel], one: Any) -> None:
    path = tuple(str(part) for part in one["loc"] if not isinstance(part, int))
    example = FORM.examples.get(path[-1], "") if path else ""
    if one["type"] == "extra_forbidden":
        known = _keys(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=2)
        meant = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
        problems.add(path, f"unknown key{meant}")
    elif one["type"] == "missing":
        problems.add(path, "is missing", example=example)
    else:
        problems.add(path, one["msg"][:1].lower() + one["msg"][1:], example=example)


def _keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the keys that a mapping of the file may have."""
    for name in path:
        field = model.model_fields[name].annotation
        options = typing.get_args(field) if isinstance(field, types.UnionType) else (field,)
        model = next(one for one in options if isinstance(one, type) and issubclass(one, BaseModel))
    return list(model.model_fields)
