"""`clouddeploy dashboard` as somebody types it."""

import json
import subprocess
import sys

from click.testing import CliRunner
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.dashboard import dashboard

HEAVY = ("sqlalchemy", "alembic", "starlette", "uvicorn", "jinja2", "argon2")


def run(*words, env=None, expected=0):
    usual = dict.fromkeys(("NVFL_CREDENTIAL", "DATABASE_URL", "NVFL_DASHBOARD_PP", "CLOUDDEPLOY_CA_PASSPHRASE"))
    done = CliRunner().invoke(dashboard, [*words, "--output", "json"], env={**usual, **(env or {})})
    assert done.exit_code == expected, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom clouddeploy.cli.main import main\n"
        "try:\n    main(['dashboard', 'start', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--cred" in done.stdout
    assert done.stderr.strip() == "[]"


def test_init_makes_the_folder_and_its_admin(tmp_path):
    folder = tmp_path / "dashboard"
    env = {"CLOUDDEPLOY_CA_PASSPHRASE": "x", "NVFL_CREDENTIAL": "root@hub.example:a pass:word of words:hub"}
    assert run("init", "-f", str(folder), env=env)["data"] == {"folder": str(folder), "password": ""}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "db.sqlite").stat().st_mode & 0o777 == 0o600
    assert run("status", "-f", str(folder))["data"] == {"running": False}


def test_a_credential_on_the_command_line_is_taken_and_warned_of(tmp_path):
    words = ["init", "-f", str(tmp_path / "d"), "--cred", "root@hub.example:four words in a row:hub"]
    done = CliRunner().invoke(dashboard, words, env={"NVFL_DASHBOARD_PP": "x", "NVFL_CREDENTIAL": None})
    assert done.exit_code == 0, done.output
    assert "everybody on this machine" in done.output
    assert "four words" not in done.output


def test_what_is_missing_is_said(tmp_path):
    folder = str(tmp_path / "d")
    no_passphrase = run("init", "-f", folder, expected=ExitCode.BAD_INPUT)
    assert "passphrase" in no_passphrase["message"]
    env = {"CLOUDDEPLOY_CA_PASSPHRASE": "x"}
    assert "no project admin" in run("init", "-f", folder, env=env, expected=ExitCode.BAD_INPUT)["message"]
    two = {**env, "NVFL_CREDENTIAL": "root@hub.example:password"}
    assert "EMAIL:PASSWORD:ORG" in run("init", "-f", folder, env=two, expected=ExitCode.BAD_INPUT)["message"]
    weak = {**env, "NVFL_CREDENTIAL": "root@hub.example:short:hub"}
    assert "password is refused" in run("init", "-f", folder, env=weak, expected=ExitCode.BAD_INPUT)["message"]
    assert run("stop", "-f", folder, expected=ExitCode.FAILED)["error_code"] == "DASHBOARD_STATE"


def test_a_passphrase_on_the_command_line_is_taken_and_warned_of(tmp_path):
    words = ["init", "-f", str(tmp_path / "d"), "--passphrase", "of the authority"]
    env = {"NVFL_CREDENTIAL": "root@hub.example:four words in a row:hub", "CLOUDDEPLOY_CA_PASSPHRASE": None}
    done = CliRunner().invoke(dashboard, words, env=env)
    assert done.exit_code == 0, done.output
    assert "--passphrase shows it to everybody" in done.output
    assert "of the authority" not in done.output


def test_a_lost_second_factor_is_turned_off_at_the_machine(tmp_path):
    folder = str(tmp_path / "d")
    env = {"CLOUDDEPLOY_CA_PASSPHRASE": "x", "NVFL_CREDENTIAL": "root@hub.example:four words in a row:hub"}
    run("init", "-f", folder, env=env)
    assert run("reset-second-factor", "Root@hub.example", "-f", folder, env=env)["data"]["email"] == "root@hub.example"
    unknown = run("reset-second-factor", "ann@hub.example", "-f", folder, env=env, expected=ExitCode.BAD_INPUT)
    assert unknown["error_code"] == "NOT_FOUND"


def test_a_trusted_proxy_is_an_address_and_a_provider_is_complete(tmp_path):
    env = {"CLOUDDEPLOY_CA_PASSPHRASE": "x", "NVFL_CREDENTIAL": "root@hub.example:four words in a row:hub"}
    words = ["start", "--local", "-p", "0", "-f", str(tmp_path / "d")]
    refused = run(*words, "--trusted-proxy", "everybody", env=env, expected=ExitCode.BAD_INPUT)
    assert "no address or network" in refused["message"]
    half = {**env, "CLOUDDEPLOY_DASHBOARD_OIDC_ISSUER": "https://login.example.com"}
    assert "CLIENT_SECRET" in run(*words, env=half, expected=ExitCode.BAD_INPUT)["message"]
    assert not (tmp_path / "d").exists()


def test_a_cloud_takes_a_network_that_may_reach_it(tmp_path):
    env = {"CLOUDDEPLOY_CA_PASSPHRASE": "x", "NVFL_CREDENTIAL": "root@hub.example:four words in a row:hub"}
    words = ["start", "--cloud", "aws", "-f", str(tmp_path / "d"), "--yes"]
    assert "no network is named" in run(*words, env=env, expected=ExitCode.BAD_INPUT)["message"]
