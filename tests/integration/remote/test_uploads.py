"""Files on their way to OpenSSH's own server on 127.0.0.1: whole, with their mode, continued, and never a hang."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace

import paramiko
import pytest

from clouddeploy.errors import UploadFailed
from clouddeploy.remote import receive
from clouddeploy.remote.receive import ALIVE_BYTES

NAME = "site-1/machine"
SIZE = 8 * 1024 * 1024


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "wheels.tar"
    file.write_bytes(os.urandom(SIZE))
    return file


@pytest.fixture
def target(tmp_path):
    return tmp_path / "home/wheels.tar"


@pytest.fixture
def aside(target):
    return beside(target)


def beside(target):
    return target.with_name(f"{target.name}.part")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def is_free(path):
    """Whether no transfer holds the file any more."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_file_arrives_as_it_is_and_its_sha256_is_returned(host, source, target, aside):
    assert host.upload(source, str(target), mode=0o640) == hashlib.sha256(source.read_bytes()).hexdigest()
    assert target.read_bytes() == source.read_bytes()
    assert mode_of(target) == 0o640
    assert not aside.exists()


def test_an_empty_file_is_a_file(host, tmp_path, target):
    (tmp_path / "empty").touch()
    assert host.upload(tmp_path / "empty", str(target), mode=0o600) == hashlib.sha256().hexdigest()
    assert target.read_bytes() == b""


def test_a_name_with_quotes_and_dollars_stays_a_name(host, source, tmp_path):
    target = tmp_path / """home/a b'c "$(id)" %h"""
    host.upload(source, str(target), mode=0o600)
    assert target.read_bytes() == source.read_bytes()


def test_a_small_file_is_there_after_a_dozen_turns_login_included(machine, tmp_path, target, link_to):
    """Eight round trips until it is logged in, three for the file; with 100 ms each that is a second or so."""
    link = link_to(machine)
    machine.pins.pin(NAME, machine.public)
    (tmp_path / "kit.tar").write_bytes(os.urandom(20_000))
    with contextlib.closing(machine.connect()) as host:
        logged_in = link.turns
        host.upload(tmp_path / "kit.tar", str(target), mode=0o600)
        assert link.turns - logged_in <= 2 * 4
    assert logged_in <= 2 * 9


def test_a_file_has_its_mode_before_its_first_byte_and_no_name_before_its_last(
    machine, source, target, link_to, wait_for
):
    aside = beside(target)
    link = link_to(machine, stops_after=SIZE / 2)
    machine.pins.pin(NAME, machine.public)
    seen = []
    with contextlib.closing(machine.connect()) as host:
        worker = threading.Thread(target=upload_or_fail, args=(host, source, target))
        worker.start()

        def has_come() -> bool:
            if aside.exists():
                there = aside.stat()
                seen.append(stat.S_IMODE(there.st_mode))
                return there.st_size > SIZE / 4
            return False

        wait_for(has_come)
        assert link.stopped.wait(10)
        assert set(seen) == {0o600}
        assert not target.exists()
    link.close()
    worker.join(10)


def upload_or_fail(host, source, target):
    with contextlib.suppress(UploadFailed):
        host.upload(source, str(target), mode=0o600)


def test_a_transfer_that_was_cut_goes_on_where_it_was(machine, source, target, link_to, wait_for):
    aside = beside(target)
    link = link_to(machine, stops_after=SIZE / 2)
    machine.pins.pin(NAME, machine.public)
    direct, machine.target = machine.target, replace(machine.target, answer_s=1.0)
    with contextlib.closing(machine.connect()) as host, pytest.raises(UploadFailed):
        host.upload(source, str(target), mode=0o600)
    link.close()
    wait_for(lambda: is_free(aside))
    kept = aside.stat().st_size
    assert kept > SIZE / 4
    machine.target = replace(direct, port=link.to)
    second = link_to(machine)
    with contextlib.closing(machine.connect()) as host:
        host.upload(source, str(target), mode=0o600)
    assert second.sent < SIZE - kept + 64 * 1024
    assert target.read_bytes() == source.read_bytes()
    assert mode_of(target) == 0o600


