"""The proof by which a server shows that its certificate is not one of the revoked."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.project import Participant
from clouddeploy_runtime import keys, server_proof
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit import Kind
from cryptography.hazmat.primitives.serialization import Encoding

SERVER = Participant(Kind.SERVER, "server1", "hub")
SITE = Participant(Kind.CLIENT, "site-1", "org")


def pem(cert):
    return cert.public_bytes(Encoding.PEM)


class Sides:
    """A server and a site of one project."""

    def __init__(self, now, *, algorithm=keys.KeyAlgorithm.P256):
        self.now = now
        self.authority = Authority.create("study", now=now - timedelta(days=400), algorithm=algorithm)
        self.key = keys.generate(algorithm)
        self.server = self.authority.issue(SERVER, self.key.public_key(), now=now)
        self.site = self.authority.issue(SITE, keys.generate().public_key(), now=now)
        self.nonce = server_proof.nonce()

    def answer(self, *, key=None, cert=None, nonce=None, peer=None):
        return server_proof.answer(
            key or self.key,
            pem(cert or self.server),
            nonce=nonce or self.nonce,
            peer=pem(peer or self.site),
            crl=b"",
        )

    def check(self, reply):
        return server_proof.check(
            reply,
            nonce=self.nonce,
            own=self.site,
            server_name="server1",
            trusted=[self.authority.certificate],
            now=self.now,
        )


@pytest.fixture(scope="module")
def sides(now):
    return Sides(now)


@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm), ids=str)
def test_a_server_proves_which_certificate_it_has(now, algorithm):
    both = Sides(now, algorithm=algorithm)
    assert both.check(both.answer())[1] == both.server


def test_an_answer_to_another_number_is_refused(sides):
    with pytest.raises(ConnectionFailed, match="does not hold the key"):
        sides.check(sides.answer(nonce=server_proof.nonce()))


def test_an_answer_for_another_peer_cannot_be_passed_on(sides):
    other = sides.authority.issue(SITE, keys.generate().public_key(), now=sides.now)
    with pytest.raises(ConnectionFailed, match="does not hold the key"):
        sides.check(sides.answer(peer=other))


def test_a_certificate_without_its_key_is_refused(sides):
    with pytest.raises(ConnectionFailed, match="does not hold the key"):
        sides.check(sides.answer(key=keys.generate()))


def test_a_site_cannot_play_the_server(sides):
    cert = sides.authority.issue(Participant(Kind.CLIENT, "server1", "org"), sides.key.public_key(), now=sides.now)
    with pytest.raises(ConnectionFailed, match="refused"):
        sides.check(sides.answer(cert=cert))


def test_another_server_of_the_project_is_refused(sides):
    cert = sides.authority.issue(Participant(Kind.SERVER, "server2", "hub"), sides.key.public_key(), now=sides.now)
    with pytest.raises(ConnectionFailed, match="'server2'"):
        sides.check(sides.answer(cert=cert))


def test_a_server_of_another_authority_is_refused(sides, now):
    stranger = Authority.create("study", now=now).issue(SERVER, sides.key.public_key(), now=now)
    with pytest.raises(ConnectionFailed, match="not one of this project"):
        sides.check(sides.answer(cert=stranger))


@pytest.mark.parametrize("age", [timedelta(days=370), timedelta(days=-2)])
def test_a_certificate_outside_its_time_is_refused(sides, age):
    """A list of revoked certificates leaves out those that have expired, so one of these must not stand for another."""
    cert = sides.authority.issue(SERVER, sides.key.public_key(), now=sides.now - age)
    with pytest.raises(ConnectionFailed, match=r"expired|not valid"):
        sides.check(sides.answer(cert=cert))


@pytest.mark.parametrize("reply", [b"", b"\xc1", msgspec.msgpack.encode({"certificate": b"x", "signature": b""})])
def test_what_is_no_answer_is_refused(sides, reply):
    with pytest.raises(ConnectionFailed, match="cannot be read"):
        sides.check(reply)


def test_a_revoked_server_is_refused(sides):
    server_proof.refuse_revoked(sides.server, {1}, "server1")
    with pytest.raises(ConnectionFailed, match="revoked"):
        server_proof.refuse_revoked(sides.server, {sides.server.serial_number}, "server1")
