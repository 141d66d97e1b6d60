"""What a server says to a site's agent: whatever it is, it ends neither the site nor another job."""

from __future__ import annotations

import asyncio
import json

import pytest
from clouddeploy_runtime import kit
from clouddeploy_runtime.client.admission import Admitted
from clouddeploy_runtime.client.agent import ClientAgent
from clouddeploy_runtime.jobs.known import ComponentRefused
from clouddeploy_runtime.lifecycle import StopSignal
from clouddeploy_runtime.settings import BadSettings
from clouddeploy_runtime.tls import Peer
from clouddeploy_runtime.wire import federation_pb2 as pb

from tests.integration.federation import Authority

TRAINER = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"


@pytest.fixture
def make(tmp_path):
    """A function that makes an agent; what it tells the server is in its list `said`."""

    def one():
        site = kit.load(Authority(tmp_path / "kits", port=1).client("site-1"))
        (tmp_path / "workspace").mkdir()
        agent = ClientAgent(site, tmp_path / "workspace", StopSignal(tmp_path / "workspace"))
        agent.said = []
        agent._connection.send = agent.said.append
        return agent

    return one


def play(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 5))


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 4
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def full(*_, **__):
    raise OSError(28, "No space left on device")


def start(job_id="job", app="app"):
    return pb.ServerEvent(start_job=pb.StartJob(job_id=job_id, app=app, submitter="ann", submitter_role="lead"))


def test_a_job_whose_start_fails_is_refused_with_the_cause(make, monkeypatch):
    async def scenario():
        agent = make()
        with monkeypatch.context() as patch:
            patch.setattr(agent._admission, "job", full)
            agent._handle(start())
        assert agent.said[0].job_deployed.reason == "site-1: OSError: [Errno 28] No space left on device"
        assert agent._jobs == {}

    play(scenario)


def test_a_job_that_cannot_be_recorded_is_refused_with_the_cause(make, monkeypatch):
    async def scenario():
        agent = make()
        monkeypatch.setattr("clouddeploy_runtime.audit.os.fsync", full)
        agent._handle(start())
        reason = agent.said[0].job_deployed.reason
        assert "The command cannot be recorded in audit.jsonl: No space left on device" in reason

    play(scenario)


@pytest.mark.parametrize(
    ("job_id", "app"), [("", "app"), ("..", "app"), ("a/b", "app"), ("job", "../.."), ("job", "/etc"), ("a\nb", "app")]
)
def test_a_job_whose_names_lead_elsewhere_is_refused(make, job_id, app):
    async def scenario():
        agent = make()
        agent._handle(start(job_id, app))
        assert "is no name of a job, or of an app" in agent.said[0].job_deployed.reason
        assert agent._jobs == {}

    play(scenario)


@pytest.mark.parametrize(
    "event",
    [
        None,
        pb.ServerEvent(run_task=pb.RunTask(job_id="job", task=b"\xc1")),
        pb.ServerEvent(revocations=pb.Revocations(crl=b"nonsense")),
        pb.ServerEvent(check_resources=pb.CheckResources(job_id="job", need=b"[")),
        pb.ServerEvent(abort_job=pb.AbortJob(job_id="job", command=b"\xc1")),
        pb.ServerEvent(stop_site=pb.StopSite(command=b"\xc1")),
    ],
    ids=["no message", "task", "revocations", "question", "abort", "stop"],
)
def test_what_cannot_be_handled_ends_nothing(make, event):
    async def scenario():
        agent = make()
        agent._jobs["job"] = agent._jobs["other"] = (Job(), None)
        agent._handle(event)
        assert set(agent._jobs) == {"job", "other"}

    play(scenario)


class Job:
    def add(self, event):
        raise ValueError(event.task)

    async def stop(self, _reason):
        pass


def test_settings_that_are_half_saved_keep_a_running_site_from_connecting_and_nothing_else(make, tmp_path):
    file = tmp_path / "kits" / "site-1" / "local" / "comm_config.json"
    status = tmp_path / "workspace" / "status.json"

    async def scenario():
        agent = make()
        running = asyncio.create_task(agent._connection.run())
        await until(lambda: agent._connection._detail)  # the first attempt: nobody listens
        file.write_text('{"proxy": ')
        await until(lambda: "comm_config.json cannot be used" in status.read_text())
        assert not running.done()
        running.cancel()

    play(scenario)


def test_a_site_does_not_start_with_settings_that_are_no_use(make, tmp_path):
    async def scenario():
        agent = make()
        (tmp_path / "kits" / "site-1" / "local" / "comm_config.json").write_text('{"proxy": ')
        with pytest.raises(BadSettings):
            await agent._connection.run()

    play(scenario)


def test_a_job_that_chooses_an_image_needs_the_right_to_bring_code_at_this_site(make):
    async def scenario():
        agent = make()
        app = agent._folder("job") / "job" / "app"
        (app / "config").mkdir(parents=True)
        client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": {"path": TRAINER, "args": {}}}]}
        (app / "config" / "config_fed_client.json").write_text(json.dumps(client))
        meta = {"name": "j", "deploy_map": {"app": ["@ALL"]}, "launcher_spec": {"default": {"k8s": {"image": "x"}}}}
        (app.parent / "meta.json").write_text(json.dumps(meta))
        lead, member = (Admitted("job", Peer("ann", "org", role), None) for role in ("lead", "member"))
        assert agent._check(lead, "app", app) is None
        with pytest.raises(ComponentRefused, match="launcher_spec"):
            agent._check(member, "app", app)

    play(scenario)
