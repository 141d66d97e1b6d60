"""Processes that stand still or are killed, full disks, wrong clocks: what came of a job, and of the next one.

More of them are in test_recovery.py, test_network_cuts.py, test_refusals.py and test_supervision.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import SERVER, Authority, until
from tests.integration.rounds import TRAIN, Jobs, check_completed, job, once

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
SILENT = "The server was silent for too long; connecting again"


@pytest.fixture
def federation(tmp_path):
    one = Jobs(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(Exception):
            one.stop(name, signal.SIGKILL)


def begin_round(federation, folder, number, **given):
    """Start a job and hold both trainers in a round."""
    for site in ("site-1", "site-2"):
        federation.hold(site, number)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(folder, **given))
    for site in ("site-1", "site-2"):
        federation.wait_until_noted(site, f"begins {number}")
    return job_id


def release(federation, number):
    for site in ("site-1", "site-2"):
        federation.release(site, number)


def check_next_job_completes(federation, folder, *, rounds=2):
    check_completed(federation, federation.submit(job(folder, rounds=rounds)), rounds=rounds)


@pytest.mark.parametrize(("heartbeat", "seconds"), [("0.3", 1), pytest.param("1", 5, marks=pytest.mark.nightly)])
@pytest.mark.fault("server stands still in a round", "sites come back, exact mean")
def test_a_server_that_stood_still_in_a_round_goes_on_with_it(federation, tmp_path, heartbeat, seconds):
    federation.environment["CLOUDDEPLOY_HEARTBEAT_S"] = heartbeat
    job_id = begin_round(federation, tmp_path / "job", 1)
    federation.processes["server"].send_signal(signal.SIGSTOP)
    since = time.monotonic()
    release(federation, 1)
    for site in ("site-1", "site-2"):
        federation.wait_until_noted(site, "ends 1")
        until(lambda site=site: SILENT in federation.log(site), what=f"{site} has noticed it")
    until(lambda: time.monotonic() - since > seconds, what="the end of the pause")
    federation.processes["server"].send_signal(signal.SIGCONT)
    check_completed(federation, job_id, rounds=2)
    for site in ("site-1", "site-2"):
        assert federation.noted(site) == once(2)
    assert "Traceback" not in federation.all_logs()


@pytest.mark.fault("client stands still in a round", "the round waits for it, exact mean")
def test_a_round_waits_for_a_client_that_stood_still(federation, tmp_path):
    federation.environment["CLOUDDEPLOY_HEARTBEAT_S"] = "0.3"
    job_id = begin_round(federation, tmp_path / "job", 1)
    federation.processes["site-2"].send_signal(signal.SIGSTOP)
    release(federation, 1)
    federation.wait_until_noted("site-2", "ends 1")  # a trainer is a process of its own
    until(lambda: "Client site-2 is gone" in federation.log("server"), what="the server has noticed it")
    federation.processes["site-2"].send_signal(signal.SIGCONT)
    check_completed(federation, job_id, rounds=2)
    assert federation.noted("site-2") == once(2)
    assert "Traceback" not in federation.all_logs()


@pytest.mark.nightly
@pytest.mark.fault("trainer stands still", "its time limit ends the job and names the site")
def test_a_trainer_that_stands_still_ends_at_the_tasks_time_limit(federation, tmp_path):
    job_id = begin_round(federation, tmp_path / "job", 1, custom_props={"task_timeout": 2})
    pid = federation.job_process("site-2")
    os.kill(pid, signal.SIGSTOP)
    release(federation, 1)
    info = federation.ended(job_id)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert "site-2: task 'train' of round 1 took longer than 2 s" in info.reason
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of a trainer that hears nothing")
    assert federation.status("site-2") == "registered"
    check_next_job_completes(federation, tmp_path / "next")


@pytest.mark.fault("controller killed", "the job ends and names the server, the next one runs")
def test_a_killed_controller_ends_its_job_and_not_the_server(federation, tmp_path):
    job_id = begin_round(federation, tmp_path / "job", 1)
    os.kill(federation.job_process("server"), signal.SIGKILL)
    info = federation.ended(job_id)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert info.reason == "server: the controller was killed by signal 9 (SIGKILL, killed)"
    release(federation, 1)
    check_next_job_completes(federation, tmp_path / "next")
    assert "Traceback" not in federation.all_logs()


@pytest.mark.fault("trainer killed in a round", "it is started again, exact mean")
def test_a_killed_trainer_is_started_again_with_its_task(federation, tmp_path):
    job_id = begin_round(federation, tmp_path / "job", 1)
    os.kill(federation.job_process("site-2"), signal.SIGKILL)
    said = "site-2: the trainer was killed by signal 9 (SIGKILL, killed)"
    until(lambda: said in federation.log("server"), what=federation.log("server"))
    release(federation, 1)
    check_completed(federation, job_id, rounds=2)
    assert federation.noted("site-2") == ["begins 0", "ends 0", "begins 1", "begins 1", "ends 1"]


class Disk:
    """A disk of its own for a folder, small enough to be filled."""

    def __init__(self, folder: Path, *, mib: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._filler = folder / "filler"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for piece in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(piece))

    def make_room(self) -> None:
        self._filler.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk that can be filled takes root")
FULL = os.strerror(errno.ENOSPC)


@needs_root
@pytest.mark.root
@pytest.mark.fault("server's disk is full in a round", "the job ends and says so, the next one runs")
def test_a_full_disk_at_the_server_ends_the_job_and_not_the_server(federation, tmp_path):
    with contextlib.closing(Disk(federation.workspace("server"), mib=8)) as disk:
        job_id = begin_round(federation, tmp_path / "job", 1, size=1 << 15)
        disk.fill()
        release(federation, 1)
        said = f"The end of job {job_id} cannot be recorded yet"
        until(lambda: said in (tmp_path / "server.out").read_text(), what=(tmp_path / "server.out").read_text())
        disk.make_room()
        info = federation.ended(job_id)
        assert info.status is JobStatus.EXECUTION_EXCEPTION
        assert info.reason.startswith("server: ")
        assert FULL in info.reason
        check_next_job_completes(federation, tmp_path / "next")
        for name in list(federation.processes):
            federation.stop(name)


@pytest.mark.nightly
@needs_root
@pytest.mark.root
@pytest.mark.fault("client's disk is full", "the job ends and names the site, the next one runs")
def test_a_full_disk_at_a_client_ends_the_job_and_not_the_client(federation, tmp_path):
    """In the middle of a round, and before the job's folder is there."""
    script = TRAIN.replace("    # here", "    if step == 3:\n        open('much', 'w').write('x' * (1 << 20))")
    with contextlib.closing(Disk(federation.workspace("site-2"), mib=8)) as disk:
        job_id = begin_round(federation, tmp_path / "job", 0, script=script)
        disk.fill()
        release(federation, 0)
        info = federation.ended(job_id)
        assert info.status is JobStatus.EXECUTION_EXCEPTION
        assert f"site-2: OSError: [Errno {errno.ENOSPC}] {FULL} (train.py, line " in info.reason
        disk.fill()
        info = federation.ended(federation.submit(job(tmp_path / "second")))
        assert info.status is JobStatus.FAILED_TO_RUN
        assert "site-2: " in info.reason
        assert FULL in info.reason
        disk.make_room()
        check_next_job_completes(federation, tmp_path / "third")
        for name in list(federation.processes):
            federation.stop(name)


