"""What a parent keeps of itself in its workspace, and how it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from clouddeploy_runtime import lifecycle
from clouddeploy_runtime.errors import AlreadyRunning, ExitCode
from clouddeploy_runtime.lifecycle import RestartRequested, StatusFile, StopSignal


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.delenv(lifecycle.SUPERVISED_VARIABLE, raising=False)


def test_a_second_process_in_a_workspace_is_refused_and_leaves_the_first_ones_number(tmp_path):
    with lifecycle.only_one(tmp_path / "new"):
        path = tmp_path / "new" / "pid.fl"
        assert path.read_text() == f"{os.getpid()}\nby hand\n"
        with pytest.raises(AlreadyRunning, match="is in use"), lifecycle.only_one(tmp_path / "new"):
            pass
        assert path.read_text() == f"{os.getpid()}\nby hand\n"
    assert not path.exists()


def test_a_number_that_was_left_over_keeps_nobody_from_starting(tmp_path):
    (tmp_path / "pid.fl").write_text("1 and some more that is longer\n")
    with lifecycle.only_one(tmp_path):
        assert (tmp_path / "pid.fl").read_text() == f"{os.getpid()}\nby hand\n"


def test_the_supervisors_number_stays(tmp_path, monkeypatch):
    monkeypatch.setenv(lifecycle.SUPERVISED_VARIABLE, "1")
    (tmp_path / "pid.fl").write_text("17\n")
    with lifecycle.only_one(tmp_path):
        assert (tmp_path / "pid.fl").read_text() == "17\n"
    assert (tmp_path / "pid.fl").read_text() == "17\n"


def test_a_workspace_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    unusable = pytest.raises(lifecycle.WorkspaceUnusable, match="file/workspace")
    with unusable, lifecycle.only_one(tmp_path / "file" / "workspace"):
        pass


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    real = os.fsync

    def fsync(descriptor):
        seen.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), (tmp_path / "a").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    lifecycle.write_atomically(tmp_path / "a", b"content")
    assert seen == [(str(tmp_path / f".a.{os.getpid()}"), False), (str(tmp_path), True)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that has no room, until what this returns is called."""

    def fsync(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield patch.undo


def test_what_does_not_fit_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        lifecycle.write_atomically(tmp_path / "a", b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_status_that_cannot_be_written_is_logged_once_until_it_can(tmp_path, caplog, full_disk):
    status = StatusFile(tmp_path, name="site-1")
    status.write("starting", port=1)
    status.write("connecting", port=1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/status.json cannot be written and shows an old state: No space left on device"
    ]
    full_disk()
    status.write("registered", port=1)
    assert json.loads((tmp_path / "status.json").read_bytes())["state"] == "registered"


async def stopped(stop, act) -> None:
    waiting = asyncio.create_task(lifecycle.until(stop))
    await asyncio.sleep(0)  # it runs up to where it waits
    await asyncio.sleep(0)
    act()
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("cause", ["admin", "file", "signal"])
def test_a_parent_knows_who_asked_it_to_stop(tmp_path, cause):
    async def run():
        stop = StopSignal(tmp_path)
        acts = {
            "admin": stop.set,
            "file": (tmp_path / "shutdown.fl").touch,
            "signal": lambda: os.kill(os.getpid(), signal.SIGTERM),
        }
        await stopped(stop, acts[cause])
        assert (stop.cause, stop.is_restart) == (cause, False)

    asyncio.run(run())
    assert not (tmp_path / "shutdown.fl").exists()


def test_a_restart_leaves_by_an_error_of_its_own_and_is_no_other_exit_code(tmp_path):
    async def run():
        stop = StopSignal(tmp_path)
        await stopped(stop, stop.restart)

    with pytest.raises(RestartRequested):
        asyncio.run(run())
    assert lifecycle.RESTART_STATUS not in set(ExitCode)


def test_what_stops_already_does_not_start_again(tmp_path):
    async def run():
        stop = StopSignal(tmp_path)
        stop.set()
        stop.restart()
        await lifecycle.until(stop)
        assert (stop.cause, stop.is_restart) == ("admin", False)

    asyncio.run(run())


def test_a_lock_on_a_file_that_was_taken_away_meanwhile_does_not_count(tmp_path, monkeypatch):
    path, real = tmp_path / "pid.fl", lifecycle.fcntl.flock

    def flock(file, how):
        real(file, how)
        seen.append(how)
        if len(seen) == 1:  # who had the lock before removes the file after we have opened it
            path.unlink()
            path.touch()

    seen = []
    monkeypatch.setattr(lifecycle.fcntl, "flock", flock)
    with lifecycle.only_one(tmp_path):
        assert len(seen) == 2
        monkeypatch.undo()
        with pytest.raises(AlreadyRunning), lifecycle.only_one(tmp_path):
            pass


def test_calls_that_a_stopped_server_cuts_off_end_before_the_loop_does_and_are_no_fault(caplog):
    ended = []

    async def session(_requests, _context):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        yield b""

    async def run():
        server = grpc.aio.server()
        handlers = {"Session": grpc.stream_stream_rpc_method_handler(session)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream("/test.Calls/Session")()
            await call.write(b"first")
            await server.stop(0.05)
            await lifecycle.settle(at_most_s=5.0)
            assert ended == [True]

    asyncio.run(run())
    assert not [record for record in caplog.records if record.exc_info]


def test_what_does_not_end_holds_nobody_up_for_long():
    async def run():
        forever = asyncio.create_task(asyncio.Event().wait())
        await asyncio.wait_for(lifecycle.settle(at_most_s=0.01), 5.0)
        assert not forever.done()

    asyncio.run(run())
