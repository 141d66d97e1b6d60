import json
import subprocess
import sys

import pytest
from clouddeploy_runtime.errors import ExitCode

HEAVY = ("boto3", "azure", "paramiko", "grpc", "rich", "pydantic", "numpy", "prompt_toolkit")


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom clouddeploy.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "apply" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("group", ["job", "system", "study", "config", "poc", "console"])
def test_the_help_of_who_only_talks_to_a_server_loads_no_cloud_and_no_ssh(group):
    heavy = tuple(name for name in HEAVY if name != "pydantic")  # `poc` reads project files, which are checked with it
    program = (
        "import sys\nfrom clouddeploy.cli.main import main\n"
        f"try:\n    main(['{group}', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_version():
    assert run("--version").stdout.startswith("clouddeploy ")


def test_an_unknown_command_is_bad_input():
    done = run("aply")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "aply" in done.stderr


@pytest.mark.parametrize("command", ["plan", "apply", "status", "destroy", "rehearse"])
def test_a_missing_deploy_file_in_json_is_one_envelope_with_three_parts(tmp_path, command):
    done = run(command, str(tmp_path / "none.yml"), "--output", "json")
    envelope = json.loads(done.stdout)
    assert done.returncode == envelope["exit_code"] == ExitCode.BAD_INPUT
    assert envelope["status"] == "error"
    assert "does not exist" in envelope["message"]
    assert envelope["hint"]
    assert "Traceback" not in done.stderr


def test_a_missing_project_file_is_bad_input(tmp_path):
    done = run("provision", "-p", str(tmp_path / "none.yml"))
    assert done.returncode == ExitCode.BAD_INPUT
    assert "Error:" in done.stderr
    assert "Do:" in done.stderr
    assert "Traceback" not in done.stderr
