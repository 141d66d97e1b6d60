"""The line between a site and an outpost is between these two alone, and its breaks are noticed."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import replace

import pytest
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.launchers import BadLauncher
from clouddeploy_runtime.outposts import engines, line
from clouddeploy_runtime.outposts.line import Credential, Kind, LineBroken, Listening, Packet


def listening():
    return Listening("127.0.0.1", bind="127.0.0.1")


def connected(here, credential=None):
    """Return both ends: the site's and the outpost's."""
    found = []
    thread = threading.Thread(target=lambda: found.append(line.call(credential or here.credential, timeout_s=5)))
    thread.start()
    site = here.wait(lambda: "", timeout_s=5)
    thread.join()
    return site, found[0]


def speak_on(sender):
    for _ in range(1000):
        sender.send(Kind.OUTPUT, b"x" * 1000)


def given_up(here):
    with pytest.raises(LineBroken):
        here.wait(lambda: "", timeout_s=1)


def test_packets_and_parameters_arrive_both_ways():
    with listening() as here:
        (site_sends, site_hears), (far_sends, far_hears) = connected(here)
    parameters = memoryview(os.urandom(3 << 20))
    threading.Thread(target=site_sends.send, args=(Kind.MESSAGE, b"task", parameters)).start()
    assert far_hears.receive() == Packet(Kind.MESSAGE, b"task", len(parameters))
    view = memoryview(bytearray(len(parameters)))
    far_hears.into(view)
    assert view == parameters
    far_sends.send(Kind.ENDED, b"{}")
    assert site_hears.receive() == Packet(Kind.ENDED, b"{}", 0)


def test_a_stranger_is_turned_away_and_the_outpost_still_let_in():
    with listening() as here:
        stranger = replace(here.credential, token="00" * 32)
        sends = []
        calls = threading.Thread(target=lambda: sends.append(line.call(stranger, timeout_s=1)))
        calls.start()
        site, _ = connected(here)
        calls.join()
    site[0].send(Kind.STOP)
    with pytest.raises(LineBroken):  # what the stranger has is no line
        speak_on(sends[0][0])


def test_strangers_who_say_nothing_do_not_keep_the_outpost_waiting():
    with listening() as here:
        address = (here.credential.host, here.credential.port)
        silent = [socket.create_connection(address) for _ in range(5)]
        began = time.monotonic()
        (sends, _), (_, hears) = connected(here)
        assert time.monotonic() - began < 5
    sends.send(Kind.STOP)
    assert hears.receive() == Packet(Kind.STOP, b"", 0)
    for one in silent:
        one.close()


def test_a_site_with_another_certificate_is_not_told_the_token():
    with listening() as here, listening() as other:
        elsewhere = replace(here.credential, port=other.credential.port)
        refused = threading.Thread(target=given_up, args=(other,))
        refused.start()
        with pytest.raises(ConnectionFailed, match="is not at"):
            line.call(elsewhere, timeout_s=1)
        refused.join()


def test_a_site_that_is_not_there_is_named_with_what_to_do():
    with listening() as here:
        gone = here.credential
    with pytest.raises(ConnectionFailed) as caught:
        line.call(gone, timeout_s=0)
    assert "parent_host" in caught.value.hint


@pytest.mark.parametrize(
    ("problem", "why"), [("the image is not there", "the image is not there"), ("", "has not called within 0.1 s")]
)
def test_an_outpost_that_does_not_come_is_given_up_with_the_reason(problem, why):
    with listening() as here, pytest.raises(LineBroken, match=why):
        here.wait(lambda: problem, timeout_s=0.1, poll_s=0.01)


def test_a_line_that_ends_between_packets_has_ended_and_in_the_middle_it_broke():
    with listening() as here:
        (sends, _), (_, hears) = connected(here)
    sends._connection.sendall(b"\x02\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00half")
    sends._connection.close()
    with pytest.raises(LineBroken, match="middle"):
        hears.receive()
    with listening() as here:
        (sends, _), (_, hears) = connected(here)
    sends._connection.close()
    assert hears.receive() is None


@pytest.mark.parametrize("header", [b"\x09" + bytes(12), b"\x02\x7f\xff\xff\xff" + bytes(8)])
def test_what_is_no_packet_breaks_the_line(header):
    with listening() as here:
        (sends, _), (_, hears) = connected(here)
    sends._connection.sendall(header)
    with pytest.raises(LineBroken, match="a packet of kind"):
        hears.receive()


def test_a_credential_is_its_owners_alone(tmp_path):
    file = tmp_path / "line.json"
    file.write_text("of an earlier job")
    with listening() as here:
        here.credential.write(file)
        assert file.stat().st_mode & 0o777 == 0o600
        assert Credential.read(file) == here.credential
    file.write_text(json.dumps({"host": "x"}))
    with pytest.raises(LineBroken, match="does not say"):
        Credential.read(file)


def test_a_launchers_argument_of_the_wrong_kind_is_named():
    with pytest.raises(BadLauncher, match="pending_timeout"):
        engines.check("local", {"pending_timeout": "soon"})


def test_what_was_sent_before_the_outpost_left_arrives_however_late_it_is_read():
    with listening() as here:
        (_, site_hears), (far_sends, far_hears) = connected(here)
    for _ in range(40):  # more than a network holds, and less than the two systems do
        far_sends.send(Kind.OUTPUT, b"x" * 60_000)
    leaving = threading.Thread(target=far_sends.finish, args=(10,))
    leaving.start()
    far_hears._connection.close()
    count = 0
    while site_hears.receive() is not None:
        count += 1
    leaving.join()
    assert count == 40


def test_no_number_of_strangers_keeps_an_outpost_out():
    with listening() as here:
        address = (here.credential.host, here.credential.port)
        found = []
        waiting = threading.Thread(target=lambda: found.append(here.wait(lambda: "", timeout_s=10)))
        waiting.start()
        silent = [socket.create_connection(address) for _ in range(3 * line._GUESTS)]
        until(lambda: is_closed(silent[0]))
        sends, _ = line.call(here.credential, timeout_s=5)
        waiting.join()
    sends.send(Kind.OUTPUT, b"here")
    assert found[0][1].receive() == Packet(Kind.OUTPUT, b"here", 0)
    until(lambda: all(map(is_closed, silent)))
    for one in silent:
        one.close()


def is_closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_line_on_which_nothing_is_said_is_watched_at_both_ends():
    with listening() as here:
        ends = [end for both in connected(here) for end in both]
    for end in ends:
        assert end._connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert end._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
