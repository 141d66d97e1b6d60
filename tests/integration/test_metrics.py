"""A real server's endpoint: counters move with a job, its series end with it; each round reaches who watches."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from clouddeploy_runtime.jobs import JobStatus
from prometheus_client.parser import text_string_to_metric_families

from clouddeploy.cli.job import job as job_command
from tests.integration.federation import Federation, until
from tests.integration.rounds import ROOT, Jobs, job


@pytest.fixture
def federation(tmp_path):
    one = Jobs(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def page(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def numbers(port):
    status, text = page(port, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("clouddeploy_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def listening(process):
    """The ports of TCP on which a process listens."""
    own, root = set(), Path(f"/proc/{process.pid}")
    lines = [line for name in ("tcp", "tcp6") for line in (root / "net" / name).read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    for entry in (root / "fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(str(entry.readlink()))
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


def test_without_being_asked_the_server_has_its_one_port(tmp_path):
    one = Federation(tmp_path)
    process = one.start("server")
    try:
        one.wait_for("server", "serving")
        assert listening(process) == {one.port}
    finally:
        one.stop("server")


def test_counters_move_with_a_job_and_its_series_end_with_it(federation, tmp_path):
    port = free_port()
    component = {"id": "metrics_endpoint", "args": {"port": port}}
    (federation.kits["server"] / "local/resources.json").write_text(json.dumps({"components": [component]}))
    federation.hold("site-1", 1)
    federation.begin("site-1", "site-2")
    assert page(port, "/healthz") == page(port, "/readyz") == (200, '{"status": "ok", "problems": {}}\n')
    assert page(port, "/")[0] == page(port, "/metrics/")[0] == 404
    before = numbers(port)
    assert (before["sites_connected",], before["registrations_total",]) == (2, 2)
    job_id = federation.submit(job(tmp_path / "job", rounds=2, size=100_000))
    until(lambda: numbers(port).get(("job_rounds_finished", job_id)) == 1, what="the first round")
    during = until(lambda: (found := numbers(port))["open_tasks",] == 1 and found, what="one open task")
    assert during["jobs", "RUNNING"] == during["round_seconds_count",] == 1
    assert during["shared_memory_bytes",] > 800_000
    federation.release("site-1", 1)
    assert federation.ended(job_id).status is JobStatus.COMPLETED
    after = until(lambda: (found := numbers(port))["jobs", "RUNNING"] == 0 and found, what="the end")
    assert job_id not in page(port, "/metrics")[1]
    assert after["round_seconds_count",] == 2
    for site in ("site-1", "site-2"):
        assert after["sent_bytes_total", site] > after["received_bytes_total", site] > 1_600_000
    assert after["upload_seconds_count",] == 4
    assert after["jobs", "FINISHED:COMPLETED"] == 1


def test_a_refused_site_is_counted_with_the_cause(federation):
    federation.environment["CLOUDDEPLOY_METRICS"] = f"127.0.0.1:{free_port()}"
    federation.start("server")
    federation.wait_for("server", "serving")
    port = int(federation.environment["CLOUDDEPLOY_METRICS"].rpartition(":")[2])
    with federation.admin(*ROOT) as session:
        session.disable_client("site-1")
    federation.start("site-1")
    until(lambda: numbers(port)["refusals_total", "disabled"] >= 1, what="the refusal")


def test_each_round_reaches_who_watches_once_although_the_server_is_killed_meanwhile(federation, tmp_path):
    federation.hold("site-1", 1)
    federation.begin("site-1", "site-2")
    with federation.admin(*ROOT) as session:
        job_id = session.submit(job(tmp_path / "job", rounds=3, size=1000))
        seen, killed = [], []
        for info in session.watch(job_id, timeout_s=30):
            seen.append([one.round for one in info.history])
            if seen[-1] == [1] and len(info.history) == 1:
                if "server" in killed:
                    continue
                killed.append("server")
                federation.stop("server", signal.SIGKILL)
                federation.start("server")
                federation.release("site-1", 1)
        assert [1] in seen
        assert seen[-1] == [1, 2, 3]
        first = info.history[0]
        assert (first.answered, first.failed, first.metrics) == (2, 0, {"loss": 1.0})
        assert first.seconds > 0
        assert first.bytes_down > 16_000
        assert first.bytes_up > 16_000
        assert session.job_rounds(job_id, after=2) == info.history[2:]
        result = session.download(job_id, tmp_path / "out")
        assert len((result / "workspace/rounds.jsonl").read_bytes().splitlines()) == 3
    kit = str(federation.kits[ROOT[0]])
    told = CliRunner().invoke(job_command, ["monitor", job_id, "--startup-kit", kit])
    assert told.exit_code == 0, told.output
    assert "round 2 of 3" in told.output
    assert "loss 1  0.0 MiB down, 0.0 MiB up  2 sites" in told.output
    told = CliRunner().invoke(job_command, ["monitor", job_id, "--startup-kit", kit, "--output", "json"])
    envelope = json.loads(told.stdout)
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert lines == envelope["data"]["rounds"]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert envelope["data"]["job"]["status"] == JobStatus.COMPLETED
