"""Archives from the network: only what is sound and plain is written, whatever bytes come."""

from __future__ import annotations

import io
import json
import random
import shutil
import stat
import struct
import warnings
import zipfile

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import InvalidJob

MUTATIONS = 2_000


def archive_of(*entries, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, content in entries:
            entry = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            entry.compress_type = compression
            archive.writestr(entry, content)
    return buffer.getvalue()


def entry_of(name, mode):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


@pytest.mark.parametrize(
    "names",
    [
        ["../evil"],
        ["/evil"],
        ["a/../../evil"],
        ["a\\evil"],
        ["a//evil"],
        ["./evil"],
        ["a/."],
        ["line\nbreak"],
        ["escape\x1b[2J"],
        ["n" * 256],
        ["é" * 200],
        ["/".join(["d" * 100] * 11)],
        ["/".join(["d"] * 65)],
        ["nul"],
        ["a/COM1.txt"],
        ["a", "a"],
        ["a/x", "A/y"],
        ["train.py", "Train.py"],
        ["a", "a/b"],
        ["a/b", "a"],
    ],
)
def test_a_name_that_is_no_plain_new_file_is_refused(tmp_path, names):
    with pytest.raises(InvalidJob, match="the archive holds"):
        jobs.unpack(archive_of(*((name, b"x") for name in names)), tmp_path / "in" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_nul_is_refused_although_zipfile_cuts_it_there(tmp_path):
    archive = archive_of(("good.pyXevil", b"x")).replace(b"good.pyXevil", b"good.py\0evil")
    with pytest.raises(InvalidJob, match="the archive holds"):
        jobs.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_anything_but_a_plain_file_is_refused(tmp_path, kind):
    with pytest.raises(InvalidJob, match="no plain file"):
        jobs.unpack(archive_of((entry_of("a", kind | 0o777), b"/etc/passwd")), tmp_path / "out")


def test_what_is_written_is_counted_whatever_the_archive_says_of_its_size(tmp_path):
    archive = bytearray(archive_of(("good", b""), ("bomb", bytes(3 << 20))))
    sound = bytes(archive)
    at = archive.rindex(b"PK\x01\x02")
    archive[at + 24 : at + 28] = (100).to_bytes(4, "little")  # the size of the last entry, in the directory
    for bytes_ in (sound, bytes(archive)):
        with pytest.raises(InvalidJob):
            jobs.unpack(bytes_, tmp_path / "out", limit_bytes=1 << 20)
        assert list(tmp_path.iterdir()) == []
    jobs.unpack(sound, tmp_path / "out", limit_bytes=3 << 20)
    assert (tmp_path / "out" / "bomb").stat().st_size == 3 << 20


def test_more_files_than_any_job_has_are_refused(tmp_path):
    archive = archive_of(*((f"f{number}", b"") for number in range(10_001)), compression=zipfile.ZIP_STORED)
    with pytest.raises(InvalidJob, match="10001 files"):
        jobs.unpack(archive, tmp_path / "out")


def test_folders_count_as_files_do(tmp_path):
    archive = archive_of(*((f"f{number}/", b"") for number in range(10_001)), compression=zipfile.ZIP_STORED)
    with pytest.raises(InvalidJob, match="10001 files"):
        jobs.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("said", [5, 0xFFFF])
def test_a_directory_that_is_larger_than_its_number_of_files_is_not_read(tmp_path, monkeypatch, said):
    archive = bytearray(archive_of(*((f"f{number}", b"") for number in range(2_000)), compression=zipfile.ZIP_STORED))
    archive[-12:-10] = said.to_bytes(2, "little")
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_: pytest.fail("it is read"))
    with pytest.raises(InvalidJob, match=f"holds {said} files"):
        jobs.unpack(bytes(archive), tmp_path / "out")


def with_end64(archive, *, count, signature=b"PK\6\6"):
    """Return an archive with an end of 64 bits, which zipfile believes rather than the other."""
    size, offset = struct.unpack_from("<LL", archive, len(archive) - 10)
    end = signature + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    return archive[:-22] + end + b"PK\6\7" + struct.pack("<LQL", 0, len(archive) - 22, 1) + archive[-22:]


def test_an_end_of_64_bits_counts_where_there_is_one(tmp_path):
    archive = archive_of(("a", b"x"))
    jobs.unpack(with_end64(archive, count=1), tmp_path / "good")
    assert (tmp_path / "good" / "a").read_bytes() == b"x"
    for bad in (with_end64(archive, count=5_000_000), with_end64(archive, count=1, signature=b"none")):
        with pytest.raises(InvalidJob):
            jobs.unpack(bad, tmp_path / "out")


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_another_compression_is_refused(tmp_path, compression):
    with pytest.raises(InvalidJob, match="other than deflate"):
        jobs.unpack(archive_of(("a", b"x" * 100), compression=compression), tmp_path / "out")


def test_what_takes_too_much_memory_is_refused_as_any_other_archive(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    archive = archive_of(("a", b"x"))
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(InvalidJob, match="cannot be unpacked"):
        jobs.unpack(archive, tmp_path / "out")


def test_a_failed_unpacking_leaves_what_was_there(tmp_path):
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(InvalidJob):
        jobs.unpack(archive_of(("a/b", b"x"), ("c", bytes(100))), tmp_path, limit_bytes=50)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_archive_may_be_in_a_file(tmp_path):
    (tmp_path / "job.zip").write_bytes(archive_of(("a/b", b"x"), ("a/c/", b"")))
    jobs.unpack(tmp_path / "job.zip", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a", "b"]


def mutated(content, rng):
    """Return a document that something happened to: flipped, cut, doubled or overwritten bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content))
        kind = rng.randrange(5)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del content[at : at + rng.randint(1, 8)]
        elif kind == 3:
            content[at:at] = content[at : at + rng.randint(1, 30)]
        else:
            content[at : at + 4] = rng.choice((b"PK\x01\x02", b"\xff" * 4, bytes(4), b"[[[[", b'{"":'))
        if not content:
            return b""
    return bytes(content)


META = {
    "name": "j",
    "deploy_map": {"app": {"sites": ["server", "site-1"]}},
    "min_clients": 1,
    "mandatory_clients": ["site-1"],
    "resource_spec": {"@default": {"num_of_gpus": 1, "memory": "8Gi"}},
    "launcher_spec": {"default": {"process": {}}},
}


def test_a_thousand_damaged_archives_are_refused_or_harmless(tmp_path):
    sound = archive_of(("meta.json", json.dumps(META)), ("app/config/config_fed_server.json", "{}" * 40), ("app/x", ""))
    rng = random.Random(20_260_101)  # noqa: S311 - the same damage each time
    refused = 0
    for _ in range(MUTATIONS // 2):
        try:
            jobs.unpack(mutated(sound, rng), tmp_path / "out", limit_bytes=1 << 20)
        except InvalidJob:
            refused += 1
        else:
            shutil.rmtree(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
    assert refused > MUTATIONS // 4


def test_a_thousand_damaged_meta_files_are_refused(tmp_path):
    rng = random.Random(20_260_102)  # noqa: S311 - the same damage each time
    for _ in range(MUTATIONS // 2):
        (tmp_path / "meta.json").write_bytes(mutated(json.dumps(META).encode(), rng))
        with pytest.raises(InvalidJob):  # at the latest since there is no folder for its app
            jobs.load(tmp_path)
