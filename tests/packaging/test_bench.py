"""What the benches print can be relied on: keys, verdicts, and that the page says what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "scripts" / "benchmarks"
KEYS = [
    "registered_s",
    "idle_client_mib",
    "idle_server_mib",
    "tiny_job_s",
    "tiny_round_s",
    "round_100mb_s",
    "round_1gb_s",
    "server_peak_gib",
    "client_peak_gib",
    "connected_clients",
    "connected_cpu_fraction",
    "site_install_mb",
    "site_packages",
    "bare_grpc_1gb_s",
    "bare_tls_1gb_s",
    "more",
]


@pytest.fixture
def bench(monkeypatch):
    """Imports one of the benches, which know each other as they do when they are run."""
    monkeypatch.syspath_prepend(str(BENCHES))
    return __import__


def run(name, *words):
    command = [sys.executable, str(BENCHES / f"{name}.py"), *words, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def readings(soak, *, hours, mib_per_hour=0.0, files_per_hour=0.0):
    """One each minute, of a process of 50 MiB whose memory goes up and down by one."""
    return [
        soak.Reading(
            at_s=minute * 60,
            memory_mib=50 + mib_per_hour * minute / 60 + minute % 3 - 1,
            whole_mib=30,
            files=20 + int(files_per_hour * minute / 60),
            threads=10,
        )
        for minute in range(int(hours * 60))
    ]


def test_each_bench_that_the_script_names_is_there():
    done = subprocess.run([str(ROOT / "scripts/bench")], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    names = done.stderr.partition("one of: ")[2].split()
    assert {"runtime", "soak", "limits", "peers", "page"} <= set(names)
    assert all((BENCHES / f"{name}.py").is_file() for name in names)


def test_what_the_bench_of_the_runtime_prints_always_has_the_same_keys(bench):
    runtime = bench("runtime")
    assert list(runtime.shaped({})) == KEYS
    found = runtime.shaped({"round_1gb_s": 6.0, "bare_grpc_1gb_s": 4.0, "bare_tls_1gb_s": 3.0, "rejoined_s": 2.0})
    assert (found["round_1gb_s"], found["tiny_job_s"], found["more"]["rejoined_s"]) == (6.0, None, 2.0)
    assert (found["more"]["of_bare_grpc"], found["more"]["of_bare_tls"]) == (1.5, 2.0)


def test_a_line_is_that_of_least_squares(bench):
    line = bench("soak").line_through([0, 1800, 3600], [10, 14, 18])
    assert (line.mib_per_hour, line.growth_percent) == pytest.approx((8, 80))


def test_memory_that_goes_up_and_down_does_not_grow(bench):
    soak = bench("soak")
    found = soak.verdict(readings(soak, hours=1))
    assert found["too_much"] == []
    assert abs(found["mib_per_hour"]) < 0.5


@pytest.mark.parametrize(
    ("growth", "what"),
    [({"mib_per_hour": 6.0}, "memory"), ({"files_per_hour": 30}, "files")],
)
def test_what_grows_is_too_much(bench, growth, what):
    soak = bench("soak")
    assert soak.verdict(readings(soak, hours=1, **growth))["too_much"] == [what]


def test_a_slow_growth_counts_when_it_goes_on_for_long(bench):
    soak = bench("soak")
    assert soak.verdict(readings(soak, hours=3, mib_per_hour=2.5))["too_much"] == ["memory"]


def test_the_page_has_what_was_measured(bench):
    page = bench("page")
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert page.written(text, page.kept(ROOT / "docs/measured")) == text, "run scripts/bench page"


def test_a_figure_over_its_limit_is_marked_and_one_that_is_not_there_is_said_to_be(bench):
    page, runtime = bench("page"), bench("runtime")
    results = {"runtime": runtime.shaped({"round_1gb_s": 7.0, "bare_grpc_1gb_s": 4.0, "bare_tls_1gb_s": 3.5})}
    figures = dict(page.blocks(results))["figures"]
    assert "| round, 1 GB | 7 s **over** | ≤ 6 s |" in figures
    assert "| round, 100 MB | not measured | ≤ 0.8 s |" in figures
    assert "1.75 times as long" in figures


def test_the_page_has_a_result_of_each_bench(bench):
    page = bench("page")
    assert page.kind_of({"registered_s": 1, "more": {}}) == "runtime"
    assert page.kind_of({"hours": 1, "must": {"mib_per_hour": 5}}) == "soak"
    assert page.kind_of({"sites_500_s": 1}) == "provision"
    assert page.kind_of({"something": 1}) == ""


def test_a_small_model_goes_there_and_back_without_a_federation():
    found = run("limits", "--megabytes", "3")
    assert found["bare_grpc_1gb_s"] > 0
    assert found["bare_tls_1gb_s"] > 0


def test_peers_that_are_not_here_are_not_measured(bench, tmp_path):
    assert bench("peers").measure([], tmp_path / "peers", megabytes=0) == {
        "nvflare": "not installed here",
        "flwr": "not installed here",
    }


@pytest.mark.nightly  # test_a_line_…, test_what_grows_… are the sample
def test_a_soak_of_seconds_leaves_nothing_behind():
    words = ["--hours", "0.003", "--warm-up", "1", "--every", "2", "--settle", "0.5", "--megabytes", "1", "--keep", "2"]
    found = run("soak", *words)
    assert found["jobs"] > 2
    assert set(found["processes"]) == {"server1", "site-1", "site-2"}
    assert set(found["left_behind"].values()) == {0}
    assert all(one["last_mib"] > 10 for one in found["processes"].values())
    assert not [reason for reason in found["reasons"] if not reason.endswith(": memory")]  # seconds say nothing of it


@pytest.mark.nightly  # a minute; the rest has its parts
def test_the_whole_bench_of_the_runtime_small():
    found = run("runtime", "--clients", "5", "--large-mb", "5")
    assert list(found) == KEYS
    assert found["connected_clients"] == 5
    assert found["round_1gb_s"] is None
    assert found["more"]["of_5_mb"]["bare_tls_1gb_s"] > 0
    assert found["site_packages"] <= 12
