"""What a site's settings, a job's end and a job's output become, without a process."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from clouddeploy_runtime import launchers
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.job import confine, landlock
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.launchers import BadLauncher, JobLaunch, ending, memory
from clouddeploy_runtime.launchers.ending import Ending, describe
from clouddeploy_runtime.launchers.output import TAIL_BYTES, Output
from clouddeploy_runtime.launchers.process import ProcessLauncher
from clouddeploy_runtime.launchers.temporary import Temporary
from clouddeploy_runtime.settings import Settings


def test_a_site_that_says_nothing_runs_confined_processes():
    assert launchers.of(Settings()) == ProcessLauncher(is_confined=True)


@pytest.mark.parametrize("name", ["docker", "k8s", "slurm", "other"])
def test_another_launcher_is_refused_by_name_with_those_that_are_known(name):
    with pytest.raises(BadLauncher) as caught:
        launchers.of(Settings(launcher=name))
    assert repr(name) in caught.value.what
    assert caught.value.why == "this version knows docker, k8s, local, process, slurm"
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    "arguments", [{"confine": "no"}, {"share_memory": 1}, {"readable": "/data"}, {"writable": ["data"]}]
)
def test_an_argument_of_the_wrong_kind_is_named(arguments):
    with pytest.raises(BadLauncher, match=next(iter(arguments))):
        launchers.of(Settings(launcher_args=arguments))


def test_a_kernel_without_landlock_is_said_once_with_what_it_means(monkeypatch, caplog):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    launchers.of(Settings())
    (record,) = caplog.records
    assert "the kernel has no Landlock" in record.getMessage()
    assert "private key" in record.getMessage()


KILLED = Ending(-9)


@pytest.mark.parametrize(
    ("known", "how"),
    [
        (Ending(0), "ended with exit code 0"),
        (Ending(101, was_memory_short=True), "ended with exit code 101"),
        (Ending(-15), "was killed by signal 15 (SIGTERM, terminated)"),
        (Ending(-11, was_memory_short=True), "was killed by signal 11 (SIGSEGV, segmentation fault)"),
        (Ending(-70), "was killed by signal 70 (unknown)"),
        (KILLED, "was killed by signal 9 (SIGKILL, killed)"),
        (replace(KILLED, was_memory_short=True), "was killed by the kernel: out of memory"),
        (replace(KILLED, was_killed=True, was_memory_short=True), "was killed by its parent"),
        (
            replace(KILLED, grace_s=10.0, was_killed=True),
            "did not end within 10 s of being asked to, and was killed",
        ),
        (replace(KILLED, fault="it sent nonsense", was_killed=True), "was ended by its parent: it sent nonsense"),
    ],
)
def test_an_end_in_words_names_site_role_and_cause(known, how):
    assert describe(known, site="site-1", role="trainer") == f"site-1: the trainer {how}"
    assert describe(known, site="server", role="controller") == f"server: the controller {how}"


def test_the_kernels_count_of_processes_ended_for_memory_can_be_read():
    assert ending.oom_kills() >= 0


def test_a_tree_without_what_is_hidden_in_it_is_its_other_entries(tmp_path):
    for name in ("kit/startup", "kit/local", "kit/workspace/jobs", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "kit" / "startup")

    def names(*hidden):
        return [str(one.relative_to(tmp_path)) for one in confine.without(tmp_path, [tmp_path / one for one in hidden])]

    assert names() == ["."]
    assert names("elsewhere") == ["data", "kit"]
    assert names("kit") == ["data"]
    assert names("kit/startup", "kit/workspace") == ["data", "kit/local"]
    assert list(confine.without(tmp_path / "kit" / "startup", [tmp_path / "kit"])) == [tmp_path / "kit" / "startup"]
    assert list(confine.without(tmp_path, [tmp_path])) == []


def printed(folder, *pieces, file_bytes=10):
    output = Output(folder, file_bytes=file_bytes)
    for piece in pieces:
        os.write(output.writer, piece)
    output.started()
    output.finish(5)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_output_goes_on_where_an_earlier_process_of_the_job_ended(tmp_path):
    printed(tmp_path, b"one\n")
    assert printed(tmp_path, b"two\n") == {"log.txt": b"one\ntwo\n"}


def test_a_full_file_is_kept_and_the_oldest_goes(tmp_path):
    for name in (b"first....\n", b"second...\n", b"third....\n"):
        printed(tmp_path, name)
    assert printed(tmp_path, b"fourth...\n") == {
        "log.txt": b"fourth...\n",
        "log.txt.1": b"third....\n",
        "log.txt.2": b"second...\n",
    }


def test_what_lies_in_the_way_of_the_older_files_does_not_lift_the_bound(tmp_path):
    for name in ("log.txt.1", "log.txt.2"):
        (tmp_path / name / "full").mkdir(parents=True)
    for _ in range(3):
        printed(tmp_path, b"123456789\n")
    assert printed(tmp_path, b"last\n") == {"log.txt": b"last\n"}


def test_a_link_or_a_pipe_in_the_place_of_the_log_loses_the_output_and_nothing_else(tmp_path):
    (tmp_path / "audit").write_bytes(b"kept")
    (tmp_path / "log.txt").symlink_to(tmp_path / "audit")
    printed(tmp_path, b"lost\n")
    (tmp_path / "log.txt").unlink()
    os.mkfifo(tmp_path / "log.txt")
    assert printed(tmp_path, b"lost\n") == {"audit": b"kept"}


def test_another_name_of_a_file_of_its_parents_is_not_written_to(tmp_path):
    (tmp_path / "audit").write_bytes(b"kept")
    (tmp_path / "run").mkdir()
    os.link(tmp_path / "audit", tmp_path / "run" / "log.txt")
    printed(tmp_path / "run", b"lost\n")
    assert (tmp_path / "audit").read_bytes() == b"kept"


def test_the_last_lines_that_were_printed_are_known_whole_whatever_lies_in_the_folder(tmp_path):
    (tmp_path / "log.txt").symlink_to(tmp_path / "key")
    lines = [f"line {number}\n".encode() for number in range(1000)]
    output = Output(tmp_path)
    for line in lines:
        os.write(output.writer, line)
    output.started()
    output.finish(5)
    assert len(output.tail()) <= TAIL_BYTES
    assert output.tail().encode() == b"".join(lines[-len(output.tail().splitlines()) :])
    short = Output(tmp_path)
    os.write(short.writer, b"one\ntwo\n")
    short.started()
    short.finish(5)
    assert short.tail() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "5000"}, 5000),
        ("0::/\n", {"memory.max": "4000"}, 4000),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "3000"}, 3000),
        ("0::/a\n", {}, None),
    ],
)
def test_the_memory_that_counts_is_the_smallest_limit_of_a_control_group(tmp_path, lines, files, limit):
    (tmp_path / "own").write_text(lines)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.limit_bytes(tmp_path / "own", tmp_path) == (limit or machine)


def test_a_job_that_cannot_be_started_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    job = JobLaunch("job", "trainer", "site-1", tmp_path, tmp_path / "run", ("site-1",), None)

    def opened():
        return sorted(one.name for one in Path("/proc/self/fd").iterdir())

    async def start():
        before = opened()
        with pytest.raises(FileNotFoundError):
            await ProcessLauncher().launch(job, BufferPool(0))
        return before

    before = asyncio.run(start())
    assert set(opened()) <= set(before)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_temporary_folders_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    used = Temporary()
    (tmp_path / "clouddeploy-job-left" / "deep").mkdir(parents=True)
    (tmp_path / "clouddeploy-new-left").mkdir()
    (tmp_path / "clouddeploy-buffer-left").touch()
    for path in (used.path, tmp_path / "clouddeploy-new-left", tmp_path / "clouddeploy-buffer-left"):
        os.utime(path, (0, 0))
    (tmp_path / "clouddeploy-new-young").mkdir()
    (tmp_path / "clouddeploy-buffer-young").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "clouddeploy-job-link").symlink_to(tmp_path / "kept")
    launchers.of(Settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["clouddeploy-job-link", "clouddeploy-new-young", "clouddeploy-buffer-young", used.path.name, "kept"]
    )
    used.remove()
    assert not used.path.exists()
