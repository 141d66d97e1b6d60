"""Job folders on their way: checked, packed, and unpacked without trust."""

from __future__ import annotations

import io
import json
import stat
import zipfile

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.jobs import TRANSITIONS, JobStatus
from clouddeploy_runtime.server.store import JobStore
from clouddeploy_runtime.tls import Peer

from tests.unit.runtime_net.scheduling_world import left_in

META = {"name": "j", "deploy_map": {"app": ["server", "site-1"], "special": ["site-2"]}, "min_clients": 2}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "job"
    for app in ("app", "special"):
        (root / app / "custom").mkdir(parents=True)
        (root / app / "custom" / "train.py").write_text(app)
        (root / app / "config").mkdir()
        (root / app / "config" / "config_fed_client.json").write_text("{}")
    (root / "app" / "config" / "config_fed_server.json").write_text("{}")
    (root / "app" / "custom" / "__pycache__").mkdir()
    (root / "app" / "custom" / "__pycache__" / "x.pyc").write_text("")
    (root / ".hidden").write_text("")
    (root / "meta.json").write_text(json.dumps(META))
    return root


def archive_of(name, content=b"x", mode=0):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, content)
    return buffer.getvalue()


def test_a_site_named_in_the_deploy_map_gets_its_own_app(folder):
    spec = jobs.load(folder)
    assert [spec.app_for(site) for site in ("server", "site-1", "site-2")] == ["app", "app", "special"]
    assert spec.named_sites == {"site-1", "site-2"}
    assert spec.min_clients == 2


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"deploy_map": {}},
        {"deploy_map": {"../app": ["@ALL"]}},
        {"deploy_map": {"absent": ["@ALL"]}},
        {"deploy_map": {"app": "@ALL"}},
        {"deploy_map": {"app": ["site-1"]}},
        {"min_clients": 0},
        {"min_clients": True},
        {"min_clients": "2"},
    ],
)
def test_a_wrong_meta_json_is_named(folder, change):
    (folder / "meta.json").write_text(json.dumps({**META, **change}))
    with pytest.raises(InvalidJob):
        jobs.load(folder)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_malformed_meta_json_is_named(folder, content):
    (folder / "meta.json").unlink()
    if content is not None:
        (folder / "meta.json").write_text(content)
    with pytest.raises(InvalidJob, match=r"meta\.json"):
        jobs.load(folder)


def test_packing_is_reproducible_and_leaves_out_what_is_no_part_of_a_job(folder, tmp_path):
    archive = jobs.pack(folder)
    assert archive == jobs.pack(folder)
    jobs.unpack(archive, tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert found == [
        "app/config/config_fed_client.json",
        "app/config/config_fed_server.json",
        "app/custom/train.py",
        "meta.json",
        "special/config/config_fed_client.json",
        "special/custom/train.py",
    ]


def test_a_site_gets_its_own_app_only(folder, tmp_path):
    jobs.unpack(jobs.pack(folder, apps={"special"}), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["meta.json", "special"]


@pytest.mark.parametrize(
    "archive",
    [
        b"no zip",
        archive_of("../evil"),
        archive_of("/evil"),
        archive_of("a/../../evil"),
        archive_of("a\\evil"),
        archive_of("link", b"/etc/passwd", stat.S_IFLNK | 0o777),
    ],
    ids=["no zip", "parent", "absolute", "inner parent", "backslash", "link"],
)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, archive):
    with pytest.raises(InvalidJob):
        jobs.unpack(archive, tmp_path / "in" / "out")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()]


def test_every_final_state_has_no_way_out():
    assert {s for s in JobStatus if s.is_final} == {s for s in JobStatus if s.value.startswith("FINISHED:")}
    assert set(TRANSITIONS) == set(JobStatus)


def test_a_refused_job_leaves_nothing_in_the_store(tmp_path):
    store = JobStore(tmp_path / "jobs")
    with pytest.raises(InvalidJob):
        store.add(archive_of("other.txt"), Peer(name="ann", org="lab", role="lead"))
    assert left_in(store) == []
