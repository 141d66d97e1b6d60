"""`launch` before any cloud is asked: what it asks a person, what it refuses, what it writes."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.errors import ExitCode

DEADLINE_S = 60
QUESTIONS = {
    "aws": ("Region [us-west-2]:", "Size [t3.small]:", "Image [the newest Ubuntu 24.04]:"),
    "azure": ("Location [westus2]:", "Size [Standard_B2s]:", "Image [the newest Ubuntu 24.04]:"),
}


@pytest.fixture(scope="module")
def kits(tmp_path_factory, write_trial):
    folder = tmp_path_factory.mktemp("provisioned")
    write_trial(folder)
    return provision(project.load(folder / "project.yml"), folder / "workspace", passphrase=b"x").kits


@pytest.fixture
def file(kits):
    file = kits["site-1"].parent / "site-1.deploy.yml"
    file.unlink(missing_ok=True)
    return file


def command(*words):
    return [sys.executable, "-m", "clouddeploy.cli", "launch", *map(str, words)]


def run(*words, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "AWS_"))}
    return subprocess.run(
        command(*words),
        env={**kept, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def talk(*words, answers):
    """Runs `launch` at a terminal; types an answer whenever its question is shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command(*words))  # noqa: S606 - no shell is what is wanted
    shown, at, waiting = "", 0, list(answers)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if waiting and waiting[0][0] in shown[at:]:
            at = len(shown)
            os.write(terminal, waiting.pop(0)[1])
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                said = os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
            shown += said.decode()
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.mark.parametrize("cloud", ["aws", "azure"])
def test_at_a_terminal_each_thing_that_was_not_named_is_asked_for(kits, file, cloud):
    """Ctrl-D ends it, and nothing was written by then."""
    first, second, third = QUESTIONS[cloud]
    answers = [(first, b"\n"), (second, b"\n"), (third, b"\x04")]
    status, shown = talk(kits["site-1"], "--cloud", cloud, answers=answers)
    assert status == ExitCode.INTERRUPTED, shown
    assert [question in shown for question in QUESTIONS[cloud]] == [True] * 3
    assert not file.exists()


def test_what_was_named_is_not_asked_for(kits, file):
    words = (kits["site-1"], "--cloud", "aws", "--region", "us-east-1", "--size", "t3.large")
    status, shown = talk(*words, answers=[("Image", b"\x04")])
    assert (status, "Region" in shown, "Size" in shown) == (ExitCode.INTERRUPTED, False, False), shown
    assert not file.exists()


def test_no_input_asks_nothing_at_a_terminal(kits, file):
    """It goes on to the cloud, which refuses what is no region."""
    status, shown = talk(kits["site-1"], "--cloud", "azure", "--no-input", "--vpc-id", "vpc-1", answers=[])
    assert status == ExitCode.BAD_INPUT
    assert "vpc_id cannot be chosen in azure" in shown
    assert "[" not in shown
    assert not file.exists()


def test_a_configuration_is_parsed_and_its_faults_stop_before_anything(kits, file, tmp_path):
    config = tmp_path / "cloud.conf"
    mark = tmp_path / "mark"
    config.write_text(f"KEY_PAIR=mine\nREGION=$(touch {mark})\n")
    done = run(kits["site-1"], "--cloud", "aws", "--config", config, "--output", "json")
    envelope = json.loads(done.stdout)
    assert done.returncode == ExitCode.BAD_INPUT
    assert f"{config}:2" in envelope["message"]
    assert (mark.exists(), file.exists()) == (False, False)


def test_what_is_neither_an_image_of_the_cloud_nor_of_a_container_leaves_nothing(kits, file):
    done = run(kits["site-1"], "--cloud", "aws", "--image", "AMI-1234", "--output", "json")
    envelope = json.loads(done.stdout)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "sites.site-1.container: is a reference to a container image" in json.dumps(envelope)
    assert not file.exists()


def test_azure_needs_a_subscription(kits, file):
    done = run(kits["site-1"], "--cloud", "azure", "--output", "json")
    envelope = json.loads(done.stdout)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "subscription is not known" in envelope["message"]
    assert "az account show" in envelope["hint"]
    assert not file.exists()


@pytest.mark.parametrize(
    "words", [("--cloud", "gcp"), (), ("--cloud", "aws", "--ssh-cidr", "everybody"), ("--cloud", "aws", "--zone", "a")]
)
def test_usage_errors(kits, file, words):
    done = run(kits["site-1"], *words)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "Error:" in done.stderr
    assert not file.exists()


def test_a_folder_that_is_no_kit(tmp_path):
    done = run(tmp_path, "--cloud", "aws", "--output", "json")
    assert done.returncode == ExitCode.BAD_INPUT
    assert json.loads(done.stdout)["hint"]