def turned(hours):
    """Return the start of a command whose process has another clock."""
    return ["env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME={hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")


@pytest.fixture
def lasting(federation):
    """A federation whose certificates were made two days ago, and the server's a moment ago."""
    authority = Authority(
        federation.folder / "lasting", port=federation.port, age=timedelta(days=2), validity=timedelta(days=10)
    )
    federation.authority = authority
    for site in ("site-1", "site-2"):
        federation.client_kit(site)
    authority.age = timedelta(minutes=5)
    return renewed(federation)


def renewed(federation):
    """Give the server a kit with a certificate of now."""
    shutil.rmtree(federation.authority.folder / SERVER, ignore_errors=True)
    federation.kits["server"] = federation.authority.server()
    return federation


REFUSED = "A connection was refused in its TLS handshake: the other side "


@pytest.mark.nightly
@needs_faketime
@pytest.mark.fault("client's clock a day ahead", "it says so, jobs complete")
def test_a_client_whose_clock_is_ahead_says_so_and_works(lasting, tmp_path):
    lasting.prefixes["site-2"] = turned(+24)
    lasting.begin("site-1", "site-2")
    until(lambda: re.search(r"clock is 86\d{3} s ahead of the server's", lasting.log("site-2")), what="the warning")
    assert "clock is" not in lasting.log("site-1")
    check_next_job_completes(lasting, tmp_path / "job")


