from __future__ import annotations

import hashlib
import os
import shlex
import stat
import time

import pytest

from clouddeploy.errors import RemoteCommandFailed, RemoteTimeout, UploadFailed
from clouddeploy.remote import commands
from clouddeploy.remote.bootstrap import Release, pack
from clouddeploy.remote.host import TAIL_BYTES
from clouddeploy.remote.local import LocalHost


@pytest.fixture
def host(tmp_path) -> LocalHost:
    return LocalHost(tmp_path / "site")


def test_words_with_spaces_quotes_and_dollars_arrive_unchanged():
    words = commands.with_sudo(commands.script("a b'c", '$(id) "x"; rm -rf ~'))
    assert shlex.split(shlex.join(words)) == words


def test_upload_gets_its_mode_whatever_the_umask(host, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"key")
    before = os.umask(0o077)
    try:
        said = host.upload(source, str(tmp_path / "site/target"), mode=0o644)
    finally:
        os.umask(before)
    assert said == hashlib.sha256(b"key").hexdigest()
    assert stat.S_IMODE((tmp_path / "site/target").stat().st_mode) == 0o644


def test_upload_does_not_take_over_the_mode_of_a_file_that_a_kill_left(host, tmp_path):
    left = tmp_path / "site/target.part"
    left.write_bytes(b"half")
    left.chmod(0o666)
    (tmp_path / "source").write_bytes(b"key")
    host.upload(tmp_path / "source", str(tmp_path / "site/target"), mode=0o600)
    assert stat.S_IMODE((tmp_path / "site/target").stat().st_mode) == 0o600
    assert not left.exists()


def test_upload_into_a_folder_that_is_missing_is_our_error(host, tmp_path):
    (tmp_path / "source").write_bytes(b"key")
    with pytest.raises(UploadFailed):
        host.upload(tmp_path / "source", str(tmp_path / "missing/target"), mode=0o600)


def test_failing_command_carries_status_and_output(host):
    with pytest.raises(RemoteCommandFailed) as failed:
        host.run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=10)
    assert failed.value.status == 7
    assert "out" in failed.value.tail
    assert "err" in failed.value.tail


def test_only_the_end_of_a_large_output_is_kept(host):
    said = host.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; printf end"], timeout_s=10).output
    assert len(said) == TAIL_BYTES
    assert said.endswith("xend")


def test_command_that_does_not_end_is_ended_at_its_deadline(host):
    began = time.monotonic()
    with pytest.raises(RemoteTimeout):
        host.run(["sleep", "30"], timeout_s=0.2)
    assert time.monotonic() - began < 2


def test_file_that_is_missing_reads_as_none(host, tmp_path):
    assert host.read(str(tmp_path / "nothing"), limit=10) is None


def test_pack_depends_on_names_modes_and_contents_alone(tmp_path):
    digests = []
    for name in ("first", "second"):
        folder = tmp_path / name
        (folder / "startup").mkdir(parents=True)
        (folder / "startup/client.key").write_bytes(b"key")
        (folder / "startup/client.key").chmod(0o600)
        os.utime(folder / "startup/client.key", (1, len(digests) * 1000))
        archive, digest = pack(folder, "kit", tmp_path)
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600
        digests.append(digest)
    (tmp_path / "second/startup/client.key").chmod(0o640)
    (tmp_path / "again").mkdir()
    _, changed = pack(tmp_path / "second", "kit", tmp_path / "again")
    assert digests[0] == digests[1] != changed


def test_service_is_named_after_project_and_site():
    assert Release("d", "/opt/clouddeploy/study/site-1", "python").service == "clouddeploy-study:site-1.service"
