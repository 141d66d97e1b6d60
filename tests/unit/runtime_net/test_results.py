"""A result on its way to a person: whatever the job has named, it arrives, and nowhere else."""

from __future__ import annotations

import stat
import zipfile

import pytest
from clouddeploy_runtime.admin import results
from clouddeploy_runtime.errors import BlobCorrupt


@pytest.fixture
def unpacked(tmp_path):
    """A function that packs files in this order and returns what is there afterwards."""

    def unpack(*names):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(name, str(number))
        results.unpack(tmp_path / "a.zip", tmp_path / "out")
        return {str(path.relative_to(tmp_path / "out")): path.read_text() for path in files(tmp_path / "out")}

    return unpack


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_good_names_stay_as_they_are(unpacked):
    assert unpacked("meta.json", "workspace/a/b.txt", "workspace/a/c.txt") == {
        "meta.json": "0",
        "workspace/a/b.txt": "1",
        "workspace/a/c.txt": "2",
    }


def test_names_that_are_none_everywhere_are_changed_and_a_note_says_which(unpacked):
    found = unpacked("w/Model.pt", "w/model.pt", "w/aux", "w/two\nlines", "../../x", "/etc/passwd", "W/y")
    note = found.pop(results.NOTE)
    assert found == {
        "w/Model.pt": "0",
        "w/model.pt~2": "1",
        "w/_aux": "2",
        "w/_two_lines": "3",
        "_../_../x": "4",
        "etc/passwd": "5",
        "W~2/y": "6",
    }
    assert "'w/model.pt' is 'w/model.pt~2'" in note.splitlines()


def test_more_files_than_a_submission_may_have_are_no_problem(unpacked, monkeypatch):
    monkeypatch.setattr("clouddeploy_runtime.jobs.archive._MAX_FILES", 5)
    assert len(unpacked(*(f"w/{number}" for number in range(10)))) == 10


def test_a_link_is_left_out_and_noted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("w/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    results.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in files(tmp_path / "out")] == [results.NOTE]


def test_what_is_no_zip_is_said_of_the_result_and_not_of_a_job(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(BlobCorrupt, match="The result cannot be unpacked"):
        results.unpack(tmp_path / "a.zip", tmp_path / "out")
