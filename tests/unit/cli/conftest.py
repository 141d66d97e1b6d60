"""A kit that exists, and a home without any."""

import pytest

from tests.unit.cli.admin_sessions import FakeOpening, FakeSession, invoke


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, and no kit in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "CLOUDDEPLOY_STARTUP_KIT", "NVFLARE_STARTUP_KIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def opening(home, tmp_path, monkeypatch):
    """Opens a fake session with a kit that the environment names."""
    (tmp_path / "kit" / "startup").mkdir(parents=True)
    monkeypatch.setenv("CLOUDDEPLOY_STARTUP_KIT", str(tmp_path / "kit"))
    return FakeOpening(FakeSession())


@pytest.fixture
def run(opening):
    """Returns a function that runs a command with the fake session."""

    def run(command, *words, expected=0, form="json"):
        return invoke(command, *words, opening=opening, expected=expected, form=form)

    run.session = opening.fake
    run.opening = opening
    return run
