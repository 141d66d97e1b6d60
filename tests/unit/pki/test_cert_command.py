"""`clouddeploy cert …` as a person or a script calls it: results, exit codes, and errors of three parts."""

from __future__ import annotations

import fcntl
import json
import logging
import signal
import socket

import pytest
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.provisioner import Endpoint, provision

from clouddeploy.cli.main import main
from clouddeploy.secrets import PASSPHRASE_VARIABLE

PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """What a process's edge sets is put back."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    handler = signal.getsignal(signal.SIGINT)
    level = logging.getLogger().level
    yield
    signal.signal(signal.SIGINT, handler)
    logging.getLogger().setLevel(level)


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit code and the data, or the whole envelope of an error."""

    def command(*words):
        code = 0
        try:
            main([*map(str, words), "--output", "json"])
        except SystemExit as end:
            code = end.code
        caught = capsys.readouterr()
        assert "Traceback" not in caught.err
        envelope = json.loads(caught.out)
        assert envelope["exit_code"] == code
        return code, envelope["data"] if code == 0 else envelope

    return command


@pytest.fixture
def kits(project, tmp_path):
    with socket.socket() as probe:  # nobody answers there
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return provision(project, tmp_path, passphrase=PASSPHRASE.encode(), endpoint=Endpoint("127.0.0.1", port)).kits


@pytest.fixture
def state(kits, tmp_path):
    return tmp_path / "study" / "state"


def test_the_list_in_json(run, state):
    code, data = run("cert", "list", "--ca", state)
    assert code == 0
    found = {one["name"]: one for one in data["certificates"]}
    assert set(found) == {"study", "server1", "site-1", "site-2", "admin@example.com"}
    assert found["site-1"]["state"] == "valid"
    assert found["admin@example.com"]["role"] == "project_admin"


def test_a_projects_folder_will_do_as_well(run, state):
    assert run("cert", "list", "--ca", state.parent)[0] == 0


@pytest.mark.parametrize(("days", "count"), [(30, 0), (361, 4), (4000, 5)])
def test_the_list_of_what_ends_soon(run, state, days, count):
    assert len(run("cert", "list", "--ca", state, "--expiring", days)[1]["certificates"]) == count


def test_the_list_as_text_shows_whole_serial_numbers(state, capsys):
    main(["cert", "list", "--ca", str(state)])
    text = capsys.readouterr().out
    serial = CaStore(state).records.last_issued()["site-1"].serial
    assert any(line.startswith("site-1 ") and line.endswith(serial) for line in text.splitlines())


def test_a_revocation(run, state):
    code, data = run("cert", "revoke", "site-1", "--ca", state, "--reason", "key_compromise")
    assert (code, data) == (0, {"revoked": ["site-1"], "crl": str(state / "crl.pem"), "pushed": False})
    states = {
        one["name"]: (one["state"], one["reason"]) for one in run("cert", "list", "--ca", state)[1]["certificates"]
    }
    assert states["site-1"] == ("revoked", "key_compromise")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("revoke", "nobody"), "nobody cannot be revoked"),
        (("revoke", "site-1", "site-2", "--serial", "ab"), "--serial goes with one name"),
        (("rollover", "finish"), "cannot be exchanged: finish"),
        (("push-crl", "--admin-kit", "nowhere"), "no list to show"),
        (("revoke", "site-1", "--admin-kit", "nowhere"), "is not a startup kit"),
    ],
)
def test_what_cannot_be_done_is_bad_input_and_changes_nothing(run, state, words, message):
    code, envelope = run("cert", words[0], "--ca", state, *words[1:])
    assert code == 4
    assert message in envelope["message"]
    assert not CaStore(state).records.revoked()


def test_a_kit_that_is_no_admins_is_refused_before_anything_is_revoked(run, state, kits):
    code, envelope = run("cert", "revoke", "site-1", "--ca", state, "--admin-kit", kits["site-2"])
    assert (code, "kit of a client" in envelope["message"]) == (4, True)
    assert not CaStore(state).records.revoked()


def test_a_server_that_does_not_answer_leaves_a_revocation_that_is_only_half_told(run, state, kits):
    admin = ("--admin-kit", kits["admin@example.com"], "--timeout", 0.2)
    code, envelope = run("cert", "revoke", "site-1", "--ca", state, *admin)
    assert code == 6
    assert "site-1 revoked, but the running server does not know of it" in envelope["message"]
    assert "push-crl" in envelope["hint"]
    assert len(CaStore(state).records.revoked()) == 1


@pytest.mark.parametrize("words", [("revoke", "site-1"), ("rollover", "start")])
def test_without_a_passphrase_nothing_is_asked_with_no_input(run, state, monkeypatch, words):
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    code, envelope = run("cert", words[0], "--no-input", "--ca", state, *words[1:])
    assert (code, envelope["message"].startswith("no passphrase")) == (4, True)


def test_a_wrong_passphrase_is_bad_input(run, state, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
    assert run("cert", "revoke", "site-1", "--ca", state)[0] == 4
    assert not CaStore(state).records.revoked()


def test_a_folder_in_use_has_its_own_exit_code(run, state):
    with (state / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run("cert", "revoke", "site-1", "--ca", state)[0] == 7


def test_without_a_folder_the_only_projects_is_meant(run, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("cert", "list")[0] == 4  # ./workspace is not there
    (tmp_path / "workspace").mkdir()
    (tmp_path / "study").rename(tmp_path / "workspace" / "study")
    assert run("cert", "list")[0] == 0


def test_the_three_steps_of_a_rollover(run, state):
    marks = [run("cert", "rollover", phase, "--ca", state)[1] for phase in ("start", "switch", "finish")]
    old, new, last = (one["rootca_fingerprint_sha256"] for one in marks)
    assert old != new == last


def test_an_import(run, tmp_path):
    (tmp_path / "cert.json").write_text("{}")
    code, envelope = run("cert", "import", tmp_path / "cert.json", "-o", tmp_path / "ca")
    assert (code, "cannot be imported" in envelope["message"]) == (4, True)
    assert not (tmp_path / "ca").exists()
