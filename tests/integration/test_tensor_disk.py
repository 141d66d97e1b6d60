"""Jobs whose tensors go to files: in which folder, what keeps them from it, and what is left there when they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import safetensors
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import until
from tests.integration.rounds import ROOT, Jobs, check_completed, job

MIB = 1 << 20
SIZE = 1 << 16
"""Numbers in the model, of eight bytes each."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own takes root")


class OnDisk(Jobs):
    """A federation whose processes each have a temporary folder of their own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.temporary: dict[str, Path] = {}
        for name in ("server", "site-1", "site-2"):
            self.put(name, folder / f"temporary-{name}")

    def put(self, name: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.temporary[name] = folder
        self.prefixes[name] = ["env", f"TMPDIR={folder}"]

    def keep_on_disk(self, name: str) -> None:
        """Have a site keep the tensors of all jobs in files."""
        kit = self.kits["server"] if name == "server" else self.client_kit(name)
        component = {"id": "tensor_memory", "args": {"enable_tensor_disk_offload": True}}
        (kit / "local" / "resources.json").write_text(json.dumps({"components": [component]}))

    def files(self, name: str) -> list[str]:
        """Return the files in its temporary folder that a process has mapped; they have no name."""
        maps = Path(f"/proc/{self.processes[name].pid}/maps").read_text().splitlines()
        return [line for line in maps if f" {self.temporary[name]}/" in line and line.endswith("(deleted)")]

    def memory(self, name: str) -> list[str]:
        maps = Path(f"/proc/{self.processes[name].pid}/maps").read_text().splitlines()
        return [line for line in maps if "memfd:clouddeploy-buffer" in line and line.split()[1].startswith("rw")]

    def left(self) -> list[str]:
        return sorted(f"{name}: {one.name}" for name, folder in self.temporary.items() for one in folder.iterdir())


@pytest.fixture
def federation(tmp_path):
    one = OnDisk(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(Exception):
            one.stop(name, signal.SIGKILL)


def asking(folder: Path, *, numbers=SIZE, **given) -> Path:
    """A job whose workflow asks for the disk."""
    made = job(folder, size=numbers, **given)
    path = made / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    (workflow,) = config["workflows"]
    workflow["path"] = "nvflare.app_common.workflows.fedavg.FedAvg"
    workflow["args"] |= {"enable_tensor_disk_offload": True}
    path.write_text(json.dumps(config))
    return made


def begin_second_round(federation, folder):
    federation.hold("site-2", 1)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(asking(folder))
    federation.wait_until_noted("site-1", "ends 1")
    federation.wait_until_noted("site-2", "begins 1")
    return job_id


@pytest.mark.fault("job keeps its tensors on disk", "exact mean, nothing is left, abort included")
def test_a_job_that_asks_for_it_has_the_servers_tensors_in_files_of_which_nothing_is_left(federation, tmp_path):
    """The argument is about the server; at a site the site decides, as site-2 does here."""
    federation.keep_on_disk("site-2")
    job_id = begin_second_round(federation, tmp_path / "job")
    assert federation.files("server")
    assert federation.memory("server") == []
    assert (federation.files("site-1"), federation.memory("site-2")) == ([], [])
    assert federation.files("site-2")
    assert federation.memory("site-1")
    federation.release("site-2", 1)
    check_completed(federation, job_id, rounds=2)
    until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")
    until(lambda: not federation.files("server") and not federation.files("site-2"), what="all files are let go")

    federation.hold("site-1", 0)
    aborted = federation.submit(asking(tmp_path / "aborted"))
    federation.wait_until_noted("site-2", "ends 0")
    with federation.admin(*ROOT) as session:
        session.abort(aborted)
        assert session.wait(aborted, 20).status is JobStatus.ABORTED
    until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")
    until(lambda: not federation.files("server") and not federation.files("site-2"), what="all files are let go")
    federation.release("site-1", 0)

    script = "raise ValueError('no')\n"
    failed = federation.ended(federation.submit(asking(tmp_path / "failed", script=script)))
    assert failed.status is JobStatus.EXECUTION_EXCEPTION
    until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")
    assert "temporary folder" not in federation.all_logs()


@pytest.mark.fault("server and client killed while tensors are on disk", "job goes on, nothing is left")
def test_processes_that_were_killed_leave_no_tensors_and_the_next_start_removes_the_rest(federation, tmp_path):
    job_id = begin_second_round(federation, tmp_path / "job")
    for name in ("server", "site-2"):
        federation.stop(name, signal.SIGKILL)
    assert [one for one in federation.left() if "clouddeploy-job-" not in one] == []
    killed = [one for one in federation.left() if not one.startswith("site-1")]
    assert [one.partition(":")[0] for one in killed] == ["server", "site-2"]
    federation.release("site-2", 1)
    for name in ("server", "site-2"):
        federation.start(name)
    check_completed(federation, job_id, rounds=2)
    until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")


@pytest.mark.nightly  # the job that asks for the disk is the sample
@pytest.mark.fault("temporary folder is in memory", "jobs that want the disk are refused and name it, others run")
def test_a_temporary_folder_in_memory_refuses_the_jobs_that_want_the_disk_and_no_others(federation, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name in ("server", "site-2"):
            federation.put(name, Path(folder) / name)
        federation.begin("site-1", "site-2")
        problem = "the temporary folder {} is in memory (tmpfs) and not on a disk"
        for name in ("server", "site-2"):
            said = f"Tensors that memory has no room for may be lost: {problem.format(federation.temporary[name])}"
            assert said in federation.log(name)
        info = federation.ended(federation.submit(asking(tmp_path / "refused")))
        assert info.status is JobStatus.FAILED_TO_RUN
        where = problem.format(federation.temporary["server"])
        assert info.reason == f"server: tensors cannot be kept on disk: {where}"
        check_completed(federation, federation.submit(job(tmp_path / "other")), rounds=2)

        federation.stop("site-2")
        federation.keep_on_disk("site-2")
        federation.start("site-2")
        federation.wait_for("site-2", "registered")
        where = problem.format(federation.temporary["site-2"])
        assert f"Jobs are refused here, since tensors are to be kept on disk: {where}" in federation.log("site-2")
        info = federation.ended(federation.submit(job(tmp_path / "site")))
        assert info.status is JobStatus.FAILED_TO_RUN
        assert f"site-2: tensors cannot be kept on disk: {where}" in info.reason
        until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")


@contextlib.contextmanager
def disk(folder: Path, *, mib: int):
    """An ext4 of its own."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, free: int) -> Path:
    filler = folder / "filler"
    left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - free
    with filler.open("wb") as file, contextlib.suppress(OSError):  # the file system takes a little for itself
        for begin in range(0, left, 1 << 12):
            os.posix_fallocate(file.fileno(), begin, 1 << 12)
    return filler


