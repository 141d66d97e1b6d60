"""The site's end of an outpost believes no more of it than a parent believes of a job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from types import SimpleNamespace

import msgspec
import pytest
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import MAX_FRAME, Abort, Frame, Release, Result, Task, encode
from clouddeploy_runtime.launchers import memory
from clouddeploy_runtime.outposts import line, near
from clouddeploy_runtime.outposts.line import Kind, LineBroken
from clouddeploy_runtime.outposts.near import Ended, Errands
from clouddeploy_runtime.outposts.post import CREDENTIAL, Launch, Way

LAUNCH = Launch(job_id="j", role="trainer", site="s", sites=("s",), app_dir="/app", run_dir="/run")


class Post:
    """An outpost that is a thread here."""

    way = Way("127.0.0.1", bind="127.0.0.1", pending_s=5, poll_s=0.05)

    def __init__(self, folder, act):
        self.folder = folder
        self.is_closed = False
        self._act = act

    def open(self):
        credential = line.Credential.read(self.folder / CREDENTIAL)
        threading.Thread(target=lambda: self._act(*line.call(credential, timeout_s=5)), daemon=True).start()
        return LAUNCH

    def problem(self):
        return ""

    def stop(self):
        """Not asked."""

    def close(self):
        self.is_closed = True


@pytest.fixture
def errands(tmp_path):
    """Return what makes an errand to an outpost that does what it is told to, and the parent's end of it."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def make(act):
        post = Post(tmp_path, act)
        return SimpleNamespace(near=Errands(None, post, Channel(theirs)), parent=mine, post=post)

    yield make
    mine.shutdown(socket.SHUT_RDWR)
    mine.close()
    theirs.close()


def ended(sender, code=0):
    sender.send(Kind.ENDED, msgspec.json.encode(Ended(code)))


def speaking(parent, over):
    """Send the job messages until it is over."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        while not over.is_set():
            parent.send(encode(Frame(Abort("to nobody"))))


def test_the_last_word_counts_also_when_the_outpost_takes_nothing_any_more(errands, caplog):
    def act(sender, receiver):
        receiver.receive()
        receiver._connection.close()
        until(lambda: "The line to a job elsewhere broke" in caplog.text)
        ended(sender, 7)

    errand, over = errands(act), threading.Event()
    threading.Thread(target=speaking, args=(errand.parent, over), daemon=True).start()
    assert errand.near.run() == 7
    over.set()
    assert errand.post.is_closed


def test_an_outpost_that_takes_nothing_any_more_and_says_nothing_is_lost(errands, monkeypatch):
    monkeypatch.setattr(near, "_LAST_S", 0.3)
    monkeypatch.setattr(near, "_LOST_S", 0.1)

    def act(_sender, receiver):
        receiver.receive()
        receiver._connection.close()

    errand, over = errands(act), threading.Event()
    threading.Thread(target=speaking, args=(errand.parent, over), daemon=True).start()
    with pytest.raises(LineBroken, match="is lost"):
        errand.near.run()
    over.set()


def test_an_outpost_that_does_not_read_is_removed_all_the_same(errands):
    """Its line is full of parameters, so it cannot even be told to end."""
    full = threading.Event()

    def act(_sender, receiver):
        receiver.receive()
        full.wait()

    errand = errands(act)
    pool = BufferPool(64 << 20)
    buffer = pool.acquire(32 << 20)
    frame = encode(Frame(Task("t", "train", 0, 1, ["s"], {}, buffer.size), key=buffer.key, capacity=buffer.capacity))
    socket.send_fds(errand.parent, [frame], [buffer.fd])

    def stop():
        errand.near.stop()
        errand.near.stop(at_once=True)

    threading.Timer(0.2, stop).start()
    assert errand.near.run() == -signal.SIGKILL
    assert errand.post.is_closed
    full.set()
    pool.close()


def test_parameters_of_an_outpost_take_no_more_than_their_share_of_the_memory(errands, monkeypatch):
    monkeypatch.setattr(memory, "limit_bytes", lambda: 4 << 20)
    monkeypatch.setattr(near, "_LOST_S", 0.1)

    def act(sender, receiver):
        receiver.receive()
        for number in range(3):
            answer = Result(f"t{number}", "s", "train", 0, {}, 1 << 20)
            sender.send(Kind.MESSAGE, encode(Frame(answer, key=0)), memoryview(bytes(1 << 20)))
        receiver.receive()

    errand = errands(act)
    with pytest.raises(LineBroken):
        errand.near.run()
    received = [socket.recv_fds(errand.parent, MAX_FRAME, 1) for _ in range(2)]
    assert all(descriptors for _, descriptors, *_ in received)
    for _, descriptors, *_ in received:
        os.close(descriptors[0])
    errand.parent.setblocking(False)
    with pytest.raises(BlockingIOError):
        errand.parent.recv(MAX_FRAME)


@pytest.mark.parametrize(("said", "found"), [(0, 0), (7, 7), (-11, -11), (-19, 104), (-9999, 104), (1 << 40, 104)])
def test_a_site_ends_as_the_job_did_and_not_as_none_can(errands, said, found):
    def act(sender, receiver):
        receiver.receive()
        ended(sender, said)

    assert errands(act).near.run() == found


def test_an_outpost_gives_nothing_back_that_its_site_holds(errands, monkeypatch):
    monkeypatch.setattr(near, "_LOST_S", 0.1)

    def act(sender, receiver):
        receiver.receive()
        sender.send(Kind.MESSAGE, encode(Frame(Release(1))))
        receiver.receive()

    errand = errands(act)
    with pytest.raises(LineBroken):
        errand.near.run()
    errand.parent.setblocking(False)
    with pytest.raises(BlockingIOError):
        errand.parent.recv(MAX_FRAME)
