"""Jobs written in HOCON or YAML become JSON before they leave the admin's machine."""

import json
import sys

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import InvalidJob


def test_a_job_in_json_stays_where_it_is(make_job):
    folder = make_job({"name": "j", "deploy_map": {"app": ["@ALL"]}})
    with jobs.normalised(folder) as ready:
        assert ready == folder


def test_a_job_of_the_reference_in_hocon_becomes_json(data):
    with jobs.normalised(data / "gather") as ready:
        assert ready != data / "gather"
        spec = jobs.load(ready)
        files = sorted(str(path.relative_to(ready)) for path in ready.rglob("*") if path.is_file())
        server = json.loads((ready / "gather/config/config_fed_server.json").read_text())
    assert (spec.name, spec.min_clients, spec.app_for("site-1")) == ("gather", 2, "gather")
    assert files == [
        "gather/config/config_fed_client.json",
        "gather/config/config_fed_server.json",
        "gather/custom/add.py",
        "meta.json",
    ]
    assert server["workflows"][0]["args"]["num_rounds"] == "{rounds}"
    assert server["components"][2]["args"] == {"expected_data_kind": "WEIGHTS"}
    assert not ready.exists()
    assert (data / "gather" / "meta.conf").exists()


def test_a_job_in_yaml_becomes_json(make_job):
    folder = make_job({})
    (folder / "meta.json").unlink()
    (folder / "meta.yml").write_text("name: j\ndeploy_map:\n  app: ['@ALL']\n")
    with jobs.normalised(folder) as ready:
        assert jobs.load(ready).name == "j"


def test_yaml_without_its_library_is_refused_by_name(make_job, monkeypatch):
    folder = make_job({})
    (folder / "meta.json").unlink()
    (folder / "meta.yml").write_text("name: j\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InvalidJob, match="PyYAML, which is not installed here"), jobs.normalised(folder):
        pass


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("meta.conf", "a = ${b}", r"meta\.conf cannot be used: line 1"),
        ("meta.yml", "a: [", r"meta\.yml cannot be used"),
        ("meta.yml", "a: !!python/name:os.system x", r"meta\.yml cannot be used"),
        ("meta.yml", "a: 2026-01-01", "not JSON serializable"),
        ("meta.yml", "a: .nan", "not JSON compliant"),
    ],
)
def test_a_file_that_cannot_be_converted_is_named(make_job, name, text, message):
    folder = make_job({})
    (folder / "meta.json").unlink()
    (folder / name).write_text(text)
    with pytest.raises(InvalidJob, match=message), jobs.normalised(folder):
        pass


def test_json_beside_hocon_wins(make_job):
    folder = make_job({"name": "j", "deploy_map": {"app": ["@ALL"]}})
    (folder / "meta.conf").write_text("${broken")
    with jobs.normalised(folder) as ready:
        assert ready == folder


def test_a_folder_without_a_meta_file_is_no_job_and_is_not_looked_through(tmp_path, monkeypatch):
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: pytest.fail("it was looked through"))
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidJob, match="no job's folder"), jobs.normalised(folder):
            pass
