"""Jobs in the store: submitted once for each token, kept over restarts, cloned, deleted, downloaded."""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import (
    InvalidCommand,
    InvalidJob,
    JobNotFinished,
    JobNotFound,
    ServerBusy,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
)
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.server import store as storing
from clouddeploy_runtime.server import submissions
from clouddeploy_runtime.server.store import JobStore
from clouddeploy_runtime.server.submissions import Submissions
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.tls import Peer

from tests.unit.runtime_net.scheduling_world import left_in

ANN = Peer(name="ann", org="lab", role="lead")
BOB = Peer(name="bob", org="lab", role="lead")
EXECUTOR = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
CONFIGS = {
    "server": {"workflows": [{"id": "c", "path": "clouddeploy_runtime.job.fedavg.FedAvg", "args": {}}]},
    "client": {"executors": [{"tasks": ["*"], "executor": {"path": EXECUTOR, "args": {"task_script_path": "t.py"}}}]},
}


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs")


@pytest.fixture
def archive(tmp_path):
    """A function that makes a job; the same arguments, the same content."""

    def make(*, study="", code="", rounds=1, **more):
        folder = tmp_path / f"made-{study}-{len(code)}-{rounds}-{len(more)}"
        (folder / "app" / "config").mkdir(parents=True, exist_ok=True)
        for side, content in CONFIGS.items():
            (folder / "app" / "config" / f"config_fed_{side}.json").write_text(
                json.dumps({"format_version": 2, **content})
            )
        if code:
            (folder / "app" / "custom").mkdir(exist_ok=True)
            (folder / "app" / "custom" / "train.py").write_text(code)
        meta = {"name": "tiny", "deploy_map": {"app": ["@ALL"]}, "custom_props": {"rounds": rounds}, **more}
        (folder / "meta.json").write_text(json.dumps(meta | ({"study": study} if study else {})))
        return jobs.pack(folder)

    return make


async def chunks(archive, size=100):
    for start in range(0, len(archive), size):
        yield archive[start : start + size]


def submit(
    store, archive, *, by=ANN, token="", study="default", limit=submissions.MAX_ARCHIVE_BYTES, may_bring_code=True
):
    taking = Submissions(store, Settings(), limit_bytes=limit)
    return asyncio.run(taking.take(chunks(archive), by, token=token, study=study, may_bring_code=may_bring_code))


def test_the_same_content_with_the_same_token_is_the_same_job(store, archive):
    first = submit(store, archive(), token="run-1")
    assert submit(store, archive(), token="run-1").job_id == first.job_id
    assert submit(JobStore(store.root), archive(), token="run-1").job_id == first.job_id, "after a restart too"
    assert [info.job_id for info in store.all()] == [first.job_id]
    assert submit(store, archive()).job_id != submit(store, archive()).job_id, "without a token each is new"


def test_how_the_same_files_were_packed_does_not_matter(store, archive):
    first = submit(store, archive(), token="run-1")
    with zipfile.ZipFile(io.BytesIO(archive())) as source:
        again = io.BytesIO()
        with zipfile.ZipFile(again, "w", zipfile.ZIP_STORED) as target:
            for entry in reversed(source.infolist()):
                target.writestr(entry.filename, source.read(entry))
    assert submit(store, again.getvalue(), token="run-1").job_id == first.job_id


def test_other_content_with_the_same_token_is_a_conflict_that_keeps_nothing(store, archive):
    first = submit(store, archive(), token="run-1")
    with pytest.raises(SubmitTokenConflict, match=first.job_id):
        submit(store, archive(rounds=2), token="run-1")
    assert left_in(store) == [first.job_id]


def test_a_token_counts_for_one_submitter_and_one_study(store, archive):
    ids = {
        submit(store, archive(), token="t").job_id,
        submit(store, archive(), by=BOB, token="t").job_id,
        submit(store, archive(study="heart"), token="t", study="heart").job_id,
    }
    assert len(ids) == 3
    assert {info.study for info in store.all()} == {"", "heart"}


