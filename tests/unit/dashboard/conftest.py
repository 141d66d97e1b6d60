"""A dashboard in a folder of its own, and browsers and programs that use it without a network."""

import pytest

from tests.unit.dashboard.visitors import World


@pytest.fixture
def world(tmp_path):
    with World(tmp_path / "dashboard") as one:
        yield one
