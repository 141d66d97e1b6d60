"""What is lost when a process or a line dies in the middle of a job: time, and nothing else.

The trainers compute with whole numbers, so that one update too many or too few shows in the result.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import pytest
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import until
from tests.integration.rounds import TRAIN, Jobs, check_completed, job, once


@pytest.fixture
def federation(tmp_path):
    one = Jobs(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(Exception):
            one.stop(name, signal.SIGKILL)


@pytest.mark.fault("server killed, then stopped, in a round", "job goes on in its round, exact mean")
def test_a_job_goes_on_in_its_round_after_the_server_was_killed_or_stopped(federation, tmp_path):
    """Trainers keep running, results are kept while nobody can take them, and each counts once."""
    federation.hold("site-1", 1)
    federation.hold("site-2", 1)
    federation.hold("site-2", 2)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", rounds=3))
    for site in ("site-1", "site-2"):
        federation.wait_until_noted(site, "begins 1")
    federation.stop("server", signal.SIGKILL)
    for site in ("site-1", "site-2"):
        federation.release(site, 1)
        federation.wait_until_noted(site, "ends 1")
    federation.start("server")
    federation.wait_until_noted("site-1", "ends 2")
    federation.wait_until_noted("site-2", "begins 2")
    assert federation.noted("site-1") == once(3)
    federation.stop("server", signal.SIGTERM)
    federation.start("server")
    federation.wait_for("server", "serving")
    federation.release("site-2", 2)
    check_completed(federation, job_id, rounds=3)
    assert federation.noted("site-2") == once(3)
    result = federation.workspace("server") / "jobs" / job_id / "result"
    assert not list(result.glob("checkpoint*"))
    assert "Traceback" not in federation.all_logs()


@pytest.mark.fault("server killed while it writes a large model", "job goes back a round, exact mean")
def test_a_job_goes_back_a_round_when_the_server_was_killed_before_the_model_was_on_the_disk(federation, tmp_path):
    """Sites that are a round further by then do the one before again, and what they had begun as well."""
    for site in ("site-1", "site-2"):
        federation.hold(site, 1)
        federation.hold(site, 2)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", rounds=3))
    result = federation.workspace("server") / "jobs" / job_id / "result"
    for site in ("site-1", "site-2"):
        federation.wait_until_noted(site, "begins 1")
    kept = {path: path.read_bytes() for path in result.glob("checkpoint*")}
    assert kept
    for site in ("site-1", "site-2"):
        federation.release(site, 1)
    for site in ("site-1", "site-2"):
        federation.wait_until_noted(site, "begins 2")
    federation.stop("server", signal.SIGKILL)
    for path in result.glob("checkpoint*"):
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    federation.start("server")
    for site in ("site-1", "site-2"):
        federation.release(site, 2)
    check_completed(federation, job_id, rounds=3)
    assert "Traceback" not in federation.all_logs()


@pytest.mark.fault("client killed in a round", "the round waits for it, exact mean")
def test_a_round_waits_for_a_client_that_was_killed_and_comes_back(federation, tmp_path):
    federation.hold("site-2", 1)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job"))
    federation.wait_until_noted("site-2", "begins 1")
    federation.stop("site-2", signal.SIGKILL)
    federation.release("site-2", 1)
    federation.start("site-2")
    check_completed(federation, job_id, rounds=2)
    assert federation.noted("site-2") == ["begins 0", "ends 0", "begins 1", "begins 1", "ends 1"]


@pytest.mark.fault("client killed, enough are left", "the round goes on with the rest")
def test_a_round_goes_on_without_a_killed_client_when_enough_are_left(federation, tmp_path):
    federation.hold("site-3", 0)
    federation.begin("site-1", "site-2", "site-3")
    federation.hold("site-1", 1)
    job_id = federation.submit(job(tmp_path / "job", num_clients=2, min_clients=3))
    federation.wait_until_noted("site-3", "begins 0")
    federation.stop("site-3", signal.SIGKILL)
    federation.wait_until_noted("site-1", "begins 1")
    federation.release("site-1", 1)
    check_completed(federation, job_id, rounds=2)


@pytest.mark.fault("client killed for good", "the job ends and names the site")
def test_a_client_that_does_not_come_back_ends_a_job_that_needs_it_and_is_named(federation, tmp_path):
    federation.hold("site-2", 0)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", rejoin_timeout=0.5))
    federation.wait_until_noted("site-2", "begins 0")
    federation.stop("site-2", signal.SIGKILL)
    info = federation.ended(job_id)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert "site-2: no connection for 0.5 s" in info.reason


class Proxy:
    """Passes bytes on, and leaves one client in the middle of an upload; the server is not told."""

    def __init__(self, target: int, *, limit: int) -> None:
        self._target = target
        self._limit = limit
        self.has_cut = False
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._kept += (client, server)
                for source, sink, is_up in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=(source, sink, is_up), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if is_up and passed > self._limit and not self.has_cut:
                    self.has_cut = True
                    source.shutdown(socket.SHUT_RDWR)
                    return  # the server's side stays open and silent
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._kept):
            one.close()


@pytest.mark.fault("link cut in the middle of an upload", "sent again, counts once, exact mean")
def test_an_upload_that_was_cut_in_the_middle_is_sent_again_and_counts_once(federation, tmp_path):
    """The server still waits for the rest of the first one when the second one comes."""
    proxy = Proxy(federation.port, limit=1 << 20)
    try:
        federation.authority.port = proxy.port
        federation.client_kit("site-1")
        federation.authority.port = federation.port
        federation.begin("site-1", "site-2")
        job_id = federation.submit(job(tmp_path / "job", size=1 << 19))
        check_completed(federation, job_id, rounds=2)
        assert proxy.has_cut
        assert federation.noted("site-1") == once(2)
    finally:
        proxy.close()


@pytest.mark.nightly  # trainers that crash are the sample
@pytest.mark.fault("endless loop in a trainer", "its time limit ends the job and names the site")
def test_an_endless_loop_ends_at_the_tasks_time_limit_and_the_site_is_named(federation, tmp_path):
    script = TRAIN.replace("    # here", "    while step == 3:\n        pass")
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", script=script, custom_props={"task_timeout": 1.5}))
    info = federation.ended(job_id)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert "site-2: task 'train' of round 0 took longer than 1.5 s" in info.reason
    until(lambda: f"Job {job_id} ended" in federation.log("site-2"), what="the end of the trainer")


@pytest.mark.nightly  # test_faults.py kills one
@pytest.mark.fault("trainer crashes once", "it is started again, exact mean")
def test_a_trainer_that_crashed_once_is_started_again_and_its_task_with_it(federation, tmp_path):
    crash = "    if step == 3 and number == 1 and not os.path.exists('crashed'):\n"
    crash += "        open('crashed', 'w').close()\n        os._exit(7)"
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", script=TRAIN.replace("    # here", crash)))
    check_completed(federation, job_id, rounds=2)
    assert federation.noted("site-2") == ["begins 0", "ends 0", "begins 1", "begins 1", "ends 1"]
    assert "site-2: the trainer ended with exit code 7" in federation.log("server")


@pytest.mark.fault("trainer crashes in a loop", "the job ends, with site, cause and last words")
def test_a_trainer_that_always_crashes_ends_its_job_and_is_named_with_its_last_words(federation, tmp_path):
    crash = "    if step == 3:\n        print('these are', flush=True)\n        os._exit(7)"
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", script=TRAIN.replace("    # here", crash)))
    info = federation.ended(job_id)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert "site-2: the trainer ended with exit code 7" in info.reason
    assert federation.noted("site-2") == ["begins 0"] * 3
    words = federation.workspace("server") / "jobs" / job_id / "ERRORLOG_site-2"
    assert "these are" in words.read_text()
    until(lambda: not list(federation.workspace("site-2").glob("jobs/*/job")), what="the job's folder gone")


@pytest.mark.nightly  # test_metrics.py is the sample
def test_many_metrics_arrive(federation, tmp_path):
    many = TRAIN.replace('{"loss": 1.0}', "{f'metric number {n}': float(n) for n in range(3000)}")
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", rounds=1, script=many))
    info = check_completed(federation, job_id, rounds=1)
    assert info.metrics["metric number 2999"] == 2999.0
