"""A federation whose trainers are batch jobs of a real Slurm, on one node: this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml
from clouddeploy_provision import project, provisioner
from clouddeploy_rehearsal import slurm
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.outposts import slurm_scheduler

from clouddeploy.prepare import preparing
from tests.integration import rounds
from tests.integration.federation import Federation, until

pytestmark = pytest.mark.xdist_group("slurm")
EXAMPLES = Path(__file__).parents[2] / "examples"
SITES = ("site-1", "site-2")
SLEEPER = slurm_scheduler.SCRIPT
"""Any script; it is held."""


@pytest.fixture(scope="module")
def cluster():
    if why := slurm.lacks():
        pytest.skip(why)
    with slurm.Cluster() as one:
        yield one


@pytest.fixture(scope="module")
def federation(cluster, tmp_path_factory):
    one = rounds.Jobs(tmp_path_factory.mktemp("federation"))
    one.environment = {**cluster.environment, "PRIVATE": "of the site alone"}
    for site in SITES:
        launcher(one, site)
    one.begin(*SITES)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def launcher(federation, site, **more):
    """Let a site start its jobs by Slurm."""
    arguments = {
        "sandbox": "none",
        "python_path": sys.executable,
        "parent_host": "127.0.0.1",
        "internal_port": "21000-21999",
        "workspace_path": str(federation.workspace(site)),
        "poll_interval": 0.3,
        "forward_env": ["MODULE_SAYS"],
        "setup": "MODULE_SAYS='it is loaded'\nexport MODULE_SAYS",
        **more,
    }
    settings = {"components": [{"id": "slurm_launcher", "args": arguments}]}
    (federation.client_kit(site) / "local" / "resources.json").write_text(json.dumps(settings))


def near_processes(workspace):
    """Return the site's ends of its batch jobs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_near = b"outposts.near" in (folder / "cmdline").read_bytes()
            if is_near and (folder / "cwd").readlink().is_relative_to(workspace):
                found.append(int(folder.name))
    return found


def batch_jobs(cluster, job_id):
    """Return the batch jobs of a job: name → number, of those that run."""
    return {name: number for number, (state, name) in cluster.jobs().items() if job_id in name and state == "RUNNING"}


def held(federation, cluster, folder):
    """Submit a job whose second site is held in its first round; return its number once both batch jobs run."""
    federation.hold("site-2", 0)
    job_id = federation.submit(rounds.job(folder / "held"))
    jobs = federation.workspace("site-2") / "jobs" / job_id / "run" / "trained.txt"
    until(lambda: jobs.exists() and "begins 0" in jobs.read_text(), what=f"a round: {cluster.log[-2000:]}")
    return job_id


SCRIPT = rounds.TRAIN.replace(
    "flare.init()", "flare.init()\nprint('here:', {key: os.environ.get(key) for key in os.environ})", 1
)


def test_a_job_of_batch_jobs_ends_with_the_exact_mean(federation, cluster, tmp_path):
    with federation.admin(*rounds.ROOT) as session:
        job_id = session.submit(rounds.job(tmp_path / "job", rounds=2, script=SCRIPT))
        info = session.wait(job_id, 60)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        result = session.download(job_id, tmp_path / "download")
    (stored,) = result.rglob("*.safetensors")
    np.testing.assert_array_equal(safetensors.numpy.load_file(stored)["w"], np.full(3, rounds.after(2)))
    until(lambda: not cluster.jobs(), what="the end of the batch jobs")
    shown = [line for line in cluster("scontrol", "--oneliner", "show", "job").splitlines() if job_id in line]
    assert [line.partition("JobState=")[2].split()[0] for line in shown] == ["COMPLETED"] * len(SITES)
    for site in SITES:
        said = (federation.workspace(site) / "jobs" / job_id / "run" / "log.txt").read_text()
        assert "'MODULE_SAYS': 'it is loaded'" in said
        assert "PRIVATE" not in said
        assert "SLURM_JOB_ID" in said
        left = federation.workspace(site) / "jobs" / job_id / "slurm"
        until(lambda left=left: not left.exists(), what="no folder of the batch job")


@pytest.mark.fault("a batch job cancelled by somebody", "named in the job's log")
def test_a_batch_job_that_somebody_cancels_is_named(federation, cluster, tmp_path):
    job_id = held(federation, cluster, tmp_path)
    number = batch_jobs(cluster, job_id)[f"site-2-{job_id}"]
    cluster("scancel", number)
    log = federation.workspace("site-2") / "jobs" / job_id / "run" / "log.txt"
    until(lambda: "CANCELLED" in log.read_text(), what="the word of Slurm")
    # Both of the batch job's processes get SIGTERM at once; that the job's own was first must not count.
    assert f"The process of the job is lost: its batch job {number} has ended: CANCELLED" in log.read_text()
    federation.release("site-2", 0)
    with federation.admin(*rounds.ROOT) as session:
        session.abort(job_id)
        session.wait(job_id, 30)
    until(lambda: not batch_jobs(cluster, job_id), what="the end of the other")


