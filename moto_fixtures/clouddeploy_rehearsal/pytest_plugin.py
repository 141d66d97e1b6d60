"""Fixtures for tests against an emulated world; a test module asks for them by name in `pytest_plugins`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clouddeploy_rehearsal.world import World


@pytest.fixture(scope="module")
def isolation() -> Iterator[None]:
    """A network of its own for the tests of one module; the test process returns to the machine's afterwards."""
    if os.geteuid() != 0:
        pytest.skip("hosts in network namespaces need root")
    from clouddeploy_rehearsal.isolation import isolated  # noqa: PLC0415 - only where a world is wanted

    with isolated():
        yield


@pytest.fixture(scope="module")
def world(isolation: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:  # noqa: ARG001 - its effect
    """A world of namespaces without faults, shared by a module's tests: each removes what it makes."""
    from clouddeploy_rehearsal.world import World  # noqa: PLC0415 - moto takes a second to import

    with World(tmp_path_factory.mktemp("world"), as_root=True) as made:
        yield made


@pytest.fixture(scope="module")
def unprivileged_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of processes on loopback addresses, for any user."""
    from clouddeploy_rehearsal.world import World  # noqa: PLC0415

    with World(tmp_path_factory.mktemp("unprivileged"), as_root=False) as made:
        yield made
