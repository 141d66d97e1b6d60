"""A job in the reference's own format, on a server and two clients of real processes."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import Federation

DATA = Path(__file__).parents[1] / "unit" / "jobs" / "data"


@pytest.fixture
def running(tmp_path):
    """Return a federation of two sites that are registered."""
    one = Federation(tmp_path)
    for name in ("server", "site-1", "site-2"):
        one.start(name)
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        one.wait_for(name, state)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def test_a_job_in_hocon_is_submitted_unchanged_and_gives_the_mean_of_its_sites(running, tmp_path):
    with running.admin("root@org.example", "project_admin") as session:
        job_id = session.submit(DATA / "gather")
        info = session.wait(job_id, 30)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        assert (info.name, info.rounds, info.total_rounds, info.sites) == ("gather", 3, 3, ("site-1", "site-2"))
        result = session.download(job_id, tmp_path / "download")
        (model,) = result.rglob("global_model.safetensors")
        params = tensors.read(memoryview(model.read_bytes()))
        assert params["numpy_key"].tolist() == [[5.5, 6.5, 7.5], [8.5, 9.5, 10.5], [11.5, 12.5, 13.5]]
        with pytest.raises(InvalidJob, match=r"meta\.json"):
            session.submit(tmp_path)
