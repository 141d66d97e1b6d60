"""The line between a site and an outpost is between these two alone, and its breaks are noticed."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest
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