def test_the_token_of_a_deleted_job_starts_nothing_after_a_restart_either(store, archive):
    info = submit(store, archive(), token="run-1")
    store.move(info.job_id, JobStatus.ABORTED)
    store.forget(info.job_id)
    for one in (store, JobStore(store.root)):
        with pytest.raises(SubmitTokenJobDeleted, match=info.job_id):
            submit(one, archive(), token="run-1")
        with pytest.raises(JobNotFound):
            one.get(info.job_id)
    assert left_in(store) == ["deleted.json"], "the restart removes what was left"


@pytest.mark.parametrize("token", ["a" * 129, "a b", "ä", "a/b", "a\n"])
def test_what_is_no_token_is_refused(store, archive, token):
    with pytest.raises(InvalidCommand, match="submit token"):
        submit(store, archive(), token=token)
    assert submit(store, archive(), token="A" * 124 + "._:-").submit_token


@pytest.mark.parametrize(
    ("size", "error"), [(10, "too large"), (1 << 20, 'right "byoc"')], ids=["too large", "code without the right"]
)
def test_a_refused_submission_leaves_nothing(store, archive, size, error):
    with pytest.raises(InvalidJob, match=error):
        submit(store, archive(code="pass"), limit=size, may_bring_code=False)
    assert left_in(store) == []


def test_a_job_that_chooses_an_image_for_the_server_needs_the_right_to_bring_code(store, archive):
    chosen = archive(launcher_spec={"server": {"docker": {"image": "x"}}})
    with pytest.raises(InvalidJob, match='the right "byoc"'):
        submit(store, chosen, may_bring_code=False)
    assert submit(store, chosen).byoc
    elsewhere = archive(launcher_spec={"site-1": {"docker": {"image": "x"}}})
    assert submit(store, elsewhere, may_bring_code=False).byoc, "what runs at a site is for the site to judge"


def test_code_of_its_own_is_found_in_the_folder(store, archive):
    assert submit(store, archive(code="pass")).byoc
    assert not submit(store, archive()).byoc


def test_more_submissions_than_the_server_takes_at_a_time_are_told_to_come_again(store, archive):
    async def never():
        await asyncio.Event().wait()
        yield b""

    async def scenario():
        taking = Submissions(store, Settings())
        slow = [asyncio.create_task(taking.take(never(), ANN, may_bring_code=True)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(ServerBusy):
            await taking.take(chunks(archive()), ANN, may_bring_code=True)
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return await taking.take(chunks(archive()), ANN, may_bring_code=True)

    info = asyncio.run(scenario())
    assert left_in(store) == [info.job_id]


def test_a_clone_is_a_new_job_of_who_asked(store, archive):
    original = submit(store, archive(study="heart"), token="run-1", study="heart")
    taking = Submissions(store, Settings())
    clone = asyncio.run(taking.clone(original.job_id, BOB, may_bring_code=False))
    assert (clone.cloned_from, clone.submitter, clone.study) == (original.job_id, "bob", "heart")
    assert clone.submit_token == ""
    assert clone.content == original.content
    assert store.spec(clone.job_id) == store.spec(original.job_id)


def test_a_token_is_shown_to_its_submitter_only(store, archive):
    info = store.update(submit(store, archive(), token="run-1").job_id, reservations={"a": "secret"})
    assert info.seen_by("ann").submit_token == "run-1"
    assert info.seen_by("bob").submit_token == ""
    assert info.seen_by("ann").reservations == {}


def test_running_jobs_are_as_they_were_after_a_restart(store, archive):
    waiting, running = (submit(store, archive()).job_id for _ in range(2))
    store.move(running, JobStatus.DISPATCHED, sites=("a",))
    store.move(running, JobStatus.RUNNING)
    again = JobStore(store.root)
    assert again.get(waiting).status is JobStatus.SUBMITTED
    assert (again.get(running).status, again.get(running).sites) == (JobStatus.RUNNING, ("a",))
    with pytest.raises(ValueError, match="cannot go from"):
        again.move(running, JobStatus.DISPATCHED)
    with pytest.raises(JobNotFound):
        again.get("../x")


def test_a_record_of_another_version_is_read_as_far_as_it_is_known(store, archive):
    job_id = submit(store, archive()).job_id
    path = store.root / job_id / storing.RECORD
    document = json.loads(path.read_text())
    del document["schedule_count"], document["sites"]
    path.write_text(json.dumps(document | {"invented": 1}))
    assert JobStore(store.root).get(job_id).schedule_count == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"job_id": 1}', '{"job_id": "x", "status": "GONE"}', "[" * 100_000, '{"job_id": "x"}'],
)
def test_a_broken_record_is_set_aside_and_its_job_is_abnormal(store, archive, content, caplog):
    broken, sound = (submit(store, archive()).job_id for _ in range(2))
    (store.root / broken / storing.RECORD).write_text(content)
    for _ in range(2):
        again = JobStore(store.root)
        assert again.get(broken).status is JobStatus.ABNORMAL
        assert again.get(sound).status is JobStatus.SUBMITTED
    assert "set aside" in again.get(broken).reason
    assert caplog.text.count(f"The record of job {broken} is set aside") == 1
    assert (store.root / broken / f"{storing.RECORD}.broken").read_text() == content


