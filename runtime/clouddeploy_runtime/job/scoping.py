"""The filters of a site's privacy scope, put before those of a job in the job's process."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.job import config
from clouddeploy_runtime.job.filters import BadFilter, Chain, Filters
from clouddeploy_runtime.job.named_filters import KINDS
from clouddeploy_runtime.jobs.app_config import Component

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clouddeploy_runtime.job.client_api import Wishes
    from clouddeploy_runtime.job.filters import Filter
    from clouddeploy_runtime.privacy import Entry, Scope

log = logging.getLogger(__name__)

_ALL_TASKS = ("*",)


def under(scope: Scope | None, wishes: Wishes, *, app: Path) -> Wishes:
    """Returns what a job wishes, with the scope's filters before its own, both ways, for every task.

    Args:
        scope: the site's; None: it has none.
        wishes: the job's.
        app: its folder, which must not stand in for the site's code.

    Raises:
        BadFilter: a filter of the scope cannot be made.
        BadWorkflow: its arguments do not fit.
        ComponentRefused: neither we nor the site have it.
    """
    if scope is None:
        return wishes
    first = Filters(data=[_chain(scope.data, app)], result=[_chain(scope.result, app)])
    log.info(
        "Privacy scope %s: received parameters pass %s; what is sent passes %s",
        scope.name,
        _names(first.data),
        _names(first.result),
    )
    return replace(wishes, filters=wishes.filters.after(first))


def _chain(entries: Iterable[Entry], app: Path) -> Chain:
    return Chain(_ALL_TASKS, tuple(_made(one, app) for one in entries))


def _made(entry: Entry, app: Path) -> Filter:
    if entry.path not in KINDS and _is_of_job(entry.path.partition(".")[0], app):
        raise BadFilter(
            f"{entry.where} cannot be used", why=f"the job brings a module of the name of {entry.path} in its custom/"
        )
    return config.filter_of(Component(path=entry.path, args=entry.args, id="", where=entry.where))


def _is_of_job(module: str, app: Path) -> bool:
    """Tell whether Python would take a module from the job; nothing of it runs for the question."""
    found = find_spec(module)
    if found is None:
        return False
    places = [found.origin, *(found.submodule_search_locations or ())]
    return any(Path(one).resolve().is_relative_to(app.resolve()) for one in places if one)


def _names(chains: Iterable[Chain]) -> str:
    return ", ".join(type(one).__name__ for chain in chains for one in chain.filters) or "no filter"
