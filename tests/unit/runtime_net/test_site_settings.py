"""`local/resources.json`: the site's file, then the kit's default; nothing starts with a broken one."""

import json

import pytest
from clouddeploy_provision import kit_settings
from clouddeploy_runtime import settings


@pytest.mark.parametrize(("file", "max_jobs"), [("server", 4), ("client", 4)])
def test_the_default_of_every_kit_is_read(tmp_path, file, max_jobs):
    (tmp_path / "resources.json.default").write_bytes(kit_settings.packaged(f"{file}_resources.json.default"))
    found = settings.load(tmp_path)
    assert (found.max_jobs, found.launcher, found.is_list_enforced) == (max_jobs, "process", True)
    assert found.max_clients == 100
    assert "nvflare.app_common.workflows.fedavg.FedAvg" in found.allowed_classes


def test_the_sites_own_file_wins_and_no_file_means_the_references_values(tmp_path):
    assert settings.load(tmp_path) == settings.Settings()
    (tmp_path / "resources.json.default").write_text("{}")
    manager = {"id": "resource_manager", "args": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16}}
    slurm = {"id": "slurm_launcher", "args": {"partition": "gpu"}}
    (tmp_path / "resources.json").write_text(json.dumps({"components": [manager, slurm]}))
    found = settings.load(tmp_path)
    assert (found.gpus, found.gib_per_gpu, found.launcher) == (2, 16.0, "slurm")
    assert found.launcher_args == {"partition": "gpu"}


def test_a_resource_manager_that_lets_everything_through_is_known_by_its_class(tmp_path):
    for path, expected in ((settings.PASSTHROUGH, True), ("a.b.GPUResourceManager", False), ("", False)):
        document = {"components": [{"id": "resource_manager", "path": path}, {"id": "other"}]}
        (tmp_path / "resources.json").write_text(json.dumps(document))
        assert settings.load(tmp_path).is_passthrough is expected


@pytest.mark.parametrize(
    ("text", "studies"),
    [("{}", None), ('{"allowed_studies": []}', frozenset()), ('{"allowed_studies": ["a"]}', frozenset({"a"}))],
)
def test_a_site_may_name_the_studies_that_it_takes_jobs_of(tmp_path, text, studies):
    (tmp_path / "resources.json").write_text(text)
    assert settings.load(tmp_path).studies == studies


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "resources.json"),
        ("[" * 100_000, "resources.json"),
        ("[]", "not an object"),
        ('{"servers": [1]}', "servers"),
        ('{"servers": [{"max_num_clients": "many"}]}', "max_num_clients"),
        ('{"components": [{"args": {}}]}', "components"),
        ('{"components": [{"id": "docker_launcher"}, {"id": "process_launcher"}]}', "one launcher"),
        ('{"class_allow_list": [1]}', "class_allow_list"),
        ('{"allowed_studies": "heart"}', "allowed_studies"),
    ],
)
def test_a_file_that_is_no_use_is_refused_by_name(tmp_path, text, named):
    (tmp_path / "resources.json").write_text(text)
    with pytest.raises(settings.BadSettings, match=named) as refused:
        settings.load(tmp_path)
    assert refused.value.hint
