"""Killed at every write of journal and state, applied again: the same end, no second machine; destroyed: nothing."""

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.fake import FakeProvider
from clouddeploy_providers.resources import Kind

from clouddeploy.apply import Applier, SiteWork
from clouddeploy.config import DeployConfig, SiteConfig
from clouddeploy.destroy import Place, destroy
from clouddeploy.journal import Journal
from clouddeploy.keyring import Keyring
from clouddeploy.plan import Action, diff, firewall_rules, wanted_resources
from clouddeploy.remote.bootstrap import Release
from clouddeploy.state import State

SITES = ("server1", "site-1")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


class Killer:
    """Counts writes and dies before or after the nth of them."""

    def __init__(self, at: int, *, after_write: bool) -> None:
        self.left = at
        self.after_write = after_write

    def around(self, write):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and not self.after_write:
                raise Killed
            write(*args, **kwargs)
            if self.left == 0 and self.after_write:
                raise Killed

        return wrapped


class NoHost:
    def close(self):
        pass


class World:
    """One deployment of two fake sites in a folder; every method is a new process as far as memory goes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = {"file": str(directory / "cloud.json")}
        self.config = DeployConfig(
            directory / "deploy.yml",
            directory / "project.yml",
            directory / "workspace",
            tuple(SiteConfig(name, "fake", self.settings) for name in SITES),
        )

    def provider(self):
        return FakeProvider(self.settings, REAL)

    def changes(self, state):
        provider = self.provider()
        wanted = wanted_resources(
            self.config,
            project="p",
            deployment=state.deployment,
            server="server1",
            kinds={name: provider.kinds(is_server=name == "server1") for name in SITES},
            places=dict.fromkeys(SITES, provider.place),
            rules={
                name: firewall_rules(
                    ssh_port=22, ssh_sources=("192.0.2.1/32",), federation_port=8002 if name == "server1" else None
                )
                for name in SITES
            },
        )
        return diff(wanted, state.resources)

    def resize(self, size):
        sites = tuple(replace(site, size=size) for site in self.config.sites)
        self.config = replace(self.config, sites=sites)

    def apply(self, killer=None):
        state = State.load(self.directory)
        if not (self.directory / "state.json").exists():
            state.save()
        journal = Journal(self.directory / "journal.jsonl")
        if killer:
            state.save = killer.around(state.save)
            journal.intend = killer.around(journal.intend)
            journal.done = killer.around(journal.done)
        provider = self.provider()
        applier = Applier(
            state=state,
            journal=journal,
            keyring=Keyring(self.directory / "keys"),
            providers=dict.fromkeys(SITES, provider),
            server="server1",
            work=SiteWork(
                kits=lambda _address: dict.fromkeys(SITES, self.directory),
                open=lambda _site, _ref: NoHost(),
                install=lambda _site, _host, _kit: Release("digest", "/root", "/root/python"),
                start=lambda _site, _host, _release: None,
                wait_ready=lambda _site, _host, _release, _address: None,
                user_data=lambda wanted: f"#cloud-config\nhostname: {wanted.name}\n",
                uninstall=lambda _site, _ref: None,
                machine_gone=Keyring(self.directory / "keys").forget_bootstrap,
            ),
            cancel=threading.Event(),
        )
        old = dict.fromkeys(state.resources, provider)
        return applier.run(self.changes(state), old=old, on_event=lambda _event: None)

    def destroy(self):
        state = State.load(self.directory)
        journal = Journal(self.directory / "journal.jsonl")
        place = Place("fake", self.settings, self.provider())
        result = destroy(
            [place],
            state=state,
            journal=journal,
            uninstall=lambda _site, _ref: None,
            machine_gone=Keyring(self.directory / "keys").forget_bootstrap,
            cancel=threading.Event(),
            on_event=lambda _event: None,
        )
        state.save()
        return result

    def found(self):
        return self.provider().find(State.load(self.directory).deployment)


def wait_for_workers():
    """What was in flight when the kill came still reaches the cloud; the next process starts after it."""
    for thread in threading.enumerate():
        if thread.name.startswith("step"):
            thread.join(timeout=5)


def writes_of_a_whole_apply(directory):
    counter = Killer(10_000, after_write=False)
    World(directory).apply(counter)
    return 10_000 - counter.left


@pytest.mark.parametrize("after_write", [False, True], ids=["before", "after"])
def test_killed_at_every_write_then_applied_again_then_destroyed(tmp_path, after_write):
    (tmp_path / "count").mkdir()
    total = writes_of_a_whole_apply(tmp_path / "count")
    assert total > 10
    for point in range(1, total + 1):
        world = World(tmp_path / f"at-{point}")
        world.directory.mkdir()
        with pytest.raises(Killed):
            world.apply(Killer(point, after_write=after_write))
        wait_for_workers()
        report = world.apply().report
        assert not report.errors
        kinds = sorted(ref.kind for ref in world.found())
        assert kinds.count(Kind.MACHINE) == len(SITES), f"killed at write {point}"
        assert {change.action for change in world.changes(State.load(world.directory))} == {Action.KEEP}
        assert not Journal(world.directory / "journal.jsonl").open_intents()
        result = world.destroy()
        assert (result.left, world.found()) == ((), [])


def test_killed_and_never_applied_again_destroy_still_finds_everything(tmp_path):
    for point in itertools.count(1):
        world = World(tmp_path / f"at-{point}")
        world.directory.mkdir()
        try:
            world.apply(Killer(point, after_write=True))
        except Killed:
            wait_for_workers()
            world.destroy()
            assert world.found() == []
        else:
            break


def test_applying_twice_changes_nothing_and_destroying_twice_is_fine(tmp_path):
    world = World(tmp_path)
    world.apply()
    before = world.found()
    world.apply()
    assert world.found() == before
    assert world.destroy().left == ()
    assert world.destroy().left == ()


def test_a_replaced_machine_is_born_with_another_host_key(tmp_path):
    """Who could read the first one's user data knows the first key, and must not be able to stand in for the second."""
    world = World(tmp_path)
    world.apply()
    before = {ref.name: ref.id for ref in world.found()}
    keys = {site: Keyring(tmp_path / "keys").bootstrap(site).public for site in SITES}
    world.resize("large")
    assert not world.apply().report.errors
    after = {ref.name: ref.id for ref in world.found()}
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == len(SITES)
    assert all("-machine-" in name for name in changed)
    for site in SITES:
        assert Keyring(tmp_path / "keys").bootstrap(site).public != keys[site]
