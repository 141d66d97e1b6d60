"""Where the authority's passphrase may come from: a file, the environment, the keyring, a person; and nowhere else."""

from __future__ import annotations

import getpass
import os
import threading
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest
from clouddeploy_provision.certificate_authority import init
from clouddeploy_provision.errors import PassphraseError
from clouddeploy_runtime.enrolment.formats import Profile

from clouddeploy.cli import authority
from clouddeploy.cli.main import Session
from clouddeploy.cli.output import Output
from clouddeploy.errors import ConfigError
from clouddeploy.secrets import KEYRING_SERVICE, PASSPHRASE_VARIABLE, Secret, ca_passphrase


class FakeKeyring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self, *, is_locked=False):
        super().__init__()
        self.entries = {}
        self.is_locked = is_locked

    def get_password(self, service, username):
        if self.is_locked:
            raise keyring.errors.KeyringLocked("it is locked")
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password


@pytest.fixture
def ring():
    before = keyring.get_keyring()
    fake = FakeKeyring()
    keyring.set_keyring(fake)
    yield fake
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


@pytest.fixture
def person(monkeypatch):
    """Somebody who types these answers."""

    def types(*answers):
        left = iter(answers)
        monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(left))

    types()
    return types


def asked(**given):
    return ca_passphrase(**{"file": None, "may_ask": False, "confirm": False, **given}).reveal()


def written(folder, content, mode=0o600):
    path = folder / "passphrase"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"horse", b"horse\n", b"horse\r\n", b"horse\nsecond line\n"])
def test_the_first_line_of_a_file_is_the_passphrase(tmp_path, content):
    assert asked(file=written(tmp_path, content)) == "horse"


@pytest.mark.parametrize("raw", [b"w\xc3\xb6rt \xe2\x80\xa8 x", b"\xff\xfe raw", b" spaces stay "])
def test_every_byte_of_the_line_counts(tmp_path, raw, monkeypatch):
    assert os.fsencode(asked(file=written(tmp_path, raw))) == raw
    monkeypatch.setitem(os.environb, PASSPHRASE_VARIABLE.encode(), raw)
    assert os.fsencode(asked()) == raw


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError, match="lets others read it") as caught:
        asked(file=written(tmp_path, b"horse", mode))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_private_file_is_read(tmp_path, mode):
    assert asked(file=written(tmp_path, b"horse", mode)) == "horse"


def test_a_pipe_is_read():
    """`--passphrase-file <(pass show ca)`."""
    near, far = os.pipe()
    os.write(far, b"horse\n")
    os.close(far)
    try:
        assert asked(file=Path(f"/dev/fd/{near}")) == "horse"
    finally:
        os.close(near)


@pytest.mark.parametrize("content", [b"", b"\n", b"\nhorse\n"])
def test_an_empty_file_is_refused_and_nothing_else_is_tried(tmp_path, content, monkeypatch, person):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "other")
    person("other")
    with pytest.raises(ConfigError, match="first line is empty"):
        asked(file=written(tmp_path, content), may_ask=True)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the passphrase file"):
        asked(file=tmp_path / "none")


def test_the_order_is_file_environment_keyring_person(tmp_path, monkeypatch, ring, person):
    ring.entries[KEYRING_SERVICE, "here"] = "of the ring"
    person("of a person")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "of the environment")
    file = written(tmp_path, b"of the file")
    everything = {"may_ask": True, "keyring_entry": "here"}
    assert asked(file=file, **everything) == "of the file"
    assert asked(**everything) == "of the environment"
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    assert asked(**everything) == "of the ring"
    ring.entries.clear()
    assert asked(**everything) == "of a person"


def test_without_any_source_it_is_bad_input():
    with pytest.raises(ConfigError, match="no passphrase") as caught:
        asked()
    assert caught.value.exit_code == 4
    assert PASSPHRASE_VARIABLE in caught.value.hint


def test_the_keyring_is_not_touched_unless_it_is_wanted(ring, person):
    ring.entries[KEYRING_SERVICE, "here"] = "of the ring"
    person("typed")
    assert asked(may_ask=True) == "typed"
    assert list(ring.entries.values()) == ["of the ring"]


def test_what_was_typed_is_kept_in_a_wanted_keyring(ring, person):
    person("typed", "typed")
    assert asked(may_ask=True, confirm=True, keyring_entry="here") == "typed"
    assert ring.entries == {(KEYRING_SERVICE, "here"): "typed"}


def test_two_different_answers_are_refused(ring, person):
    person("one", "two")
    with pytest.raises(ConfigError, match="differ"):
        asked(may_ask=True, confirm=True, keyring_entry="here")
    assert not ring.entries


def test_a_locked_keyring_is_bad_input(ring):
    ring.is_locked = True
    with pytest.raises(ConfigError, match="it is locked") as caught:
        asked(keyring_entry="here")
    assert caught.value.exit_code == 4


def test_a_wrong_passphrase_is_not_kept_in_the_keyring(ring, person, tmp_path):
    init(Profile("study"), tmp_path / "ca", passphrase=b"right")
    session = Session(Output(as_json=False, verbose=False), may_ask=True, cancel=threading.Event())

    def opened():
        given = {"passphrase_file": None, "keyring": True}
        return authority.passphrase(session, given, folder=tmp_path / "ca")

    person("wrong")
    with pytest.raises(PassphraseError):
        opened()
    assert not ring.entries
    person("right")
    assert opened() == b"right"
    person()
    assert opened() == b"right"  # nobody was asked


def test_a_secret_does_not_show_itself():
    secret = Secret("horse")
    assert f"{secret} {secret!r} {secret:>20}".count("horse") == 0
    assert secret.reveal_bytes() == b"horse"
