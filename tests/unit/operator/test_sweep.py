"""What somebody forgot, found by its tags, and never what a known state owns."""

import threading

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.fake import FakeProvider

from clouddeploy import sweep
from clouddeploy.recovery import Place


@pytest.fixture
def place(trial):
    settings = {"file": str(trial.folder / "cloud.json")}
    return Place("fake", settings, FakeProvider(settings, REAL))


@pytest.fixture
def forgotten(trial, place):
    """A deployment whose state was lost, beside one whose state is known."""
    trial.apply()
    (trial.folder / ".clouddeploy" / "deploy" / "state.json").unlink()
    (trial.folder / ".clouddeploy" / "deploy" / "journal.jsonl").unlink()
    (lost,) = {found.owner.deployment for found in place.provider.find_all()}
    trial.apply()
    return lost


def names(strays):
    return {stray.found.ref.name for stray in strays}


def test_what_no_state_knows_is_found_and_what_one_knows_is_not(trial, place, forgotten):
    known = trial.deployment().deployment_id()
    strays = sweep.look([place, place], frozenset({known}))
    assert {stray.found.owner.deployment for stray in strays} == {forgotten}
    assert len(strays) == 7
    assert {stray.found.owner.site for stray in strays} == {"server1", "site-1", "site-2"}


def test_it_is_removed_and_the_known_deployment_lives_on(trial, place, forgotten):
    known = trial.deployment().deployment_id()
    strays = sweep.look([place], frozenset({known}))
    swept = sweep.remove(strays, cancel=threading.Event(), on_event=trial.events.append)
    assert set(swept.deleted) == names(strays)
    assert swept.left == ()
    assert sweep.look([place], frozenset({known})) == []
    assert trial.actions() == {}


def test_nothing_of_ours_is_nothing_to_sweep(place):
    assert sweep.look([place], frozenset()) == []
