"""A kit from before a renewal was sound once, so only what a machine remembers keeps it out."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.kit import Kind, memory
from clouddeploy_runtime.preflight import package

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = Project(
    "study",
    "",
    (
        Participant(Kind.SERVER, "server1", "hub", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=8002),
    ),
)
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=10)


class Life:
    """A project over some days; its site's kits are kept under the number of the day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / "kit" / "site-1"

    def make(self, day: int, *, project: Project = PROJECT, renew: bool = False) -> None:
        """Provision on a day."""
        options = Options(renewal=Renewal(frozenset({"site-1"} if renew else ())))
        moment = START + timedelta(days=day)
        made = provision(project, self.folder, passphrase=b"x", options=options, now=moment)
        shutil.copytree(made.kits["site-1"], self.folder / f"day-{day}")

    def exchange(self, day: int, phase: Phase) -> None:
        """Take a step of exchanging the root."""
        state = self.folder / "study" / "state"
        certificate_authority.rollover(state, phase, passphrase=b"x", now=START + timedelta(days=day))

    def put(self, day: int) -> Path:
        """Put a kit where the site has it; returns the place, which is always the same."""
        shutil.rmtree(self.place, ignore_errors=True)
        return shutil.copytree(self.folder / f"day-{day}", self.place)

    def used(self, day: int, workspace: Path | None = None) -> None:
        """Let a kit prove itself."""
        memory.remember(kit.load(self.put(day)), workspace)


@pytest.fixture
def gates(gates):
    """The parents look up the same memory, in their workspace: see the kit that is refused at a real start."""
    return dataclasses.replace(gates, with_parents=False)


@pytest.fixture
def life(tmp_path, gates) -> Life:
    life = Life(tmp_path)
    life.make(0)
    return life


def test_a_kit_from_before_a_renewal(life, gates):
    life.make(1, renew=True)
    life.used(0)
    gates.pass_(life.put(0))
    gates.pass_(life.put(1))
    life.used(1)
    gates.pass_(life.put(1))
    gates.refuse(life.put(0), "startup/client.crt was replaced by a newer one")


def test_a_kit_with_the_same_certificate_from_before_another_signed_file_changed(life, gates):
    strict = dataclasses.replace(PROJECT, require_signed_jobs=True)
    life.make(1, project=strict)
    life.used(1)
    assert (life.put(0) / "startup/client.crt").read_bytes() == (life.put(1) / "startup/client.crt").read_bytes()
    gates.refuse(life.put(0), "startup/manifest.json was replaced by a newer one")


def test_a_kit_of_a_root_that_was_exchanged(life, gates):
    """The old root's kits are tied to the new one's by those that trusted both."""
    for day, phase in ((1, Phase.START), (2, Phase.SWITCH), (3, Phase.FINISH)):
        life.exchange(day, phase)
        life.make(day)
        life.used(day)
    gates.pass_(life.put(3))
    for day in (0, 1, 2):
        gates.refuse(life.put(day), "was replaced by a newer one")


def test_a_clock_that_is_set_back(life):
    """Only times that the authority signed are compared."""
    life.make(1, renew=True)
    life.used(1)
    report = package.check(life.put(0), offline=True, now=START + timedelta(hours=1))
    assert [one.code for one in report.problems] == ["KIT_REPLACED"]


def test_each_workspace_remembers_for_itself(life, tmp_path, monkeypatch):
    life.make(1, renew=True)
    life.used(1, tmp_path / "work")
    read = kit.load(life.put(0))
    memory.check(read)
    memory.check(read, tmp_path / "other")
    with pytest.raises(kit.KitRevoked):
        memory.check(read, tmp_path / "work")
    monkeypatch.setenv("CLOUDDEPLOY_WORKSPACE", str(tmp_path / "work"))
    with pytest.raises(kit.KitRevoked):
        memory.check(read)
    assert package.check(life.put(0), workspace=tmp_path / "other", offline=True).problems == []


def test_a_workspace_inside_the_kit_remembers_outside_of_it(life):
    """Or replacing the kit would replace the memory."""
    life.make(1, renew=True)
    life.used(1, life.place / "workspace")
    with pytest.raises(kit.KitRevoked):
        memory.check(kit.load(life.put(0)), life.place / "workspace")


def test_another_project_of_the_same_name_does_not_matter(life, tmp_path, gates):
    """Two authorities' times have nothing to do with each other."""
    other = Life(tmp_path / "other")
    other.make(5)
    other.used(5)
    gates.pass_(life.put(0))


def test_a_damaged_memory_is_reported_and_does_not_stop_a_site(life, caplog):
    life.used(0)
    read = kit.load(life.put(0))
    folder = memory._folder(read, None)
    for file in folder.iterdir():
        file.write_text("{")
    with caplog.at_level(logging.WARNING):
        memory.check(read)
    assert "cannot be read" in caplog.text


def test_a_place_that_cannot_be_written_does_not_stop_a_site(life, tmp_path):
    (tmp_path / "work").write_text("")
    memory.remember(kit.load(life.put(0)), tmp_path / "work")


def test_what_is_remembered_is_private_and_names_no_key(life, tmp_path):
    life.used(0, tmp_path / "work")
    (file,) = (tmp_path / "work" / memory.FOLDER).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in file.read_bytes()
