"""Calls of people that end otherwise than they began: locked out, silent, cancelled, too much for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import grpc
import msgspec
import pytest
from clouddeploy_runtime import jobs, tls
from clouddeploy_runtime.admin.replies import translated
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.errors import InvalidJob, InvalidTarget, JobNotFound, ServerBusy, SessionExpired
from clouddeploy_runtime.job import log_level
from clouddeploy_runtime.server import commands, endings, submissions
from clouddeploy_runtime.server.logins import Login
from clouddeploy_runtime.server.people import PeopleCalls
from clouddeploy_runtime.wire import rpc

from tests.integration.federation import tiny_job
from tests.unit.runtime_net.test_server_edges import play, server, while_serving

__all__ = ["server"]  # a fixture

ANN = tls.Peer(name="ann", org="org", role="lead")


def sent(session, requests):
    """Submit what comes; returns the job's id."""
    try:
        return session._channel.stream_unary(rpc.SUBMIT)(requests, timeout=5, metadata=((rpc.SIGNED_KEY, "1"),))
    except grpc.RpcError as exc:
        raise translated(exc) from exc


def test_who_is_locked_out_while_a_job_comes_submits_nothing(server, tmp_path):
    folder = tiny_job(tmp_path / "job")

    async def scenario():
        loop = asyncio.get_running_loop()

        def lock_out():
            return server.gate.logins.end_where(lambda login: login.peer.name == "ann", "the certificate was revoked")

        def talk():
            with server.person() as session:

                def requests():
                    yield session._signatures.job(folder, study="default")
                    asyncio.run_coroutine_threadsafe(asyncio.to_thread(lambda: None), loop).result(5)
                    loop.call_soon_threadsafe(lock_out)
                    yield jobs.pack(folder)

                with pytest.raises(SessionExpired, match="revoked"):
                    sent(session, requests())

        await while_serving(server, talk)
        assert server.store.all() == []

    play(scenario)


def test_who_begins_a_submission_and_says_nothing_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(submissions, "_SILENCE_S", 0.05)
    is_over = threading.Event()

    def nothing():
        is_over.wait(5)
        yield from ()

    def talk():
        with server.person() as session:
            try:
                with pytest.raises(InvalidJob, match="did not arrive"):
                    sent(session, nothing())
            finally:
                is_over.set()

    play(lambda: while_serving(server, talk))


def test_the_same_look_in_another_session_is_another_entry(server):
    def talk():
        with server.person() as one, server.person("bob") as other:
            one.list_jobs()
            one.list_jobs()
            other.list_jobs()
            with server.person("ann2") as third:
                third.list_jobs()

    play(lambda: while_serving(server, talk))
    looks = [user for user, action, _ in server.audited() if action == "list_jobs"]
    assert looks == ["ann", "bob", "ann2"]


def test_what_was_asked_about_whom_is_recorded_even_when_it_is_no_name(server):
    def talk():
        with server.person("root", "project_admin") as session:
            for name in ("evil\x1b[2J", "x" * 300):
                with pytest.raises(InvalidTarget):
                    session.disable_client(name)
            session.disable_client("site-7")
            with pytest.raises(grpc.RpcError):
                session._channel.unary_unary(rpc.COMMAND)(b"no JSON")

    play(lambda: while_serving(server, talk))
    found = [(action, result) for _, action, result in server.audited()]
    assert ("disable_client site-7", "done") in found
    assert ("unreadable", "refused") in found
    assert server.membership.disabled == ("site-7",)


def test_an_error_fits_into_the_headers_whatever_it_quotes(server):
    def talk():
        with server.person("root", "project_admin") as session, pytest.raises(JobNotFound):
            session.job_meta("\N{GRINNING FACE}" * 3000)

    play(lambda: while_serving(server, talk))


@pytest.mark.parametrize("is_change", [True, False])
def test_a_change_whose_asker_hangs_up_has_an_end_in_the_log(tmp_path, is_change):
    log = AuditLog(tmp_path / "audit.jsonl")
    login = Login(peer=ANN, role="lead", study="default", address="a", since="", until=0, used=0, token="t")

    async def scenario():
        async def work():
            async with endings.recorded(
                log, login, action="abort_job 1", address="a", reference="r", is_change=is_change
            ):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    path = tmp_path / "audit.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert [(one["result"], one["code"]) for one in entries] == ([("failed", "CANCELLED")] if is_change else [])


def test_a_log_of_odd_signs_and_a_list_of_files_that_go_fit_into_an_answer(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"\x00\xff" * (2 << 20))
    text = commands._end_of(tmp_path, log, commands.MAX_LOG_BYTES)
    assert 0 < len(msgspec.json.encode(text)) <= commands._MAX_LOG_ANSWER_BYTES
    files = [(log, "a"), (tmp_path / "gone", "b"), *((log, "x" * 4000) for _ in range(1500))]
    found = commands._sizes(files)
    assert found[0] == {"name": "a", "size": 4 << 20}
    assert len(msgspec.json.encode(found)) <= commands.MAX_LISTED_BYTES + 10_000


def test_how_a_job_should_log_is_no_part_of_its_result(server, tmp_path):
    info = server.store.add(jobs.pack(tiny_job(tmp_path / "job")), ANN)
    run = server.store.run_folder(info.job_id)
    run.mkdir()
    (run / log_level.FILE).write_text("{}")
    (run / "model.json").write_text("{}")
    names = [name for _, name in server.store.files(info.job_id) if name.startswith("workspace/")]
    assert names == ["workspace/model.json"]


def test_nobody_keeps_the_others_from_fetching_results():
    people = object.__new__(PeopleCalls)
    people._downloads = []
    with contextlib.ExitStack() as open_ones:
        for _ in range(3):
            open_ones.enter_context(people._one_download("ann"))
        with pytest.raises(ServerBusy, match="3 of them by ann"), people._one_download("ann"):
            pass
        with people._one_download("bob"), pytest.raises(ServerBusy), people._one_download("eve"):
            pass
    with people._one_download("ann"):
        assert people._downloads == ["ann"]
