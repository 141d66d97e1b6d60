"""What a deploy file that was sent in may name: who sends one has an account here, and not the machine.

A path in a deploy file is opened with the rights of the dashboard, and what lies there goes to a machine that the
sender chose. So a file that was sent in names only what the operator has put in reach of it. A deploy file in a folder
of its own was put there by the operator and may name anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy import deploy_schema
from clouddeploy.config import FORM
from clouddeploy.yaml_file import Problems, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP_PATHS = ("project", "kit", "service", "workspace", "smoke_job")
SITE_PATHS = ("data", *sorted(deploy_schema.KEY_FILES), "directory")
_SENT = frozenset({"kit", "service", "smoke_job", "data"})
"""What leaves this machine, with everything in it."""
_KEYLESS = frozenset({"smoke_job", "data"})
"""Of that, what has no reason to hold a private key."""
_HERE = "local"
"""Its sites are processes of this machine, with the account of the dashboard; jobs would read all that it can."""
_KEY_MARK = b"PRIVATE KEY-----"
_HEAD_BYTES = 16 << 10
"""Before a key there may be its attributes, or the certificates of a chain; not more, for data may be many files."""
_OPERATOR = "have it put on this machine, as deployments/NAME/deploy.yml with what it names"


@dataclass(frozen=True)
class Bounds:
    """Where the files are that a deploy file may name.

    Attributes:
        place: the dashboard's folder of deployments.
        further: folders that the operator allows besides.
    """

    place: Path
    further: tuple[Path, ...] = ()

    def of(self, file: Path) -> tuple[Path, ...] | None:
        """Returns the folders that a deploy file is held to; None: the operator put it there, it is held to nothing."""
        if file.parent.resolve() != self.place.resolve():
            return None
        return tuple(one.resolve() for one in (self.place, *self.further))


def check(file: Path, roots: tuple[Path, ...]) -> None:
    """Refuses a deploy file that names something outside of some folders, or what only the operator may choose.

    Looks at the file as it is written, before anything that it names is touched.

    Args:
        file: the deploy file.
        roots: the folders, without links in their names.

    Raises:
        ConfigError: says each line, and what to do.
    """
    document, lines = parse(file, FORM)
    problems = Problems(file, lines, FORM)
    if document.get("state") is not None:
        problems.add(("state",), f"a file that was sent in keeps its state here; or {_OPERATOR}")
    for path, value in _named(document):
        why = _refusal(file.parent, str(value), roots, path[-1])
        if why:
            problems.add(path, why)
    for name, body in _sites(document):
        if body.get("provider") == _HERE:
            problems.add(("sites", name, "provider"), f"would run programs on the dashboard's own machine; {_OPERATOR}")
    problems.raise_if_any()


def _sites(document: dict[str, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    sites = document.get("sites")
    for name, body in (sites if isinstance(sites, dict) else {}).items():
        if isinstance(body, dict):
            yield str(name), body


def _named(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every path that the file names, with its keys."""
    for key in TOP_PATHS:
        if document.get(key) is not None:
            yield (key,), document[key]
    for name, body in _sites(document):
        for key in SITE_PATHS:
            if body.get(key) is not None:
                yield ("sites", name, key), body[key]


def _refusal(base: Path, text: str, roots: tuple[Path, ...], key: str) -> str:
    """Returns why a path is refused; empty: it is not."""
    try:
        found = (base / Path(text).expanduser()).resolve()
    except (OSError, ValueError, RuntimeError):
        return "is no path that can be followed"
    root = next((one for one in roots if found != one and found.is_relative_to(one)), None)
    if root is None:
        return f"is not in the dashboard's folder of deployments, nor in one that --deploy-from allows; or {_OPERATOR}"
    if any(part.startswith(".") for part in found.relative_to(root).parts):
        return "is hidden, as keys and states of deployments are; name another"
    return _leak(found, root, key) if key in _SENT and found.is_dir() else ""


def _leak(folder: Path, root: Path, key: str) -> str:
    """Returns why the content of a folder must not be sent; empty: it may be."""
    for top, folders, files in os.walk(folder):
        if ".clouddeploy" in folders:
            return f"would send {top}/.clouddeploy, which has keys and states of deployments; name a folder below"
        for name in (*folders, *files):
            path = Path(top, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                return f"would send what the link {path} leads to, outside of {root}; remove it"
        if key in _KEYLESS:
            secret = next((Path(top, name) for name in files if _is_key(Path(top, name))), None)
            if secret is not None:
                return f"would send the private key {secret}; name a folder without it"
    return ""


def _is_key(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _KEY_MARK in file.read(_HEAD_BYTES)
    except OSError:
        return False  # what cannot be read is not sent either
