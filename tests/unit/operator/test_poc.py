"""A federation on this machine before any process: its folder, its project, its name in `config`, ports, names."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
import yaml
from clouddeploy_runtime import kit as kit_format
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import admin_kits
from clouddeploy.cli.poc import poc
from clouddeploy.errors import ConfigError, Interrupted, LockedError, PocState
from clouddeploy.poc import preparing, processes, running
from clouddeploy.poc import record as records
from clouddeploy.poc.record import Record
from tests.unit.cli.admin_sessions import invoke


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", records.WORKSPACE_VARIABLE, *admin_kits.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "poc"


def prepare(workspace, *, clients=("site-1",), file=None, is_forced=False):
    return preparing.prepare(workspace, clients=clients, file=file, is_forced=is_forced)


def test_it_is_prepared_with_signed_kits_for_loopback_and_a_secret_of_its_own(workspace):
    record = prepare(workspace, clients=("site-1", "site-b"))
    assert record.participants == ("server", "site-1", "site-b")
    for name, folder in records.kits(workspace, record).items():
        kit_format.verify(folder)
        kit = kit_format.load(folder)
        assert (kit.name, kit.port) == (name, record.port)
        assert kit_format.kit.is_loopback(kit.host)
    assert stat.S_IMODE((workspace / records.PASSPHRASE).stat().st_mode) == 0o600
    assert running.status(workspace).status == "stopped"


def test_the_admins_kit_is_the_active_one_and_the_earlier_one_is_so_again_afterwards(workspace, tmp_path):
    admin_kits.config_file().parent.mkdir(parents=True)
    admin_kits.write(admin_kits.AdminKits({"work": tmp_path, "poc": tmp_path}, "work"))
    record = prepare(workspace)
    assert record.kit_id == "poc-2"
    assert admin_kits.choose() == workspace / record.kits[record.admin]
    assert prepare(workspace, clients=("site-9",), is_forced=True).kit_id == "poc-2"
    preparing.clean(workspace)
    assert admin_kits.read() == admin_kits.AdminKits({"work": tmp_path, "poc": tmp_path}, "work")
    assert not workspace.exists()


def test_it_is_prepared_once_unless_forced(workspace):
    prepare(workspace)
    with pytest.raises(PocState, match="prepared"):
        prepare(workspace)
    assert prepare(workspace, clients=("site-7",), is_forced=True).clients == ("site-7",)


def test_a_folder_with_something_else_is_left_alone(workspace):
    workspace.mkdir()
    (workspace / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        prepare(workspace)
    assert preparing.clean(workspace).left == ("thesis.txt",)
    assert [entry.name for entry in workspace.iterdir()] == ["thesis.txt"]


def test_only_what_it_has_made_is_deleted(workspace, tmp_path):
    prepare(workspace)
    (workspace / "notes.txt").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (workspace / records.STATE).symlink_to(outside)
    cleaned = preparing.clean(workspace)
    assert cleaned.left == ("notes.txt",)
    assert records.STATE in cleaned.deleted
    assert outside.is_dir()
    assert preparing.clean(tmp_path / "never") == preparing.Cleaned((), ())


@pytest.mark.parametrize("left", [(), (records.PASSPHRASE,), (records.PASSPHRASE, records.PROVISIONED)])
def test_what_a_kill_has_left_of_preparing_is_prepared_anew_or_cleaned(workspace, left):
    workspace.mkdir()
    records.write(workspace, Record())
    for name in left:
        (workspace / name).mkdir() if name == records.PROVISIONED else (workspace / name).write_text("x")
    assert running.status(workspace).status == "not_prepared"
    with pytest.raises(PocState, match="interrupted"):
        running.start(workspace)
    assert prepare(workspace).is_ready
    records.write(workspace, Record())
    preparing.clean(workspace)
    assert not workspace.exists()


def test_a_project_file_is_brought_to_this_machine(workspace, tmp_path):
    people = [
        {"name": "hub.example.com", "type": "server", "org": "hub", "fed_learn_port": 8002},
        {"name": "lyon", "type": "client", "org": "a"},
        {"name": "root@x.org", "type": "admin", "org": "hub", "role": "project_admin"},
    ]
    builders = [{"path": f"nvflare.lighter.impl.{one}"} for one in ("cert.CertBuilder", "signature.SignatureBuilder")]
    document = {"api_version": 3, "name": "real", "participants": people, "builders": builders}
    file = tmp_path / "project.yml"
    file.write_text(yaml.safe_dump(document))
    record = prepare(workspace, clients=(), file=file)
    assert (record.project, record.server, record.clients, record.admin) == (
        "real",
        "hub.example.com",
        ("lyon",),
        "root@x.org",
    )
    assert kit_format.load(workspace / record.kits["lyon"]).host == "127.0.0.1"
    document["participants"] = [one for one in people if one["type"] != "admin"]
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="project_admin"):
        prepare(workspace, clients=(), file=file, is_forced=True)


def test_participants_are_meant_by_name_by_kind_or_by_leaving_out():
    record = Record(server="hub", clients=("a", "b"))
    for only, without, expected in (
        ((), (), ("hub", "a", "b")),
        (("clients",), (), ("a", "b")),
        (("server",), (), ("hub",)),
        ((), ("b",), ("hub", "a")),
        (("b", "hub"), (), ("hub", "b")),
    ):
        assert running.chosen(record, only=only, without=without) == expected
    for only, without in ((("c",), ()), ((), ("server", "clients"))):
        with pytest.raises(ConfigError):
            running.chosen(record, only=only, without=without)


def test_a_port_that_somebody_has_is_seen(workspace):
    record = prepare(workspace)
    with socket.socket() as taken:
        taken.bind((records.LOCALHOST, record.port))
        taken.listen()
        assert not processes.is_free(record.port)
        assert running.status(workspace).port_conflict
    assert processes.is_free(record.port)


def test_two_commands_do_not_work_in_one_folder(workspace):
    with records.held(workspace), pytest.raises(LockedError):
        prepare(workspace)


def test_processes_are_found_by_their_environment_and_ended(workspace):
    prepare(workspace)
    stray = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(60)",
        ],
        env={**os.environ, processes.MARK: str(workspace)},
        stdout=subprocess.PIPE,
    )
    try:
        stray.stdout.readline()
        assert list(processes.running(workspace)) == [stray.pid]
        assert processes.running(workspace.parent) == {}
        for refused in (preparing.clean, lambda place: prepare(place, is_forced=True)):
            with pytest.raises(PocState, match="runs"):
                refused(workspace)
        found = running.stop(workspace, timeout_s=0)
        assert found.warnings == ("what did not stop by itself was killed",)
        assert stray.wait(5) == -9
    finally:
        stray.kill()
        stray.communicate()
    preparing.clean(workspace)


def test_the_commands_speak_json_and_refuse_what_contradicts(workspace):
    words = ("--workspace", workspace)
    data = invoke(poc, "prepare", "-n", "1", *words)["data"]
    assert (data["status"], data["ready"], data["port_conflict"]) == ("stopped", False, False)
    assert [one["name"] for one in data["clients"]] == ["site-1"]
    for contradiction in (
        ("prepare", "-n", "2", "-c", "a"),
        ("start", "-n", "3"),
        ("start", "--demo", "--no-wait"),
        ("start", "-p", "nobody"),
    ):
        invoke(poc, *contradiction, *words, expected=ExitCode.BAD_INPUT)
    invoke(poc, "clean", *words, expected=ExitCode.BAD_INPUT)
    assert invoke(poc, "clean", *words, "--force")["data"]["left"] == []
    assert invoke(poc, "status", *words)["data"]["status"] == "not_prepared"
    assert invoke(poc, "stop", *words)["data"]["status"] == "not_prepared"


def test_names_are_checked_as_in_any_project_file(workspace):
    invoke(poc, "prepare", "-c", "a b", "--workspace", workspace, expected=ExitCode.BAD_INPUT)
    assert not workspace.exists()


@pytest.mark.parametrize("wrong", [("-c", "a b"), ("-i", "/there/is/none.yml")])
def test_what_cannot_be_prepared_leaves_the_earlier_one_as_it_was(workspace, wrong):
    invoke(poc, "prepare", "--workspace", workspace)
    before = (workspace / records.FILE).read_bytes()
    invoke(poc, "prepare", "--force", *wrong, "--workspace", workspace, expected=ExitCode.BAD_INPUT)
    assert (workspace / records.FILE).read_bytes() == before
    assert (workspace / records.PROVISIONED).is_dir()


@pytest.mark.parametrize("command", [("prepare",), ("stop",), ("clean", "--yes")])
def test_a_folder_of_somebody_else_is_left_as_it_was(tmp_path, command):
    (tmp_path / "theirs").touch()
    invoke(
        poc, *command, "--workspace", tmp_path, expected=ExitCode.BAD_INPUT if command == ("prepare",) else ExitCode.OK
    )
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["theirs"]


def test_a_start_that_is_interrupted_says_so(workspace, monkeypatch):
    invoke(poc, "prepare", "--workspace", workspace)
    monkeypatch.setattr(processes, "launch", lambda *_: None)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        running.start(workspace, cancel=cancel)


def test_the_folder_is_where_the_environment_says(workspace, monkeypatch, tmp_path):
    assert records.default_workspace() == tmp_path / "home" / ".local" / "share" / "clouddeploy" / "poc"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert records.default_workspace() == tmp_path / "data" / "clouddeploy" / "poc"
    monkeypatch.setenv(records.WORKSPACE_VARIABLE, str(tmp_path / "mine"))
    assert records.default_workspace() == tmp_path / "mine"
