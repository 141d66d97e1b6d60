"""The same through the command lines: the operator's, and the site's, which knows nothing of the operator's."""

import json
import os
import subprocess
import sys

import pytest
from clouddeploy_runtime import cli
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import load

PROFILE = "name: hospitals\nserver: {host: fl.example.com, fed_learn_port: 8002}\n"
SITE = "name: hospitals\nparticipants: [{name: site-2, type: client, org: hospital_b}]\n"
REQUEST = ["request", "--project", "hospitals", "--org", "hospital_a"]


def operator(folder, *words, code=ExitCode.OK):
    """Runs `clouddeploy` and returns the data of its envelope."""
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", *map(str, words), "--output", "json", "--no-input"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        cwd=folder,
        env={**os.environ, "CLOUDDEPLOY_CA_PASSPHRASE": "only for this test"},
    )
    assert "Traceback" not in done.stderr
    envelope = json.loads(done.stdout)
    assert done.returncode == envelope["exit_code"] == code, done.stdout
    return envelope["data"] if code is ExitCode.OK else envelope


def site(*words, code=ExitCode.OK):
    """Runs `clouddeploy-runtime`, in this process."""
    assert cli.main([str(word) for word in words]) == code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.yml").write_text(PROFILE)
    (tmp_path / "site.yml").write_text(SITE)
    return tmp_path


def test_a_site_gets_its_kit_with_the_runtime_alone(here, capsys):
    made = operator(here, "cert", "init", "--profile", "profile.yml", "-o", "ca", "--deploy-version", "07")
    site(*REQUEST, "--name", "site-1")
    assert "site-1/site-1.request.zip" in (said := capsys.readouterr().out)
    answer = operator(here, "cert", "approve", "site-1/site-1.request.zip", "-c", "ca")
    assert answer["public_key_sha256"] in said
    assert answer["rootca_fingerprint_sha256"] == made["rootca_fingerprint_sha256"]
    site("package", answer["signed_zip"], "--fingerprint", made["rootca_fingerprint_sha256"])
    assert "workspace/hospitals/prod_07/site-1" in capsys.readouterr().out
    kit = here / "workspace" / "hospitals" / "prod_07" / "site-1"
    site("verify", kit)
    assert "as it was signed" in capsys.readouterr().out
    site("preflight", kit, "--offline")
    assert "Check dry run" in capsys.readouterr().out


def test_whoever_has_the_operators_side_can_ask_with_it_too(here):
    operator(here, "cert", "init", "--profile", "profile.yml", "-o", "ca")
    asked = operator(here, "cert", "request", "-p", "site.yml")
    answer = operator(here, "cert", "approve", asked["request_zip"], "-c", "ca", "--out", "answers")
    assert answer["name"] == "site-2"
    assert answer["public_key_sha256"] == asked["public_key_sha256"]
    made = operator(here, "package", answer["signed_zip"], "--fingerprint", answer["rootca_fingerprint_sha256"])
    assert load(here / made["kit"]).name == "site-2"
    listed = operator(here, "cert", "list", "-c", "ca")["certificates"]
    assert {one["name"] for one in listed} == {"hospitals", "site-2"}


def test_an_authority_is_replaced_only_by_one_of_another_version(here):
    words = ["cert", "init", "--profile", "profile.yml", "-o", "ca"]
    operator(here, *words)
    assert operator(here, *words, code=ExitCode.BAD_INPUT)["error_code"] == "CA_ALREADY_EXISTS"
    same = operator(here, *words, "--force", code=ExitCode.BAD_INPUT)
    assert same["error_code"] == "CA_VERSION_ALREADY_EXISTS"
    assert operator(here, *words, "--force", "--deploy-version", "01")["provision_version"] == "01"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cert", "init", "--profile", "none.yml", "-o", "ca"], "PROFILE_INVALID"),
        (["cert", "init", "--profile", "profile.yml", "-o", "ca", "--deploy-version", "7"], "PROFILE_INVALID"),
        (["cert", "approve", "none.zip", "-c", "."], "REQUEST_ZIP_NOT_FOUND"),
        (["package", "none.zip"], "ROOTCA_FINGERPRINT_REQUIRED"),
        (["package", "none.zip", "--trust-on-first-use"], "SIGNED_ZIP_NOT_FOUND"),
        (["package", "none.zip", "--fingerprint", "AA:BB"], "INVALID_ROOTCA_FINGERPRINT"),
    ],
)
def test_what_the_operators_side_refuses_is_one_envelope(here, words, code):
    envelope = operator(here, *words, code=ExitCode.BAD_INPUT)
    assert envelope["error_code"] == code
    assert envelope["message"]
    assert envelope["hint"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*REQUEST, "--name", "site 1"], "cannot be that of a client"),
        ([*REQUEST, "--name", "root@a.org", "--type", "admin", "--role", "project_admin"], "role must be one of"),
        ([*REQUEST, "--name", "site-1", "--host-name", "x"], "only a server has host_names"),
        ([*REQUEST, "--name", "site-1", "--type", "relay"], "invalid choice"),
        ([*REQUEST, "--name", "site-1", "--out", "profile.yml"], "cannot be written"),
        (REQUEST, "--name"),
        (["package", "none.zip"], "--trust-on-first-use"),
        (["package", "none.zip", "--trust-on-first-use"], "cannot be read"),
        (["package", "profile.yml", "--trust-on-first-use"], "not a sound archive"),
        (["package", "none.zip", "--fingerprint", "\x1b[2J"], "is not a fingerprint"),
        (["verify", "none"], "not a startup kit"),
        (["frobnicate"], "invalid choice"),
        ([], "required"),
    ],
)
def test_what_the_sites_side_refuses_is_bad_input(here, capsys, words, said):
    """Also a command line that cannot be parsed: the parser's own exit code, 2, means a failed connection here."""
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr().err
    assert code == ExitCode.BAD_INPUT
    assert said in shown
    assert "\x1b" not in shown


def test_the_second_request_needs_force(here, capsys):
    site(*REQUEST, "--name", "site-1")
    site(*REQUEST, "--name", "site-1", code=ExitCode.BAD_INPUT)
    assert "--force" in capsys.readouterr().err
    site(*REQUEST, "--name", "site-1", "--force", "--key-algorithm", "rsa-2048")


def test_a_server_asks_with_further_names(here):
    site(*REQUEST, "--name", "server1", "--type", "server", "--host-name", "10.0.0.1", "--host-name", "fl")
    assert 'host_names: ["10.0.0.1", "fl"]' in (here / "server1" / "site.yaml").read_text()