def test_an_abort_ends_the_batch_jobs(federation, cluster, tmp_path):
    job_id = held(federation, cluster, tmp_path)
    until(lambda: set(batch_jobs(cluster, job_id)) == {f"{site}-{job_id}" for site in SITES}, what="both batch jobs")
    with federation.admin(*rounds.ROOT) as session:
        session.abort(job_id)
        session.wait(job_id, 30)
    until(lambda: not [name for _, name in cluster.jobs().values() if job_id in name], what="no batch job")
    federation.release("site-2", 0)


@pytest.mark.fault("a site and its jobs' ends killed", "its batch jobs are cancelled at its next start")
def test_what_a_killed_site_has_left_is_cancelled_at_its_next_start(federation, cluster, tmp_path):
    foreign = cluster("sbatch", "--parsable", f"--job-name=site-1-{tmp_path.name}", "--hold", str(SLEEPER)).strip()
    job_id = held(federation, cluster, tmp_path)
    left = batch_jobs(cluster, job_id)[f"site-1-{job_id}"]
    cluster("scontrol", "suspend", left)  # its outpost does not see that its line breaks
    for process in near_processes(federation.workspace("site-1")):
        os.kill(process, signal.SIGKILL)
    federation.stop("site-1", signal.SIGKILL)
    assert left in cluster.jobs()
    federation.start("site-1")
    until(lambda: left not in cluster.jobs(), what="the end of what was left")
    federation.wait_for("site-1", "registered")
    said = f"The batch job {left} was left by a site that was killed, and is cancelled"
    until(lambda: said in federation.log("site-1"), what=said)
    assert foreign in cluster.jobs()
    cluster("scancel", foreign)
    federation.release("site-2", 0)
    with federation.admin(*rounds.ROOT) as session:
        session.abort(job_id)
        session.wait(job_id, 30)


@pytest.mark.nightly  # the jobs of batch jobs are the sample
def test_prepared_kits_start_by_their_script_and_in_a_batch_job(cluster, tmp_path):
    """site-1 is started by hand, site-2 is a batch job that submits others."""
    one = Federation(tmp_path)
    report = provisioner.provision(
        project.load(EXAMPLES / "hybrid" / "project.yml"),
        tmp_path / "provision",
        passphrase=b"only for this test",
        endpoint=provisioner.Endpoint(host="127.0.0.1", port=one.port),
    )
    one.kits = {**report.kits, "server": report.kits["server1"]}
    kits = {site: prepared(report.kits[site], tmp_path / site) for site in SITES}
    environment = {**os.environ, **cluster.environment, "CLOUDDEPLOY_PYTHON": sys.executable}
    one.start("server")
    one.wait_for("server", "serving")
    with (tmp_path / "site-1.out").open("wb") as out:
        by_hand = subprocess.Popen(
            [kits["site-1"].more["start_script"]], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    words = shlex.split(str(kits["site-2"].more["submit_command"]))
    submitted = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    try:
        with one.admin("admin@example.com") as session:
            until(lambda: one.connected(session) == set(SITES), what=f"both sites: {said(tmp_path)}")
            job_id = session.submit(EXAMPLES / "jobs" / "breast-cancer")
            info = session.wait(job_id, 60)
            assert (info.status, info.reason) == (JobStatus.COMPLETED, ""), said(tmp_path)
            assert info.rounds == info.total_rounds == 5
            assert info.metrics["test_accuracy"] > 0.93
        shown = cluster("scontrol", "--oneliner", "show", "job")
        assert {name for name in SITES if f"JobName={name}-{job_id}" in shown} == set(SITES)
    finally:
        cluster("scancel", "--full", submitted)
        by_hand.terminate()
        by_hand.wait(20)
        one.stop("server")
        until(lambda: submitted not in cluster.jobs(), what="the end of site-2")


def prepared(kit, output):
    """Prepare a client's kit; its workspace, with its data, is the output."""
    jobs = {"sandbox": "none", "python_path": sys.executable, "parent_host": "127.0.0.1", "poll_interval": 0.3}
    parent = {"environment_setup": f"export CLOUDDEPLOY_PYTHON={shlex.quote(sys.executable)}"}
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"runtime": "slurm", "job_launcher": jobs, "parent": parent}))
    found = preparing.prepare(kit, config=config, target=output)
    shutil.copytree(EXAMPLES / "hybrid" / "data" / output.name, output / "data")
    return found


def said(folder):
    return "".join(path.read_text()[-3000:] for path in folder.rglob("*.out")) + "".join(
        path.read_text()[-3000:] for path in folder.glob("site-*/log.txt")
    )
