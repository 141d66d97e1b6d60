"""meta.json: every rule has its own message, and all problems come at once."""

from __future__ import annotations

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import InvalidJob

META = {"name": "j", "deploy_map": {"app": ["@ALL"]}}
NAMED = {"name": "j", "deploy_map": {"app": ["server", "site-1", "site-2"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, '"name" must be text'),
        ({"deploy_map": {}}, '"deploy_map" must name at least one app'),
        ({"deploy_map": {"../app": ["@ALL"]}}, "names '../app', which is no folder of the job"),
        ({"deploy_map": {"app": "@ALL"}}, 'must give "app" a list of sites'),
        ({"deploy_map": {"app": {"where": ["@ALL"]}}}, 'must give "app" a list of sites'),
        ({"deploy_map": {"app": ["@ALL", "site-1"]}}, "names @ALL, which stands alone, beside site-1"),
        ({"deploy_map": {"app": ["@all"], "b": ["server"]}}, "names @ALL, which stands alone, beside server"),
        ({"deploy_map": {"app": ["site-1"]}}, 'has no app for "server"'),
        ({"deploy_map": {"app": ["server", "a"], "b": ["server"]}}, "names server 2 times"),
        ({"deploy_map": {"app": ["server", "a", "a"]}}, "names a 2 times"),
        ({"min_clients": 0}, '"min_clients" must be a whole number from 1 to 1000000, and is 0'),
        ({"min_clients": 1_000_001}, "from 1 to 1000000"),
        ({"min_clients": True}, '"min_clients" must be'),
        ({"min_clients": "2"}, '"min_clients" must be'),
        ({"min_clients": 3}, '"min_clients" is 3, and the deploy_map lists 2 clients'),
        ({"mandatory_clients": "site-1"}, '"mandatory_clients" must be a list'),
        ({"mandatory_clients": ["site-1", "site-9"]}, '"mandatory_clients" names site-9, no client of the deploy_map'),
        ({"mandatory_clients": ["server"]}, '"mandatory_clients" names server'),
        ({"resource_spec": []}, '"resource_spec" must be an object'),
        ({"resource_spec": {"site-1": 1}}, 'must give "site-1" an object'),
        ({"resource_spec": {"site-1": {"num_of_gpus": -1}}}, 'of "site-1": num_of_gpus must be a whole number from 0'),
        (
            {"resource_spec": {"@default": {"num_of_cpus": 0}}},
            'of "@default": num_of_cpus must be a whole number from 1',
        ),
        ({"resource_spec": {"site-1": {"mem_per_gpu_in_GiB": "4"}}}, "mem_per_gpu_in_GiB must be a number from 0"),
        ({"resource_spec": {"site-1": {"memory": "8GB"}}}, "memory must be text like 8Gi"),
        ({"resource_spec": {"site-1": {"memory": "0Gi"}}}, "memory must be text like 8Gi"),
        ({"resource_spec": {"site-1": {"gpus": 1}}}, 'of "site-1": gpus is not known'),
        ({"launcher_spec": {"site-1": {"vm": {}}}}, "names 'vm'; launchers are docker, k8s, process, slurm"),
        ({"launcher_spec": {"site-1": []}}, '"launcher_spec" must give "site-1" an object'),
        ({"scope": 1}, '"scope" must be text'),
        ({"study": []}, '"study" must be text'),
        ({"custom_props": []}, '"custom_props" must be an object'),
        ({"custom_props": {"task_timeout": -1}}, '"task_timeout" must be seconds from 0'),
        ({"rejoin_timeout": "soon"}, '"rejoin_timeout" must be seconds from 0'),
    ],
)
def test_each_rule_has_its_own_message(change, message):
    with pytest.raises(InvalidJob) as refused:
        jobs.parse_meta({**NAMED, **change})
    assert message in refused.value.why
    assert "meta.json: " in refused.value.why


def test_all_problems_come_at_once(make_job):
    meta = {"name": 1, "deploy_map": {"app": ["server", "a"], "b": ["c"]}, "min_clients": 9, "scope": 1}
    with pytest.raises(InvalidJob) as refused:
        jobs.load(make_job(meta, client=None))
    for part in ('"name"', "lists 2 clients", '"scope"', 'the app "b"', "app/config/config_fed_client.json is missing"):
        assert part in refused.value.why


@pytest.mark.parametrize(
    "sites", [["server", "site-1"], {"sites": ["server", "site-1"]}, {"targets": ["server", "site-1"]}]
)
def test_the_sites_of_an_app_may_stand_in_a_list_or_an_object(sites):
    spec = jobs.parse_meta({"name": "j", "deploy_map": {"app": sites}})
    assert spec.deploy_map == {"app": ("server", "site-1")}
    assert (spec.app_for("site-1"), spec.app_for("site-2")) == ("app", None)


def test_an_app_for_nobody_needs_its_folder_but_no_configuration(make_job):
    meta = {"name": "j", "deploy_map": {"app": ["server", "site-1"], "spare": []}}
    folder = make_job(meta)
    with pytest.raises(InvalidJob, match='names the app "spare", but there is no such folder'):
        jobs.load(folder)
    (folder / "spare").mkdir()
    assert jobs.load(folder).app_for("site-1") == "app"


