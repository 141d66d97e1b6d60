"""Mutated proofs, statements and tensors: each is read or refused, and nothing else comes out."""

from __future__ import annotations

import contextlib
import random
import ssl
from datetime import UTC, datetime

import numpy as np
import pytest
from clouddeploy_runtime import identity_proof, keys, kit, server_proof, signing
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.identity_proof import IdentityRefused
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.tensors import BadTensors
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.signing import CommandStatement, SignatureRefused
from cryptography.hazmat.primitives.serialization import Encoding

from tests.integration.federation import PROJECT, SERVER, Authority

COUNTS = [100, pytest.param(3000, marks=pytest.mark.nightly)]
PIECES = (b"\xff" * 9, b"\xdf\xff\xff\xff\xff", b"\x91" * 5000, b"[" * 5000, b"\xc1", b"\xd9\xff")


def mutated(chance, raw):
    changed = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if place < len(changed):
                changed[place] = chance.randrange(256)
            case 1:
                changed.insert(place, chance.randrange(256))
            case 2:
                del changed[place : place + chance.randint(1, 9)]
            case _:
                changed[place:place] = chance.choice(PIECES)
    return bytes(changed)


@pytest.fixture
def authority(tmp_path):
    one = Authority(tmp_path / "kits", port=1)
    one.server()
    return one


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_proof_of_identity_is_refused(authority, count):
    chance = random.Random(count)  # noqa: S311 - the same each time
    own = kit.load(authority.client("site-1"))
    trusted = authorities(own.root_cert_file)
    good = identity_proof.make(own, number=bytes(32))
    assert identity_proof.check(good, server_name=SERVER, trusted=trusted).project == PROJECT
    for _ in range(count):
        try:
            found = identity_proof.check(mutated(chance, good), server_name=SERVER, trusted=trusted)
        except IdentityRefused:
            continue
        assert (found.project, found.number) == (PROJECT, bytes(32))  # base64 has more than one form


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_answer_of_a_server_is_refused(authority, count):
    chance = random.Random(count)  # noqa: S311 - the same each time
    server, site = kit.load(authority.folder / SERVER), kit.load(authority.client("site-1"))
    nonce = server_proof.nonce()
    key, shown = keys.load_private_key(server.key_file), site.cert_file.read_bytes()
    good = server_proof.answer(key, server.cert_file.read_bytes(), nonce=nonce, peer=shown, crl=b"")
    for _ in range(count):
        own, trusted = certificate(site.cert_file), authorities(site.root_cert_file)
        try:
            _, cert = server_proof.check(
                mutated(chance, good), nonce=nonce, own=own, server_name=SERVER, trusted=trusted
            )
        except ConnectionFailed:
            continue
        assert cert.serial_number == certificate(server.cert_file).serial_number
    der = certificate(site.cert_file).public_bytes(Encoding.DER)
    for _ in range(count):
        peer = chance.choice((mutated(chance, shown), ssl.DER_cert_to_PEM_cert(mutated(chance, der)).encode()))
        with contextlib.suppress(ValueError):
            server_proof.answer(key, b"", nonce=nonce, peer=peer, crl=b"")


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_statement_is_refused(authority, count):
    chance = random.Random(count)  # noqa: S311 - the same each time
    lead = kit.load(authority.admin("lead@org.example", "lead"))
    trusted = authorities(lead.root_cert_file)
    statement = CommandStatement(
        project=PROJECT,
        server=SERVER,
        nonce="x",
        number=1,
        time=datetime.now(UTC),
        command="abort_job",
        arguments={"job_id": "y"},
    )
    good = signing.sign(keys.load_private_key(lead.key_file), lead.cert_file.read_bytes(), statement)
    for _ in range(count):
        try:
            found = signing.verify(mutated(chance, good), project=PROJECT, server=SERVER, trusted=trusted, revoked=())
        except SignatureRefused:
            continue
        assert found.statement == statement


@pytest.mark.parametrize("count", COUNTS)
def test_mutated_tensors_are_read_within_their_bytes_or_refused(count):
    chance = random.Random(count)  # noqa: S311 - the same each time
    model = {"w": np.arange(6.0).reshape(2, 3), "b": np.zeros(0, np.float32)}
    good = bytearray(tensors.size_of(model))
    tensors.write(model, memoryview(good))
    for _ in range(count):
        raw = mutated(chance, bytes(good))
        try:
            read = tensors.read(memoryview(raw))
        except BadTensors:
            continue
        assert sum(array.nbytes for array in read.values()) <= len(raw) * max(1, len(read))