@pytest.mark.nightly
@needs_faketime
@pytest.mark.fault("client's clock a day behind", "refused, named on both sides")
def test_a_client_for_whom_the_servers_certificate_is_not_valid_yet_is_named_on_both_sides(lasting):
    lasting.prefixes["site-1"] = turned(-24)
    lasting.start("server")
    lasting.wait_for("server", "serving")
    lasting.start("site-1")
    said = "The server's certificate is refused: it is not valid yet: its time begins"
    until(lambda: said in lasting.log("site-1"), what=lasting.log("site-1"))
    said = REFUSED + "does not accept this server's certificate"
    until(lambda: said in lasting.log("server"), what=lasting.log("server"))


@pytest.mark.nightly
@needs_faketime
@pytest.mark.fault("server's clock a day behind", "refused, named on both sides")
def test_a_server_for_which_a_clients_certificate_is_not_valid_yet_is_named_on_both_sides(lasting):
    lasting.authority.age = timedelta(days=2)
    renewed(lasting)
    lasting.authority.age = timedelta(minutes=5)
    shutil.rmtree(lasting.kits.pop("site-1"))
    lasting.client_kit("site-1")
    lasting.prefixes["server"] = turned(-24)
    lasting.start("server")
    lasting.wait_for("server", "serving")
    lasting.start("site-1")
    said = "the clock of one of the two machines is wrong"
    until(lambda: said in lasting.log("site-1"), what=lasting.log("site-1"))
    said = "the other side's certificate is not valid yet: compare the clocks of both machines"
    until(lambda: said in lasting.log("server"), what=lasting.log("server"))


@pytest.mark.nightly
@needs_faketime
@pytest.mark.fault("clock outside the kit's time at start", "it does not start and says why")
@pytest.mark.parametrize(("hours", "said"), [(-24, "is not valid yet"), (+48, "has expired")], ids=["before", "after"])
def test_a_clock_outside_the_time_of_the_kit_keeps_a_client_from_starting(federation, hours, said):
    federation.prefixes["site-1"] = turned(hours)
    assert federation.start("site-1").wait(20) == 4
    out = (federation.folder / "site-1.out").read_text()
    assert re.search(rf"startup/\S+ {said}", out)
    assert "Traceback" not in out


@pytest.mark.nightly
@pytest.mark.fault("server's certificate expired", "named on both sides")
def test_a_server_whose_certificate_expired_is_named_on_both_sides(federation):
    federation.client_kit("site-1")
    federation.authority.validity = timedelta(seconds=3)
    renewed(federation)
    federation.start("server")
    federation.wait_for("server", "serving")
    until(lambda: "this server's certificate has expired on" in federation.log("server"), what="the certificate's end")
    federation.start("site-1")
    said = "The server's certificate is refused: it expired on"
    until(lambda: said in federation.log("site-1"), what=federation.log("site-1"))
    said = REFUSED + "says that this server's certificate has expired"
    until(lambda: said in federation.log("server"), what=federation.log("server"))


@pytest.mark.nightly
@pytest.mark.fault("server of another project", "named on both sides")
def test_a_server_of_another_authority_is_named_on_both_sides(federation):
    federation.client_kit("site-1")
    federation.authority = Authority(federation.folder / "others", port=federation.port)
    renewed(federation)
    federation.start("server")
    federation.wait_for("server", "serving")
    federation.start("site-1")
    said = "The server's certificate was issued by another authority"
    until(lambda: said in federation.log("site-1"), what=federation.log("site-1"))
    said = REFUSED + "does not accept this server's certificate"  # both authorities have one name
    until(lambda: said in federation.log("server"), what=federation.log("server"))