@pytest.mark.fault("server killed in a submission", "nothing of it is left")
def test_a_submission_that_a_crash_cut_short_is_gone_after_the_restart(store):
    (store.fresh() / "archive.zip").write_bytes(b"half")
    JobStore(store.root)
    assert left_in(store) == []


def test_who_waits_for_a_change_learns_of_it_at_once(store, archive):
    async def scenario():
        info = store.add(archive(), ANN)
        waiting = asyncio.create_task(store.changed(info.job_id, since=info.revision, wait_s=60))
        await asyncio.sleep(0)
        store.move(info.job_id, JobStatus.DISPATCHED)
        new = await waiting
        assert (new.status, new.revision) == (JobStatus.DISPATCHED, info.revision + 1)
        assert (await store.changed(info.job_id, since=info.revision, wait_s=60)) == new
        same = asyncio.create_task(store.changed(info.job_id, since=new.revision, wait_s=60))
        await asyncio.sleep(0)
        store.close()
        assert await same == new

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_result_holds_the_job_what_it_left_and_what_sites_said(store, archive, tmp_path):
    job_id = submit(store, archive()).job_id
    with pytest.raises(JobNotFinished, match="SUBMITTED"):
        store.finished(job_id)
    store.move(job_id, JobStatus.DISPATCHED)
    store.run_folder(job_id).mkdir()
    (store.run_folder(job_id) / "model.safetensors").write_bytes(b"model")
    store.keep_error_log(job_id, "site-1", "Traceback")
    store.move(job_id, JobStatus.EXECUTION_EXCEPTION, reason="site-1: oops")
    with (tmp_path / "out.zip").open("wb") as file:
        store.write_archive(store.finished(job_id), file)
    jobs.unpack(tmp_path / "out.zip", tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"meta.json", "job/meta.json", "workspace/model.safetensors", "ERRORLOG_site-1"} <= names
    meta = JobInfo.parse(json.loads((tmp_path / "out" / "meta.json").read_text()))
    assert (meta.status, meta.reason) == (JobStatus.EXECUTION_EXCEPTION, "site-1: oops")


def test_a_result_holds_no_link_and_whatever_date_and_name_the_job_chose(store, archive, tmp_path):
    job_id = submit(store, archive()).job_id
    store.move(job_id, JobStatus.DISPATCHED)
    run = store.run_folder(job_id)
    (run / "deep").mkdir(parents=True)
    (tmp_path / "server.key").write_text("secret")
    (run / "log.txt").symlink_to(tmp_path / "server.key")
    for name, date in (("old", 0), ("deep/new", 1 << 33)):
        (run / name).write_text(name)
        os.utime(run / name, (date, date))
    (run / os.fsdecode(b"\xff")).write_text("")
    store.move(job_id, JobStatus.ABORTED)
    with (tmp_path / "out.zip").open("wb") as file:
        store.write_archive(store.finished(job_id), file)
    jobs.unpack(tmp_path / "out.zip", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "workspace").rglob("*")} == {"old", "deep", "new"}


def test_the_environment_moves_the_store(tmp_path, monkeypatch):
    assert storing.root_of(tmp_path) == tmp_path / "jobs"
    monkeypatch.setenv("NVFL_JOB_STORE_ROOT", str(tmp_path / "elsewhere"))
    assert storing.root_of(tmp_path) == tmp_path / "elsewhere"
