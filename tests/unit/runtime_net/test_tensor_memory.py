"""How much memory the tensors of a site's jobs take, and which job wants the disk instead."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime.launchers import memory
from clouddeploy_runtime.settings import BadSettings, Settings, load
from clouddeploy_runtime.tensor_memory import SHARE, TensorMemory, asks_for_disk

GIB = 1 << 30


def app(folder, *workflows):
    (folder / "config").mkdir()
    document = {"format_version": 2, "on": True, "workflows": list(workflows)}
    (folder / "config" / "config_fed_server.json").write_text(json.dumps(document))
    return folder


def workflow(**args):
    return {"path": "nvflare.app_common.workflows.fedavg.FedAvg", "args": args}


def settings(folder, **arguments):
    (folder / "resources.json").write_text(json.dumps({"components": [{"id": "tensor_memory", "args": arguments}]}))
    return load(folder)


def test_half_of_the_memory_is_for_tensors_where_the_site_says_nothing():
    assert TensorMemory(Settings()).pool().budget_bytes == memory.limit_bytes() // SHARE
    assert SHARE == 2


def test_a_site_says_how_much_all_jobs_and_each_of_them_may_take(tmp_path):
    found = settings(tmp_path, budget_gib=2, job_budget_gib=0.5)
    assert (found.budget_gib, found.job_budget_gib, found.offloads_tensors) == (2.0, 0.5, False)
    assert TensorMemory(found).pool().budget_bytes == GIB // 2
    assert TensorMemory(settings(tmp_path, budget_gib=1, job_budget_gib=9)).pool().budget_bytes == GIB


def test_jobs_share_what_the_site_allows(tmp_path):
    memory = TensorMemory(settings(tmp_path, budget_gib=1 / 1024))
    first, second = memory.pool(), memory.pool()
    assert not first.acquire(600 << 10).is_file
    assert second.acquire(600 << 10).is_file
    first.close()
    assert not second.acquire(600 << 10).is_file
    second.close()


def test_a_site_keeps_the_tensors_of_all_jobs_on_disk_when_it_says_so(tmp_path):
    assert TensorMemory(settings(tmp_path, enable_tensor_disk_offload=True)).pool().is_on_disk
    assert TensorMemory(settings(tmp_path, budget_gib=0)).pool().is_on_disk
    assert not TensorMemory(settings(tmp_path)).pool().is_on_disk
    assert TensorMemory(settings(tmp_path)).pool(on_disk=True).is_on_disk


@pytest.mark.parametrize(
    "arguments",
    [
        {"budget_gib": -1},
        {"budget_gib": "all"},
        {"job_budget_gib": True},
        {"budget_gib": None},
        {"enable_tensor_disk_offload": "true"},
        {"enable_tensor_disk_offload": 1},
    ],
)
def test_what_is_no_amount_is_refused_by_name(tmp_path, arguments):
    with pytest.raises(BadSettings, match=next(iter(arguments))):
        settings(tmp_path, **arguments)


@pytest.mark.parametrize("value", [True, "{on}"])
def test_a_workflow_asks_for_the_disk(tmp_path, value):
    assert asks_for_disk(app(tmp_path, workflow(), workflow(enable_tensor_disk_offload=value)))


def test_a_workflow_that_says_no_or_nothing_and_one_that_cannot_be_read_do_not(tmp_path):
    assert not asks_for_disk(tmp_path)
    assert not asks_for_disk(app(tmp_path, workflow(), workflow(enable_tensor_disk_offload=False)))