@pytest.mark.nightly  # the job that asks for the disk is the sample
@needs_root
@pytest.mark.root
@pytest.mark.fault("temporary folder is full", "jobs that want the disk are refused and name it, the next one runs")
def test_a_full_temporary_folder_refuses_a_job_that_wants_the_disk_and_the_next_one_runs(federation, tmp_path):
    with disk(tmp_path / "disk", mib=96) as folder:
        federation.put("server", folder)
        filler = fill(folder, free=8 * MIB)
        federation.begin("site-1", "site-2")
        assert f"the temporary folder {folder} has " in federation.log("server")
        info = federation.ended(federation.submit(asking(tmp_path / "refused")))
        assert info.status is JobStatus.FAILED_TO_RUN
        assert f"tensors cannot be kept on disk: the temporary folder {folder} has 7 MiB free" in info.reason
        filler.unlink()
        check_completed(federation, federation.submit(asking(tmp_path / "next")), rounds=2)
        until(lambda: federation.left() == ["server: lost+found"], what=f"nothing is left of {federation.left()}")
        for name in list(federation.processes):
            federation.stop(name)


@pytest.mark.nightly
@needs_root
@pytest.mark.root
@pytest.mark.fault("temporary folder becomes full in a round", "the job ends and names it, the next one runs")
def test_a_temporary_folder_that_becomes_full_in_a_round_ends_the_job_and_the_next_one_runs(federation, tmp_path):
    with disk(tmp_path / "disk", mib=96) as folder:
        federation.put("server", folder)
        federation.hold("site-1", 0)
        federation.hold("site-2", 0)
        federation.begin("site-1", "site-2")
        job_id = federation.submit(asking(tmp_path / "job"))
        for site in ("site-1", "site-2"):
            federation.wait_until_noted(site, "begins 0")
        filler = fill(folder, free=0)
        for site in ("site-1", "site-2"):
            federation.release(site, 0)
        info = federation.ended(job_id)
        assert info.status is JobStatus.EXECUTION_EXCEPTION
        assert f"the temporary folder {folder} is full or cannot be used" in info.reason
        filler.unlink()
        check_completed(federation, federation.submit(asking(tmp_path / "next")), rounds=2)
        until(lambda: federation.left() == ["server: lost+found"], what=f"nothing is left of {federation.left()}")
        for name in list(federation.processes):
            federation.stop(name)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_model_of_two_and_a_half_gib_is_trained_on(federation, tmp_path):
    """In one piece, and beyond what 32 bits with a sign count: to the site, back, and into the result."""
    federation.keep_on_disk("site-1")
    federation.begin("site-1")
    numbers = (5 << 29) // 8
    folder = asking(tmp_path / "job", rounds=1, min_clients=1, numbers=numbers, num_clients=1)
    job_id = federation.submit(folder)
    info = federation.ended(job_id, 500)
    assert (info.status, info.reason) == (JobStatus.COMPLETED, ""), federation.all_logs()
    result = federation.workspace("server") / "jobs" / job_id / "result" / "global_model.safetensors"
    assert result.stat().st_size > numbers * 8
    with safetensors.safe_open(result, framework="numpy") as model:
        found = model.get_slice("w")
        assert found.get_shape() == [numbers]
        assert {*found[:5], *found[numbers // 2 : numbers // 2 + 5], *found[numbers - 5 : numbers]} == {1.0}
    until(lambda: federation.left() == [], what=f"nothing is left of {federation.left()}")
