"""Results: their numbers, what a failure leaves, and file systems and umasks that are not like the usual one."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.builders.catalogue import Custom, Step
from clouddeploy_provision.errors import BuilderFailed, CaError, ProvisionError, ResultError
from clouddeploy_provision.provisioner import Options, preview, provision
from clouddeploy_runtime import kit

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import ProvisionReport

PASSPHRASE = b"correct horse"
MINE = """
class Mine:
    def build(self, project, ctx):
        kit = ctx.get_kit_dir(project.server)
        {end}
"""


def make(project: Project, folder: Path, **given) -> ProvisionReport:
    return provision(project, folder, passphrase=PASSPHRASE, **given)


def listing(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def without_state(found: dict[str, tuple[int, int, bytes]]) -> dict[str, tuple[int, int, bytes]]:
    return {path: seen for path, seen in found.items() if "/state" not in path}


def verify_all(report: ProvisionReport) -> None:
    for name, root in report.kits.items():
        assert kit.verify(root).participant == name
    assert {path.name for path in report.result.iterdir()} == set(report.kits)


def test_numbers_follow_the_highest(dummy, tmp_path):
    assert [make(dummy, tmp_path).result.name for _ in range(3)] == ["prod_00", "prod_01", "prod_02"]
    shutil.rmtree(tmp_path / "example_project/prod_00")
    assert make(dummy, tmp_path).result.name == "prod_03"


@pytest.mark.parametrize("name", ["prod_100", "prod_1", "prod_aa", "my_prod_07", "prod_07.old"])
def test_what_only_looks_like_a_result(dummy, tmp_path, name):
    (tmp_path / "example_project" / name).mkdir(parents=True)
    assert make(dummy, tmp_path).result.name == "prod_00"


def test_a_file_that_has_the_name_of_a_result(dummy, tmp_path):
    make(dummy, tmp_path)
    (tmp_path / "example_project/prod_07").write_text("")
    second = make(dummy, tmp_path)
    assert second.result.name == "prod_08"
    assert len(second.kept) == len(second.kits)


@pytest.mark.parametrize("exists", ["results", "state"])
def test_after_prod_99_nothing_is_changed(dummy, tmp_path, exists):
    make(dummy, tmp_path)
    folder = tmp_path / "example_project"
    (folder / "prod_00").rename(folder / "prod_99")
    if exists == "results":
        shutil.rmtree(folder / "state")
    before = without_state(listing(folder))
    with pytest.raises(ResultError, match="can hold no further result") as caught:
        make(dummy, tmp_path)
    assert caught.value.exit_code == 4
    with pytest.raises(ResultError, match="can hold no further result"):
        preview(dummy, tmp_path)
    after = without_state(listing(folder))
    del before[str(folder)], after[str(folder)]  # the lock stands in it
    assert before == after
    assert not (folder / "state/rootCA.key").exists() or exists == "state"


def test_prod_99_can_be_used_again_when_nothing_changes(dummy, tmp_path):
    make(dummy, tmp_path)
    folder = tmp_path / "example_project"
    (folder / "prod_00").rename(folder / "prod_99")
    assert make(dummy, tmp_path, reuse_result=True).result.name == "prod_99"


def custom(dummy: Project, folder: Path, end: str) -> tuple[Project, Options]:
    name = f"mine_{abs(hash(end))}"
    (folder / f"{name}.py").write_text(MINE.format(end=end))
    return dataclasses.replace(dummy, builders=(*dummy.builders, Step(f"{name}.Mine"))), Options(custom=Custom(folder))


@pytest.mark.parametrize("end", ["raise ValueError('no')", "ctx.error('no')", "raise SystemExit(3)"])
def test_a_failing_builder_leaves_no_result_and_no_private_key(dummy, tmp_path, end):
    first = make(dummy, tmp_path / "ws")
    before = listing(first.result)
    project, options = custom(dummy, tmp_path, end)
    with pytest.raises(BuilderFailed):
        make(project, tmp_path / "ws", options=options)
    assert {path.name for path in first.result.parent.iterdir()} == {"prod_00", "state"}
    assert before == listing(first.result)
    assert make(dummy, tmp_path / "ws").result.name == "prod_01"


def test_a_builder_that_is_interrupted_leaves_no_private_key(dummy, tmp_path):
    project, options = custom(dummy, tmp_path, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        make(project, tmp_path / "ws", options=options)
    assert [path.name for path in (tmp_path / "ws/example_project").iterdir()] == ["state"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"result":"prod_00","kits":{"site-1":1}}'])
def test_a_damaged_index_only_costs_time(dummy, tmp_path, content):
    first = make(dummy, tmp_path)
    (tmp_path / "example_project/state/kits.json").write_bytes(content)
    second = make(dummy, tmp_path)
    assert second.kept == tuple(second.kits)
    verify_all(second)
    assert {path for path in listing(first.result) if path.endswith(".key")}


def test_an_index_of_another_result(dummy, tmp_path):
    make(dummy, tmp_path)
    index = (tmp_path / "example_project/state/kits.json").read_bytes()
    make(dummy, tmp_path)
    (tmp_path / "example_project/state/kits.json").write_bytes(index)
    third = make(dummy, tmp_path)
    assert third.kept == tuple(third.kits)


def test_the_last_result_was_removed(dummy, tmp_path):
    first = make(dummy, tmp_path)
    shutil.rmtree(make(dummy, tmp_path).result)
    again = make(dummy, tmp_path)
    assert again.result.name == "prod_01"
    assert again.kept == tuple(again.kits)
    shutil.rmtree(first.result)
    shutil.rmtree(again.result)
    assert make(dummy, tmp_path).created == tuple(first.kits)


@pytest.mark.parametrize(
    "damage", ["a kit is gone", "a file is gone", "a file is empty", "a link", "startup is a file"]
)
@pytest.mark.parametrize("with_index", [True, False])
def test_the_last_result_is_damaged(dummy, tmp_path, damage, with_index):
    """That participant gets a new key, which is said; the others stay."""
    place = make(dummy, tmp_path).kits["site-1"]
    if not with_index:
        (tmp_path / "example_project/state/kits.json").unlink()
    cert = place / "startup/client.crt"
    if damage == "a kit is gone":
        shutil.rmtree(place)
    elif damage == "a file is empty":
        os.truncate(cert, 0)
    elif damage == "startup is a file":
        shutil.rmtree(place / "startup")
        (place / "startup").write_text("")
    else:
        cert.rename(tmp_path / "x")
        if damage == "a link":
            cert.symlink_to(tmp_path / "x")
    foreseen = preview(dummy, tmp_path)
    report = make(dummy, tmp_path)
    assert report.created == ("site-1",)
    assert foreseen == report.changes
    verify_all(report)
    if damage not in {"a kit is gone", "startup is a file"}:
        assert any("site-1" in warning and "new key" in warning for warning in report.warnings)
        assert {one.reason for one in report.changes if one.name == "site-1"} == {"its last kit cannot be carried over"}


def test_kits_that_changed_places_are_not_carried_over(dummy, tmp_path):
    """Each is as it was signed, but not for the name of its folder."""
    first = make(dummy, tmp_path)
    (tmp_path / "example_project/state/kits.json").unlink()
    one, other = first.kits["site-1"], first.kits["site-2"]
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    report = make(dummy, tmp_path)
    assert report.created == ("site-1", "site-2")
    verify_all(report)


def test_kits_of_another_authority_are_not_carried_over(dummy, tmp_path):
    first = make(dummy, tmp_path / "a")
    make(dummy, tmp_path / "b")
    shutil.rmtree(first.result)
    shutil.copytree(tmp_path / "b/example_project/prod_00", first.result, copy_function=shutil.copy2)
    report = make(dummy, tmp_path / "a")
    assert report.created == tuple(report.kits)
    verify_all(report)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(dummy, tmp_path, monkeypatch, number):
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    first = make(dummy, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        second = make(dummy, tmp_path)
    assert second.kept == tuple(first.kits)
    verify_all(second)
    key = "site-1/startup/client.key"
    assert (first.result / key).read_bytes() == (second.result / key).read_bytes()
    assert stat.S_IMODE((second.result / key).stat().st_mode) == 0o600
    assert (first.result / key).stat().st_ino != (second.result / key).stat().st_ino
    third = make(dummy, tmp_path)  # the index knows the copies
    assert third.kept == tuple(first.kits)
    assert (second.result / key).stat().st_ino == (third.result / key).stat().st_ino


def test_a_disk_that_is_full(dummy, tmp_path, monkeypatch):
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    make(dummy, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(ProvisionError, match="No space left"):
            make(dummy, tmp_path)
    assert {path.name for path in (tmp_path / "example_project").iterdir()} == {"prod_00", "state"}
    assert make(dummy, tmp_path).kept


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(dummy, tmp_path, mask):
    place = tmp_path / "ws"
    place.mkdir()
    before = os.umask(mask)
    try:
        first = make(dummy, place, options=Options(start_script=True))
        second = make(dummy, place, options=Options(start_script=True))
    finally:
        os.umask(before)
    for report in (first, second):
        assert stat.S_IMODE(report.result.stat().st_mode) == 0o755
        assert stat.S_IMODE((report.result / "start_all.sh").stat().st_mode) == 0o755
        for path in report.result.rglob("*"):
            wanted = {".key": 0o600, ".sh": 0o755}.get(path.suffix, 0o755 if path.is_dir() else 0o644)
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        assert {kit.verify(root).participant for root in report.kits.values()} == set(report.kits)
    assert stat.S_IMODE((place / "example_project").stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "example_project/state").stat().st_mode) == 0o700


def test_a_link_where_unfinished_kits_go(dummy, tmp_path):
    """Private keys do not go where somebody else pointed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "example_project").mkdir()
    (tmp_path / "example_project/wip").symlink_to(elsewhere)
    verify_all(make(dummy, tmp_path))
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "example_project/wip").is_symlink()


