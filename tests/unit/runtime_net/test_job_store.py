"""The folder of the jobs may be anybody's: what is not the server's stays, and no two servers share it."""

from __future__ import annotations

import pytest
from clouddeploy_runtime.errors import AlreadyRunning
from clouddeploy_runtime.lifecycle import WorkspaceUnusable
from clouddeploy_runtime.server.store import INCOMING, JobStore, held


def test_a_start_in_somebodys_home_takes_nothing_away(tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text("mine")
    (tmp_path / ".profile").write_text("mine")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "record.json").write_text("mine")
    before = sorted(path for path in tmp_path.rglob("*"))
    (tmp_path / INCOMING / "half").mkdir(parents=True)
    store = JobStore(tmp_path)
    assert store.all() == []
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "project" / "record.json").read_text() == "mine"


def test_a_second_server_with_the_same_folder_is_refused(tmp_path):
    with held(tmp_path / "jobs"), pytest.raises(AlreadyRunning, match="jobs is in use"), held(tmp_path / "jobs"):
        pass
    with held(tmp_path / "jobs"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceUnusable, match="file/jobs") as caught, held(tmp_path / "file" / "jobs"):
        pass
    assert "NVFL_JOB_STORE_ROOT" in caught.value.hint
