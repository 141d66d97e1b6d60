"""The job that the page on the job format shows, run as it stands there."""

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import Federation
from tests.packaging.pages import documented_job

NUMBERS = {"site-1": "1\n2\n3\n", "site-2": "6\n"}


@pytest.fixture
def running(tmp_path):
    one = Federation(tmp_path)
    for name in ("server", *NUMBERS):
        one.start(name)
    for name, numbers in NUMBERS.items():
        (one.workspace(name) / "data").mkdir()
        (one.workspace(name) / "data" / "numbers.txt").write_text(numbers)
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        one.wait_for(name, state)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def test_the_job_on_the_page_finds_the_mean_of_all_numbers(running, tmp_path):
    with running.admin() as session:
        info = session.wait(session.submit(documented_job(tmp_path)), 30)
        assert (info.status, info.reason, info.rounds) == (JobStatus.COMPLETED, "", 3)
        result = session.download(info.job_id, tmp_path / "results") / "workspace"
    model = tensors.read(memoryview((result / "global_model.safetensors").read_bytes()))
    assert model["mean"].tolist() == [3.0]
    assert info.metrics == json.loads((result / "metrics.json").read_text())["rounds"][-1]
    assert (running.workspace("site-1") / "jobs" / info.job_id / "run" / "log.txt").is_file()
