"""Killed at every write of journal, state and keys, applied again: the same end, nothing twice; destroyed: nothing."""

import itertools
import os
import threading

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.fake import FakeProvider
from clouddeploy_providers.resources import Kind

from clouddeploy.deployment import Deployment
from clouddeploy.journal import Journal
from clouddeploy.keyring import Keyring
from clouddeploy.killable import BareInstallation
from clouddeploy.plan import Action
from clouddeploy.secrets import Secret

SITES = ("server1", "site-1")
PROJECT = """
api_version: 3
name: crash
participants:
  - {name: server1, type: server, org: hub, fed_learn_port: 8002, admin_port: 8002}
  - {name: site-1, type: client, org: org_a}
builders:
  - {path: nvflare.lighter.impl.workspace.WorkspaceBuilder}
  - {path: nvflare.lighter.impl.cert.CertBuilder}
"""
MANY = 15


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


class Killer:
    """Counts what is made durable and dies before or after the nth time."""

    def __init__(self, at: int, *, after_write: bool) -> None:
        self.left = at
        self.after_write = after_write
        self.fsync = os.fsync

    def __call__(self, descriptor):
        if threading.current_thread() is not threading.main_thread():
            self.fsync(descriptor)  # keys of sites, made by workers; tests/crash/test_kill_matrix.py kills there too
            return
        self.left -= 1
        if self.left == 0 and not self.after_write:
            raise Killed
        self.fsync(descriptor)
        if self.left == 0 and self.after_write:
            raise Killed


class World:
    """One deployment of two fake sites in a folder; every method is a new process as far as memory goes."""

    def __init__(self, directory):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.settings = {"file": str(directory / "cloud.json")}
        (directory / "project.yml").write_text(PROJECT)
        self.resize("small")

    def resize(self, size):
        site = f"{{provider: fake, file: {self.settings['file']}, size: {size}}}"
        lines = ["version: 1", "project: project.yml", "ssh_sources: [192.0.2.1/32]", "sites:"]
        (self.directory / "deploy.yml").write_text("\n".join([*lines, *(f"  {name}: {site}" for name in SITES)]))

    @property
    def state(self):
        return self.directory / ".clouddeploy" / "deploy"

    def deployment(self):
        return Deployment(self.directory / "deploy.yml", installation=BareInstallation)

    def apply(self, killer=None):
        with pytest.MonkeyPatch.context() as patch:
            if killer:
                patch.setattr(os, "fsync", killer)
            return self.deployment().apply(Secret("none"))

    def destroy(self):
        return self.deployment().destroy()

    def found(self):
        return FakeProvider(self.settings, REAL).find(self.deployment().deployment_id() or "none")


def wait_for_workers():
    """What was in flight when the kill came still reaches the cloud; the next process starts after it."""
    for thread in threading.enumerate():
        if thread.name.startswith("step"):
            thread.join(timeout=5)


@pytest.mark.parametrize("after_write", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["before", "after"])
def test_killed_at_every_write_then_applied_again_then_destroyed(tmp_path, after_write):
    for point in itertools.count(1):  # how many there are depends on what ends at once and shares a write
        world = World(tmp_path / f"at-{point}")
        try:
            world.apply(Killer(point, after_write=after_write))
        except Killed:
            wait_for_workers()
        else:
            break
        assert not world.apply().report.errors
        kinds = sorted(ref.kind for ref in world.found())
        assert kinds.count(Kind.MACHINE) == len(SITES), f"killed at write {point}"
        assert {change.action for change in world.deployment().plan().changes} == {Action.KEEP}
        assert not Journal(world.state / "journal.jsonl").open_intents()
        assert (world.destroy().left, world.found()) == ((), [])
    assert point > MANY


def test_killed_and_never_applied_again_destroy_still_finds_everything(tmp_path):
    for point in itertools.count(1):
        world = World(tmp_path / f"at-{point}")
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
    keys = {site: Keyring(world.state / "keys").bootstrap(site).public for site in SITES}
    world.resize("large")
    assert not world.apply().report.errors
    after = {ref.name: ref.id for ref in world.found()}
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == len(SITES)
    assert all("-machine-" in name for name in changed)
    for site in SITES:
        assert Keyring(world.state / "keys").bootstrap(site).public != keys[site]
