"""Job folders for the tests of this package."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
SERVER = {"format_version": 2, "workflows": [{"id": "w", "path": "clouddeploy_runtime.job.fedavg.FedAvg", "args": {}}]}
EXECUTOR = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
CLIENT = {
    "format_version": 2,
    "executors": [{"tasks": ["*"], "executor": {"path": EXECUTOR, "args": {"task_script_path": "train.py"}}}],
}


@pytest.fixture
def data():
    """Return the folder of jobs in the reference's format."""
    return DATA


@pytest.fixture
def make_job(tmp_path):
    """Return a function that writes a job folder: meta.json, and apps with their configurations."""

    def make(meta, *, apps=("app",), server=SERVER, client=CLIENT, code=()):
        folder = tmp_path / "job"
        for app in apps:
            (folder / app / "config").mkdir(parents=True)
            for side, config in (("server", server), ("client", client)):
                if config is not None:
                    (folder / app / "config" / f"config_fed_{side}.json").write_text(json.dumps(config))
            for name in code:
                path = folder / app / "custom" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")
        (folder / "meta.json").write_text(json.dumps(meta))
        return folder

    return make
