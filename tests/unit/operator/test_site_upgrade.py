"""How an upgrade that failed is undone, on a machine that is played."""

from types import SimpleNamespace

import pytest
from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.errors import HostUnreachable, RemoteTimeout, UpgradeFailed
from clouddeploy.remote import bootstrap
from clouddeploy.site_upgrade import SiteUpgrade

BROKEN = HostUnreachable("the connection to site-1 broke", hint="run the same command again")
RELEASE = bootstrap.Release("new", "/opt/clouddeploy/study/site-1", "python")


class Played:
    """A machine and what is done there; every connection has a number."""

    def __init__(self, monkeypatch, *, current, good, is_running):
        self.done = []
        self.has_log = True
        self.opened = 0
        for name, what in {
            "releases": lambda *_: bootstrap.Releases(current, good, "", "", ""),
            "is_running": lambda *_: is_running,
            "roll_back": lambda host, *_: self.note("roll_back", host, bootstrap.Release("old", RELEASE.root, "")),
            "confirm": lambda host, _: self.note("confirm", host),
            "run": self.said,
        }.items():
            monkeypatch.setattr(bootstrap, name, what)
        monkeypatch.setattr(SiteUpgrade, "_run", lambda _, host, release: self.note(f"run {release.digest}", host))
        self.upgrade = SiteUpgrade(
            "site-1", ResourceRef(Kind.MACHINE, "m", "m", {}), {}, SimpleNamespace(open=self.open)
        )

    def open(self, *_, **__):
        self.opened += 1
        return SimpleNamespace(number=self.opened, close=lambda: None)

    def note(self, what, host, answer=None):
        self.done.append((what, host.number))
        return answer

    def said(self, *_):
        if not self.has_log:
            raise RemoteTimeout("said did not end")
        return "it is broken"


@pytest.mark.parametrize("has_log", [True, False])
def test_it_goes_back_over_a_connection_of_its_own_whether_or_not_there_is_a_log(monkeypatch, has_log):
    played = Played(monkeypatch, current="releases/new", good="releases/old", is_running=False)
    played.has_log = has_log
    error = played.upgrade._undone(RELEASE, BROKEN)
    assert isinstance(error, UpgradeFailed)
    assert "was rolled back" in error.what
    assert ("it is broken" in error.why) == has_log
    assert played.done == [("roll_back", 1), ("run old", 1), ("confirm", 1)]


def test_a_site_that_has_its_release_and_does_not_run_is_started_again(monkeypatch):
    played = Played(monkeypatch, current="releases/old", good="releases/old", is_running=False)
    assert "was started again" in played.upgrade._undone(RELEASE, BROKEN).why
    assert played.done == [("run new", 1)]


@pytest.mark.parametrize(
    ("good", "is_running", "words"),
    [("releases/old", True, "it runs the release that it has"), ("", False, "it does not run")],
)
def test_a_site_that_runs_and_one_that_was_never_healthy_are_left_as_they_are(monkeypatch, good, is_running, words):
    played = Played(monkeypatch, current="releases/old", good=good, is_running=is_running)
    assert words in played.upgrade._undone(RELEASE, BROKEN).why
    assert played.done == []


def test_a_machine_that_cannot_be_reached_any_more_is_an_error_that_names_both(monkeypatch):
    played = Played(monkeypatch, current="", good="", is_running=False)

    def gone(*_):
        raise HostUnreachable("cannot log in to site-1", hint="is it up?")

    played.upgrade.machines.open = gone
    error = played.upgrade._undone(RELEASE, RemoteTimeout("start did not end"))
    assert "could not be brought back" in error.what
    assert "start did not end" in error.why
    assert "cannot log in" in error.why
