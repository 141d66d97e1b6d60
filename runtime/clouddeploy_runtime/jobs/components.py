"""Which classes a job may name, and whether it may bring code: looked at before anything of it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.jobs import known
from clouddeploy_runtime.jobs.app_config import Side, read
from clouddeploy_runtime.jobs.known import ComponentRefused
from clouddeploy_runtime.jobs.spec import brings_code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy_runtime.settings import Settings

log = logging.getLogger(__name__)

ANY_CLASS = "*"


def check(app: Path, side: Side, settings: Settings, *, may_bring_code: bool, chooses_code: bool = False) -> None:
    """Refuse an app that names or brings what this site does not allow.

    A class must stand in the site's `class_allow_list`, wholly or by a prefix that ends with a dot, or be code that
    the app itself brings. A site whose list is empty or that has none allows what this runtime builds itself. With
    the list's mode `warn`, and with `*` in it, a class is only noted.

    Args:
        app: the app's folder.
        side: which of its configurations runs here.
        settings: the site's.
        may_bring_code: whether the submitter has the right `byoc` here.
        chooses_code: whether the job's `launcher_spec` chooses an image or a program for this site.

    Raises:
        ComponentRefused: names the classes and the list, or the right.
        InvalidJob: the configuration cannot be read.
    """
    if brings_code(app) and not may_bring_code:
        raise ComponentRefused(
            f'The app "{app.name}" is not allowed here',
            why='it brings code in its folder custom/, and its submitter does not have the right "byoc"',
            hint="Ask the site for the right, or use classes that the site has.",
        )
    if chooses_code and not may_bring_code:
        raise ComponentRefused(
            f'The app "{app.name}" is not allowed here',
            why="launcher_spec of its meta.json chooses an image or a program, and its submitter does not have the "
            'right "byoc"',
            hint="Ask the site for the right, or leave the choice to the site.",
        )
    config = read(app, side)
    allowed = settings.allowed_classes or known.ALL
    refused = [
        f"{component.where} names {name} (here there is {known.INSTEAD[part]})"
        for part, component in config.all()
        for name in (component.path, *_named_in(component.args))
        if not _is_allowed(name, allowed) and not _is_own(app, name)
    ]
    if not refused:
        return
    why = "; ".join(refused) + ": neither in the class_allow_list of local/resources.json nor in the app's custom/"
    if not settings.is_list_enforced or ANY_CLASS in allowed:
        log.warning("The app %r runs although %s", app.name, why)
        return
    raise ComponentRefused(
        f'The app "{app.name}" is not allowed here', why=why, hint="Use an allowed class, or ask the site to add it."
    )


def _named_in(value: Any) -> Iterator[str]:
    """Yield the classes and functions that arguments name, at any depth."""
    if isinstance(value, list):
        for one in value:
            yield from _named_in(one)
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        is_class = key in {"path", "class_path"} and isinstance(one, str) and "." in one and "/" not in one
        if is_class:
            yield one
        elif isinstance(one, str) and key == "initial_model":
            yield one.replace(":", ".")  # module:function; it is called, so it counts as a class
        else:
            yield from _named_in(one)


def _is_allowed(name: str, allowed: frozenset[str]) -> bool:
    return name in allowed or any(entry.endswith(".") and name.startswith(entry) for entry in allowed)


def _is_own(app: Path, name: str) -> bool:
    module = name.partition(".")[0]
    # An empty folder is no code: the module of that name that Python has would be taken.
    files = (app / "custom" / module).rglob("*.py")
    return (app / "custom" / f"{module}.py").is_file() or any(path.is_file() for path in files)
