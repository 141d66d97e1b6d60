"""The kinds of outpost, by the name of their launcher; each is imported when it is asked for, with what it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.launchers.base import BadLauncher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.post import Errand, Post

KINDS: Mapping[str, str] = {
    "docker": "clouddeploy_runtime.outposts.docker",
    "k8s": "clouddeploy_runtime.outposts.kubernetes",
    "local": "clouddeploy_runtime.outposts.local",
    "slurm": "clouddeploy_runtime.outposts.slurm",
}
"""Each module has `check(settings)`, which returns the launcher's arguments, checked; `post(errand)`, the place of one
job; and `sweep(settings, site)`, which removes what a parent that was killed has left at the engine. In the settings of
the last two are `project` and `participant`, the name of the site, too.

A parent imports it for `check`, and keeps its memory: what is large, such as an engine's client, is imported by the
other two, which have processes of their own."""

ALIASES: Mapping[str, str] = {"kubernetes": "k8s"}
"""Other names that people give a launcher."""


def check(kind: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a launcher's arguments with those that were left out.

    Raises:
        BadLauncher: names the wrong one, or what is not installed.
    """
    checked: Mapping[str, Any] = _module(kind).check(settings)
    return checked


def post(errand: Errand) -> Post:
    """Return the place of one job."""
    made: Post = _module(errand.kind).post(errand)
    return made


def sweep(kind: str, settings: Mapping[str, Any], site: str) -> None:
    """Remove what is left of earlier jobs of a site."""
    _module(kind).sweep(settings, site)


def _module(kind: str) -> Any:
    try:
        return importlib.import_module(KINDS[kind])
    except ImportError as exc:
        raise BadLauncher(
            f"jobs cannot be started by the launcher {kind!r}",
            why=f"it needs {exc.name}, which is not installed",
            hint=f"pip install 'clouddeploy-runtime[{kind}]'",
        ) from exc
