"""`clouddeploy prepare` for Slurm: what it writes, what it refuses, and what its scripts do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import launchers, settings
from clouddeploy_runtime.kit import Kind

from clouddeploy.errors import ConfigError
from clouddeploy.prepare import preparing

PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("fl.example.com",), host="fl.example.com", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="fl.example.com", port=8002),
    ),
)
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
JOBS = {"sandbox": "none", "python_path": "/shared/venv/bin/python"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kits, not to be changed."""
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"x").result


@pytest.fixture
def prepare(made, tmp_path):
    """Return a function that prepares a kit; its keys are those of job_launcher."""

    def prepare(name="site-1", *, parent=None, **jobs):
        config = {"runtime": "slurm", "job_launcher": {**JOBS, **jobs}, **({"parent": parent} if parent else {})}
        (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(config))
        return preparing.prepare(made / name, config=tmp_path / "slurm.yaml", target=tmp_path / "output dir")

    return prepare


def arguments(output):
    return settings.load(output / "local").launcher_args


def test_the_launcher_starts_with_what_was_written(prepare):
    found = prepare(parent_host="login.example.com", sbatch_directives={"partition": "gpu", "time": "60"})
    output = found.kit.output
    assert settings.load(output / "local").launcher == "slurm"
    assert arguments(output) == {
        **JOBS,
        "workspace_path": str(output),
        "parent_host": "login.example.com",
        "internal_port": 8102,
        "sbatch_directives": {"partition": "gpu", "time": "60"},
        "submit_timeout": 30.0,
        "query_timeout": 10.0,
        "cancel_timeout": 10.0,
        "poll_interval": 10.0,
        "pending_timeout": 600.0,
        "multi_node_port_range": "29400-30399",
    }
    assert launchers.made(settings.load(output / "local"), kits.load(output)).kind == "slurm"


def test_the_output_is_the_accounts_alone_and_a_server_keeps_its_jobs_in_it(prepare):
    output = prepare("server1", parent_host="login").kit.output
    assert output.stat().st_mode & 0o777 == 0o700
    assert str(output / "jobs-storage") in json.dumps(json.loads((output / "local" / "resources.json").read_text()))
    assert not (output / "startup" / "parent.slurm").exists()


def test_a_server_is_no_batch_job(prepare):
    with pytest.raises(ConfigError, match="parent cannot be set for a server"):
        prepare("server1", parent={"sbatch_directives": {"time": "1-0"}})


def test_the_command_that_submits_a_client_says_its_directives(prepare):
    found = prepare(
        parent={"sbatch_directives": {"partition": "long", "time": "7-0"}, "environment_setup": "module load python"},
        executables={"sbatch": "/slurm/bin/sbatch"},
    )
    output = found.kit.output
    assert shlex.split(found.more["submit_command"]) == [
        *("/slurm/bin/sbatch", "--parsable", "--job-name=clouddeploy-site-1", "--no-requeue", "--export=NONE"),
        *(f"--chdir={output}", f"--output={output}/parent-%j.out", "--partition=long", "--time=7-0"),
        f"{output}/startup/parent.slurm",
    ]
    script = (output / "startup" / "parent.slurm").read_text()
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "\nmodule load python\n" in script
    assert script.endswith(f"exec {shlex.quote(str(output / 'startup' / 'start_slurm.sh'))}\n")


@pytest.mark.parametrize(
    ("jobs", "why"),
    [
        ({"sandbox": "apptainer"}, "image is missing"),
        ({"sandbox": "pyxis", "image": "/nowhere/one.sqsh"}, "no file here"),
        ({"sbatch_directives": {"partition": "a b"}}, "sbatch_directives.partition of job_launcher"),
        ({"parent_host": "-host"}, "parent_host of job_launcher"),
        ({"executables": {"rm": "/bin/rm"}}, "executables.rm"),
        ({"forward_env": ["PYTHONPATH"]}, "forward_env"),
        ({"python_path": "/a:b/python"}, "python_path"),
    ],
)
def test_what_the_launcher_would_refuse_is_refused_before(prepare, tmp_path, jobs, why):
    with pytest.raises(ConfigError, match=why) as caught:
        prepare(**jobs)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "output dir").exists()


def test_directives_of_the_parent_are_single_words(prepare):
    with pytest.raises(ConfigError, match=r"parent\.sbatch_directives\.account"):
        prepare(parent={"sbatch_directives": {"account": "a b"}})


def test_what_may_surprise_is_said(prepare):
    said = "\n".join(prepare(executables={"sbatch": "/nowhere/sbatch", "apptainer": "/on/nodes"}).warnings)
    assert "executables.sbatch /nowhere/sbatch is not there" in said
    assert "/on/nodes" not in said
    assert "parent_host is not set" in said
    assert "without Landlock" in said


@pytest.fixture
def start(prepare):
    """Return a function that runs the start script of a kit whose other scripts tell how they are called."""
    output = prepare(parent_host="login").kit.output
    for name in ("start.sh", "sub_start.sh"):
        path = output / "startup" / name
        path.chmod(0o755)
        path.write_text(f'#!/bin/sh\necho {name} "$@"; umask; echo "$NVFL_WORKSPACE|$CLOUDDEPLOY_WORKSPACE"\n')

    def start(*words):
        done = subprocess.run(
            [str(output / "startup" / "start_slurm.sh"), *words],
            env={"PATH": os.environ["PATH"], "CLOUDDEPLOY_WORKSPACE": "/elsewhere"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    start.output = output
    return start


@pytest.mark.parametrize(("words", "said"), [((), "sub_start.sh --once"), (("--background",), "start.sh ")])
def test_the_start_script_starts_the_site_in_its_own_folder(start, words, said):
    code, out, _ = start(*words)
    assert (code, out) == (0, [said.strip(), "0077", f"{start.output}|{start.output}"])


def test_the_start_script_refuses_what_others_can_read(start):
    start.output.chmod(0o755)
    code, _, error = start()
    assert code == 4
    assert "chmod 700" in error
    assert start("--now")[0] == 4
    assert start("--help")[1][0].startswith("Starts this participant")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_the_scripts_are_shells_that_a_checker_accepts(prepare):
    output = prepare(parent={"environment_setup": "module load python"}).kit.output
    for name in ("start_slurm.sh", "parent.slurm"):
        path = output / "startup" / name
        done = subprocess.run([SHELLCHECK, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