@pytest.mark.parametrize(("side", "where"), [("server", "server"), ("client", "a client")])
def test_an_app_without_the_configuration_of_a_side_that_runs_it_is_refused(make_job, side, where):
    folder = make_job(META, **{side: None})
    with pytest.raises(InvalidJob, match=rf'app/config/config_fed_{side}\.json is missing: "app" runs at {where}'):
        jobs.load(folder)
    (folder / "app" / "config" / f"config_fed_{side}.conf").write_text("")
    with pytest.raises(InvalidJob, match=rf"config_fed_{side}\.conf is read by the admin's side only"):
        jobs.load(folder)


def test_an_app_needs_the_configurations_of_its_sites_only(make_job):
    folder = make_job({"name": "j", "deploy_map": {"app": ["server"], "other": ["a"]}}, apps=("app", "other"))
    (folder / "app" / "config" / "config_fed_client.json").unlink()
    (folder / "other" / "config" / "config_fed_server.json").unlink()
    assert jobs.load(folder).named_sites == {"a"}


def test_a_site_checks_its_own_app_only(make_job):
    folder = make_job({"name": "j", "deploy_map": {"app": ["a"], "other": ["server"]}})
    assert jobs.load(folder, apps={"app"}).app_for("a") == "app"


def test_what_a_job_needs_at_a_site_is_its_own_entry_over_the_default():
    spec = jobs.parse_meta(
        {
            **META,
            "resource_spec": {
                "site-1": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 1.5, "docker": {"shm_size": "8g"}},
                "@default": {"num_of_cpus": 4, "memory": "512Mi"},
            },
        }
    )
    assert spec.need_of("site-1") == jobs.Need(gpus=2, gib_per_gpu=1.5, cpus=4, memory_gib=0.5)
    assert spec.need_of("site-2") == jobs.Need(cpus=4, memory_gib=0.5)
    assert jobs.parse_meta(META).need_of("site-1") == jobs.Need()


def test_timeouts_have_a_default_and_come_from_either_place(make_job):
    usual = jobs.parse_meta(META)
    assert (usual.rejoin_s, usual.task_s) == (60.0, 0.0)
    given = jobs.parse_meta({**META, "rejoin_timeout": 5, "custom_props": {"task_timeout": 7, "own": "x"}})
    assert (given.rejoin_s, given.task_s) == (5.0, 7.0)
    workflow = {"id": "w", "path": "a.B", "args": {"train_timeout": 30}}
    assert jobs.load(make_job(META, server={"format_version": 2, "workflows": [workflow]})).task_s == 30.0


def test_own_code_is_found_by_looking_and_not_by_asking(make_job):
    assert not jobs.load(make_job({**META, "byoc": True})).has_own_code("app")
    assert jobs.parse_meta(META).has_own_code("app")


def test_a_file_in_custom_is_own_code_and_an_empty_folder_is_not(make_job):
    folder = make_job(META)
    (folder / "app" / "custom" / "deep").mkdir(parents=True)
    assert not jobs.load(folder).has_own_code("app")
    (folder / "app" / "custom" / "deep" / "x.txt").write_text("")
    assert jobs.load(folder).has_own_code("app")


def test_a_link_for_custom_is_own_code(make_job, tmp_path):
    folder = make_job(META)
    (folder / "app" / "custom").symlink_to(tmp_path)
    assert jobs.load(folder).has_own_code("app")


def test_a_chosen_image_is_code_too():
    spec = jobs.parse_meta({**META, "launcher_spec": {"default": {"docker": {"image": "x"}}, "a": {"k8s": {"cpu": 1}}}})
    assert spec.chooses_code("a")
    assert not jobs.parse_meta({**META, "launcher_spec": {"a": {"k8s": {"cpu": 1}}}}).chooses_code("a")


def test_what_a_job_wishes_of_a_launcher_is_its_sites_own_over_the_default_key_by_key():
    spec = {"default": {"docker": {"image": "x", "shm_size": "1g"}}, "a": {"docker": {"image": "y"}, "k8s": {"cpu": 1}}}
    found = jobs.parse_meta({**META, "launcher_spec": spec})
    assert found.wishes_of("a") == {"docker": {"image": "y", "shm_size": "1g"}, "k8s": {"cpu": 1}}
    assert found.wishes_of("b") == {"docker": {"image": "x", "shm_size": "1g"}}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff", b'{"a": NaN}', b"1"])
def test_a_meta_json_that_is_no_sound_object_is_refused(make_job, content):
    folder = make_job(META)
    (folder / "meta.json").write_bytes(content)
    with pytest.raises(InvalidJob, match=r"meta\.json"):
        jobs.load(folder)


def test_a_job_of_the_references_format_is_read(data):
    with jobs.normalised(data / "launched") as folder:
        spec = jobs.load(folder)
    assert (spec.app_for("server"), spec.app_for("site-2"), spec.scope) == ("app_server", "app_sites", "foo")
    assert spec.mandatory_clients == {"site-1"}
    assert (spec.has_own_code("app_server"), spec.has_own_code("app_sites")) == (False, True)