def test_a_root_that_has_expired_is_foreseen(dummy, tmp_path):
    make(dummy, tmp_path)
    later = datetime.now(UTC) + timedelta(days=20 * 365)
    for call in (preview, make):
        with pytest.raises(CaError, match="root certificate has expired"):
            call(dummy, tmp_path, now=later)


def test_who_is_gone_from_the_project_file_is_reported(dummy, tmp_path):
    make(dummy, tmp_path)
    fewer = dataclasses.replace(dummy, participants=dummy.participants[:2])
    report = make(fewer, tmp_path)
    gone = [(one.name, one.reason) for one in report.changes if one.outcome == "removed"]
    assert [name for name, _ in gone] == ["admin@nvidia.com", "lead@nvidia.com", "site-2"]
    assert {path.name for path in report.result.iterdir()} == {"server1", "site-1"}


@pytest.mark.parametrize("run", [make, preview])
def test_kits_whose_keys_are_encrypted_where_they_are_get_no_new_ones(dummy, tmp_path, run):
    """As those of a dashboard: each of their owners would have a kit that the next run does not know."""
    key = make(dummy, tmp_path).kits["server1"] / "startup" / "server.key"
    key.rename(key.with_name("server.key.sealed"))
    before = listing(tmp_path)
    with pytest.raises(ResultError, match=r"server1/startup/server\.key\.sealed is encrypted") as caught:
        run(dummy, tmp_path)
    assert "choose another workspace" in caught.value.hint
    assert listing(tmp_path) == before
