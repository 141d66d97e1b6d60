import os
import pwd

import pytest

from clouddeploy import durable
from clouddeploy.errors import StateError
from clouddeploy.stores import LocalStore
from clouddeploy.stores.base import actor


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.save(b"{}", version=None),
        lambda store: store.keep("state.json.v1", b"{}"),
        lambda store: store.append("journal.jsonl", b"x\n"),
    ],
)
def test_a_folder_that_is_gone_is_an_error_with_what_to_do(tmp_path, act):
    with pytest.raises(StateError, match="cannot write") as caught:
        act(LocalStore(tmp_path / "gone"))
    assert caught.value.hint


def test_a_log_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(StateError, match="cannot read"):
        LocalStore(tmp_path).read("journal.jsonl")


def test_a_copy_that_is_there_is_kept(tmp_path):
    store = LocalStore(tmp_path)
    store.keep("state.json.v1", b"first")
    store.keep("state.json.v1", b"second")
    assert (tmp_path / "state.json.v1").read_bytes() == b"first"


def test_a_write_that_the_system_cut_short_is_finished(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    assert durable.append(tmp_path / "log", b"12345\n") == 6
    assert (tmp_path / "log").read_bytes() == b"12345\n"


def test_a_user_without_an_entry_is_a_number(monkeypatch):
    def nobody(_uid):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert actor().startswith(f"{os.getuid()}@")