@pytest.mark.parametrize("size", [1, SIZE // 2, SIZE, SIZE + 1])
def test_what_a_cut_transfer_of_another_file_left_is_sent_anew(host, source, target, aside, size):
    aside.write_bytes(bytes(size))
    aside.chmod(0o600)
    host.upload(source, str(target), mode=0o600)
    assert target.read_bytes() == source.read_bytes()


def test_what_had_come_whole_is_only_given_its_name(host, source, target, aside):
    aside.write_bytes(source.read_bytes())
    aside.chmod(0o600)
    born = aside.stat().st_ino
    host.upload(source, str(target), mode=0o600)
    assert target.stat().st_ino == born


def test_the_machine_shows_that_it_lives_while_it_digests_gigabytes_that_are_there(target, aside):
    aside.parent.mkdir(exist_ok=True)
    with aside.open("wb") as file:
        file.truncate(2 * ALIVE_BYTES)  # a hole, which takes no room
    aside.chmod(0o600)
    command = [sys.executable, receive.__file__, str(target), "600", "60"]
    said = subprocess.run(command, input=b"\n\n\n", capture_output=True, check=False).stdout.splitlines()
    assert said[:2] == [b"", b""]
    assert said[2].startswith(b"have %d " % (2 * ALIVE_BYTES))


def test_and_so_do_we(host, tmp_path, target, aside, monkeypatch):
    source = tmp_path / "large.tar"
    for file in (source, aside):
        with file.open("wb") as content:
            content.truncate(2 * ALIVE_BYTES)
    aside.chmod(0o600)
    said = []
    sendall = paramiko.Channel.sendall
    monkeypatch.setattr(
        paramiko.Channel, "sendall", lambda channel, words: said.append(words) or sendall(channel, words)
    )
    host.upload(source, str(target), mode=0o600)
    assert said[:2] == [b"\n", b"\n"]
    assert target.stat().st_size == 2 * ALIVE_BYTES


def test_what_was_left_with_another_mode_is_not_continued(host, source, target, aside):
    aside.write_bytes(source.read_bytes()[: SIZE // 2])
    aside.chmod(0o644)
    born = aside.stat().st_ino
    with aside.open() as reader:  # somebody who opened it while he could
        host.upload(source, str(target), mode=0o600)
        assert os.fstat(reader.fileno()).st_size == SIZE // 2
    assert target.stat().st_ino != born
    assert mode_of(target) == 0o600


def test_a_link_in_its_place_is_not_followed(host, source, target, aside, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    aside.symlink_to(victim)
    host.upload(source, str(target), mode=0o600)
    assert victim.read_bytes() == b"mine"
    assert not target.is_symlink()
    assert target.read_bytes() == source.read_bytes()


def test_a_transfer_that_still_goes_on_is_left_alone(host, source, target, aside):
    aside.write_bytes(source.read_bytes()[: SIZE // 2])
    aside.chmod(0o600)
    with aside.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        host.upload(source, str(target), mode=0o600)
        assert os.fstat(other.fileno()).st_size == SIZE // 2
    assert target.read_bytes() == source.read_bytes()


def damaging(folder, times: int) -> str:
    """Returns the PATH of a machine on which that many files arrive damaged."""
    (folder / "bin").mkdir()
    for number in range(times):
        (folder / f"bin/damage-{number}").touch()
    python = folder / "bin/python3"
    python.write_text(
        "#!/bin/sh\n"
        f"for one in {folder}/bin/damage-*; do\n"
        '    if [ -e "$one" ]; then rm "$one"; else PATH=/usr/bin:/bin exec python3 "$@"; fi\n'
        f"    echo have 0 {hashlib.sha256().hexdigest()}; cat >/dev/null; echo sha256 00 >&2; exit 3\n"
        "done\n"
    )
    python.chmod(0o755)
    return f"PATH={folder}/bin:/usr/bin:/bin"


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_arrives_damaged_is_sent_once_more(machine_in, tmp_path, source, target, times):
    with machine_in(tmp_path, environment=damaging(tmp_path, times)) as machine:
        machine.pins.pin(NAME, machine.public)
        target.write_bytes(b"before")
        with contextlib.closing(machine.connect()) as host:
            if times == 1:
                host.upload(source, str(target), mode=0o600)
            else:
                with pytest.raises(UploadFailed) as refused:
                    host.upload(source, str(target), mode=0o600)
                assert "damaged" in refused.value.what
        assert target.read_bytes() == (source.read_bytes() if times == 1 else b"before")


def test_a_folder_that_is_not_there_is_named(host, source, tmp_path):
    with pytest.raises(UploadFailed) as refused:
        host.upload(source, str(tmp_path / "home/nowhere/wheels.tar"), mode=0o600)
    assert "nowhere/wheels.tar.part: No such file or directory" in refused.value.why


def test_a_file_that_is_not_here_ends_at_once(host, tmp_path, target):
    with pytest.raises(UploadFailed) as refused:
        host.upload(tmp_path / "missing", str(target), mode=0o600)
    assert "missing" in refused.value.what
    assert not target.exists()


@pytest.mark.parametrize("how", ["drops_after", "stops_after"])
def test_a_link_that_dies_in_the_middle_ends_with_what_why_and_hint(machine, source, target, how, link_to):
    """Whether the client's own system can still get rid of its bytes or not."""
    link_to(machine, **{how: SIZE / 4})
    machine.pins.pin(NAME, machine.public)
    machine.target = replace(machine.target, answer_s=1.0)
    with contextlib.closing(machine.connect()) as host:
        began = time.monotonic()
        with pytest.raises(UploadFailed) as refused:
            host.upload(source, str(target), mode=0o600)
        assert time.monotonic() - began < 5
    assert NAME in refused.value.what
    assert refused.value.why == "nothing moved for 1 s"
    assert "run the same command again" in refused.value.hint
    assert not target.exists()
