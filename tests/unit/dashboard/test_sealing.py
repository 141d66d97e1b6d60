"""Private keys of kits at rest: sealed, and whatever becomes of kits goes on as if they were not."""

import shutil

import pytest
from clouddeploy_provision import provisioner

from clouddeploy.dashboard import settings, watching
from clouddeploy.dashboard.errors import DashboardState
from clouddeploy.dashboard.opening import open_desk
from clouddeploy.dashboard.sealing import Seal
from clouddeploy.dashboard.settings import VIEWER
from clouddeploy.secrets import Secret
from tests.unit.dashboard.visitors import unpack

MARK = b"PRIVATE KEY-----"
PASSPHRASE = Secret("of the authority")


@pytest.fixture
def frozen(world):
    root = world.configure(freeze=True)
    assert root.post(f"/users/{root.id}/blob").status_code == 200
    return root


def plain_keys(folder):
    """Private keys that lie about in plain text; the authority's is encrypted."""
    found = [path for path in folder.rglob("*") if path.is_file() and MARK in path.read_bytes()]
    return [path for path in found if b"ENCRYPTED PRIVATE KEY" not in path.read_bytes()]


def sealed(folder):
    return sorted(folder.glob("workspace/*/prod_*/*/startup/*.sealed"))


def person_kit(program, folder):
    answer = program.post(f"/users/{program.id}/blob")
    assert answer.status_code == 200, answer.text
    kit = unpack(answer.content, answer.headers["x-kit-code"], folder)
    return {str(path.relative_to(kit)): path.read_bytes() for path in kit.rglob("*") if path.is_file()}


def last_result(folder):
    return max(folder.glob("workspace/*/prod_*"))


def test_no_key_lies_there_in_plain_text_after_a_kit_was_handed_out(world, frozen):
    assert plain_keys(world.desk.folder) == []
    assert [path.parent.parent.name for path in sealed(world.desk.folder)] == ["fl.example.com", "root@hub.example"]
    assert {path.stat().st_mode & 0o777 for path in sealed(world.desk.folder)} == {0o600}


def test_the_owner_gets_the_same_kit_again_after_others_joined_and_after_a_restart(world, frozen, tmp_path):
    before = person_kit(frozen, tmp_path / "before")
    assert MARK in before["startup/client.key"]
    assert not [name for name in before if name.endswith(".sealed")]
    again = open_desk(world.desk.folder, passphrase=PASSPHRASE)
    with again.visit() as visit:
        federation = settings.federation(visit.db)
    again.kits.hand_out(federation, VIEWER, target=tmp_path / "viewer.zip", password="x" * 20)
    again.database.close()
    assert person_kit(frozen, tmp_path / "after") == before
    assert plain_keys(world.desk.folder) == []


def test_a_reissue_makes_another_key(world, frozen, tmp_path):
    before = person_kit(frozen, tmp_path / "before")
    assert frozen.post(f"/users/{frozen.id}/reissue", {}).json()["revoked"]
    after = person_kit(frozen, tmp_path / "after")
    assert before["startup/client.key"] != after["startup/client.key"]
    assert plain_keys(world.desk.folder) == []


def test_what_a_killed_run_left_open_is_sealed_at_the_next_start(world, frozen, tmp_path):
    before = person_kit(frozen, tmp_path / "before")
    result = last_result(world.desk.folder)
    Seal(world.desk.folder, PASSPHRASE).open(result.iterdir())
    (result.parent / "wip" / "root@hub.example").mkdir(parents=True)
    (result.parent / "wip" / "root@hub.example" / "client.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    assert len(plain_keys(world.desk.folder)) == 3
    open_desk(world.desk.folder, passphrase=PASSPHRASE).database.close()
    assert plain_keys(world.desk.folder) == []
    assert person_kit(frozen, tmp_path / "after") == before


def test_a_run_that_fails_leaves_nothing_open(world, frozen, monkeypatch):
    monkeypatch.setattr(provisioner, "provision", lambda *_, **__: 1 / 0)
    with world.desk.visit() as visit:
        federation = settings.federation(visit.db)
    with pytest.raises(ZeroDivisionError):
        world.desk.kits.hand_out(federation, VIEWER, target=world.desk.folder / "x.zip", password="x" * 20)
    assert plain_keys(world.desk.folder) == []


def test_while_another_process_makes_kits_nothing_of_it_is_touched(world, frozen):
    result = last_result(world.desk.folder)
    other = Seal(world.desk.folder, PASSPHRASE)
    with other.alone():
        other.open(result.iterdir())
        open_desk(world.desk.folder, passphrase=PASSPHRASE).database.close()
        assert len(plain_keys(world.desk.folder)) == 2
        other.close(result.iterdir())


def test_the_kit_of_the_live_view_is_laid_out_open(world, frozen):
    kit = watching.kit_path(world.desk)
    assert MARK in (kit / "startup" / "client.key").read_bytes()
    assert not list(kit.rglob("*.sealed"))
    assert not list(world.desk.folder.glob(".watching*"))


def test_a_key_that_was_put_in_the_place_of_another_is_refused(world, frozen):
    server, person = sealed(world.desk.folder)
    shutil.copy(server, person)
    answer = frozen.post(f"/users/{frozen.id}/blob")
    assert answer.status_code == 409
    assert "cannot be opened" in answer.json()["message"]


def test_another_passphrase_opens_nothing_and_a_damaged_key_says_so(world, frozen):
    kit = sealed(world.desk.folder)[0].parent.parent
    with pytest.raises(DashboardState, match=r"kits\.key"):
        Seal(world.desk.folder, Secret("another")).read(kit)
    (world.desk.folder / "kits.key").write_text("{}")
    with pytest.raises(DashboardState, match="damaged") as caught:
        Seal(world.desk.folder, PASSPHRASE).open([kit])
    assert "backup" in caught.value.hint
