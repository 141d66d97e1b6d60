"""Private keys of kits at rest: sealed, and whatever becomes of kits goes on as if they were not."""

import shutil
import subprocess
import sys

import pytest
from clouddeploy_provision import project as project_file
from clouddeploy_provision import provisioner
from clouddeploy_provision.errors import PassphraseError, ResultError

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


def torn(path):
    """What a power cut leaves of a file that was not on disk yet."""
    path.write_bytes(b"")
    path.chmod(0o600)


def test_a_key_of_which_both_forms_are_left_is_sealed_again_whichever_is_torn(world, frozen, tmp_path):
    before = person_kit(frozen, tmp_path / "before")
    server, person = sealed(world.desk.folder)
    kept = {path: path.read_bytes() for path in (server, person)}
    Seal(world.desk.folder, PASSPHRASE).open([server.parent.parent, person.parent.parent])
    server.write_bytes(kept[server])
    server.chmod(0o600)
    torn(server.with_suffix(""))
    torn(person)
    open_desk(world.desk.folder, passphrase=PASSPHRASE).database.close()
    assert plain_keys(world.desk.folder) == []
    assert server.read_bytes() == kept[server]
    assert person_kit(frozen, tmp_path / "after") == before
    assert frozen.post("/servers/1/blob").status_code == 200


def test_what_was_being_written_in_plain_text_when_it_was_killed_is_gone_at_the_next_start(world, frozen):
    kit = sealed(world.desk.folder)[0].parent.parent
    (kit / ".sealing").write_bytes(MARK)
    open_desk(world.desk.folder, passphrase=PASSPHRASE).database.close()
    assert plain_keys(world.desk.folder) == []


def test_another_passphrase_changes_nothing(world, frozen):
    def everything():
        return {path: path.read_bytes() for path in world.desk.folder.rglob("*") if path.is_file()}

    before = everything()
    with pytest.raises(PassphraseError):
        open_desk(world.desk.folder, passphrase=Secret("another")).kits.check("trial")
    after = everything()
    assert {path: after[path] for path in before if "sqlite" not in path.name} == {
        path: before[path] for path in before if "sqlite" not in path.name
    }


def test_nothing_in_the_folder_is_for_anybody_else(world, frozen):
    secret = [*world.desk.folder.glob("kits.*"), *sealed(world.desk.folder), world.desk.folder]
    assert len(secret) >= 5
    assert not [path for path in secret if path.stat().st_mode & 0o077]


def test_who_was_killed_holds_the_kits_no_more(world):
    seal = Seal(world.desk.folder, PASSPHRASE)
    program = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); "
    with seal.alone():
        pass
    lock = str(world.desk.folder / "kits.lock")
    with subprocess.Popen([sys.executable, "-c", program + "sys.stdin.read()", lock],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # fmt: skip
        other.stdout.readline()
        with seal.alone(wait=False) as is_alone:
            assert not is_alone
        other.kill()
    with seal.alone(wait=False) as is_alone:
        assert is_alone


def test_provisioning_into_the_dashboards_workspace_is_refused(world, frozen):
    before = sealed(world.desk.folder)
    with pytest.raises(ResultError, match="as the dashboard keeps"):
        provisioner.provision(
            project_file.load(world.desk.folder / "project.yml"),
            world.desk.folder / "workspace",
            passphrase=PASSPHRASE.reveal_bytes(),
        )
    assert sealed(world.desk.folder) == before
