"""The list of revoked certificates: who signs it, what OpenSSL thinks of it, and what a participant believes."""

from __future__ import annotations

import base64
import contextlib
import os
from datetime import timedelta

import pytest
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import RevokedLine
from clouddeploy_provision.certificates import REASONS
from clouddeploy_provision.project import Participant
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.revocation import RevocationFault, RevocationList
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.often import often

SERIALS = (0x1234, 0xABCDEF, 0x99)


@pytest.fixture(scope="module")
def authority(now):
    return Authority.create("study", now=now - timedelta(days=1))


@pytest.fixture(scope="module")
def stranger(now):
    """Another authority of the same name."""
    return Authority.create("study", now=now - timedelta(days=1))


def lines(count, now, reason="unspecified"):
    return [RevokedLine(f"{serial:x}", "site-1", reason, now.isoformat()) for serial in SERIALS[:count]]


@pytest.fixture(scope="module")
def listed(authority, now):
    """Lists with one, two and three certificates."""
    return {count: authority.revocation_list(lines(count, now), now=now) for count in (1, 2, 3)}


@pytest.fixture
def known(authority, tmp_path):
    def make(*, trusted=(authority.certificate,)):
        return RevocationList(list(trusted), sources=[tmp_path / "kit.pem"], memory=tmp_path / "crl.pem")

    return make


@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm), ids=str)
def test_openssl_accepts_the_list_and_refuses_who_stands_in_it(openssl, tmp_path, now, algorithm):
    authority = Authority.create("study", now=now - timedelta(days=1), algorithm=algorithm)
    (tmp_path / "root.pem").write_bytes(authority.pem)
    revoked = []
    for name in ("site-1", "site-2"):
        cert = authority.issue(Participant(Kind.CLIENT, name, "org"), keys.generate().public_key(), now=now)
        (tmp_path / f"{name}.crt").write_bytes(cert.public_bytes(Encoding.PEM))
        revoked.append(RevokedLine(f"{cert.serial_number:x}", name, "key_compromise", now.isoformat()))
    (tmp_path / "crl.pem").write_bytes(authority.revocation_list(revoked[:1], now=now))
    status, said = openssl("crl", "-in", tmp_path / "crl.pem", "-verify", "-CAfile", tmp_path / "root.pem", "-text")
    assert (status, "verify OK" in said, "Key Compromise" in said) == (0, True, True)
    assert "X509v3 CRL Number: \n                1\n" in said
    for name, accepted in (("site-1", False), ("site-2", True)):
        status, said = openssl(
            "verify",
            "-crl_check",
            *("-CRLfile", tmp_path / "crl.pem", "-CAfile", tmp_path / "root.pem"),
            tmp_path / f"{name}.crt",
        )
        assert (status == 0, "certificate revoked" in said) == (accepted, not accepted)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_stands_in_the_list_but_the_unspecified_one(authority, now, reason):
    crl = x509.load_pem_x509_crl(authority.revocation_list(lines(1, now, reason), now=now))
    (entry,) = crl
    stated = [one.value.reason for one in entry.extensions if one.oid == x509.CRLReason.oid]
    assert stated == ([] if reason == "unspecified" else [REASONS[reason]])


def test_a_list_says_who_made_it_and_how_long_it_holds(authority, listed):
    crl = x509.load_pem_x509_crl(listed[3])
    assert crl.issuer == authority.certificate.subject
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    root = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert identifier == root
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    assert {one.serial_number for one in crl} == set(SERIALS)
    assert revocation.parse(listed[3], [authority.certificate]).number == 3


@pytest.mark.parametrize("content", [b"", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", b"\xff" * 64])
def test_what_is_no_list_is_refused(authority, content):
    with pytest.raises(RevocationFault, match="not a PEM list"):
        revocation.parse(content, [authority.certificate])


def test_a_list_of_another_authority_is_refused(listed, stranger):
    with pytest.raises(RevocationFault, match="not signed"):
        revocation.parse(listed[1], [stranger.certificate])


def test_a_list_that_is_too_large_is_refused(authority):
    with pytest.raises(RevocationFault, match="bytes"):
        revocation.parse(b"x" * (revocation.MAX_BYTES + 1), [authority.certificate])


@settings(
    max_examples=often(300, nightly=1500), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_a_damaged_list_is_refused_or_says_what_was_signed(authority, listed, data):
    """Some bits lie outside what is signed, such as how many of the signature's last byte are unused."""
    signed = revocation.parse(listed[2], [authority.certificate])
    der = bytearray(base64.b64decode(b"".join(listed[2].splitlines()[1:-1])))
    places = st.integers(0, len(der) - 1)
    for place, change in data.draw(st.dictionaries(places, st.integers(1, 255), min_size=1, max_size=3)).items():
        der[place] ^= change
    body = base64.encodebytes(bytes(der)).decode()
    pem = f"-----BEGIN X509 CRL-----\n{body}-----END X509 CRL-----\n".encode()
    with contextlib.suppress(RevocationFault):
        read = revocation.parse(pem, [authority.certificate])
        assert (read.number, read.serials) == (signed.number, signed.serials)


def test_nothing_is_revoked_while_there_is_no_list(known):
    one = known()
    assert not one.refresh()
    assert (one.current.number, SERIALS[0] in one) == (0, False)


def test_a_list_put_into_the_kit_is_found_and_outlives_a_restart(known, listed, tmp_path):
    one = known()
    (tmp_path / "kit.pem").write_bytes(listed[2])
    assert one.refresh()
    assert not one.refresh()
    (tmp_path / "kit.pem").unlink()
    again = known()
    assert again.refresh()
    assert (again.current.number, SERIALS[1] in again, SERIALS[2] in again) == (2, True, False)
    assert (tmp_path / "crl.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("number", "newer"), [(1, False), (2, False), (3, True)])
def test_only_a_list_with_a_higher_number_replaces_what_is_known(known, listed, number, newer):
    one = known()
    assert one.adopt(listed[2])
    assert one.adopt(listed[number]) is newer
    assert one.current.number == max(2, number)


def test_a_list_of_another_authority_changes_nothing(known, listed, stranger, now, *, tmp_path, caplog):
    one = known()
    one.adopt(listed[1])
    foreign = stranger.revocation_list(lines(3, now), now=now)
    with pytest.raises(RevocationFault, match="not signed"):
        one.adopt(foreign)
    (tmp_path / "kit.pem").write_bytes(foreign)
    assert not one.refresh()
    assert not one.refresh()
    assert caplog.text.count("not signed") == 1
    assert (one.current.number, SERIALS[0] in one) == (1, True)


@pytest.mark.parametrize("damaged", ["kit.pem", "crl.pem"])
def test_one_damaged_file_does_not_hide_the_list_in_the_other(known, listed, tmp_path, damaged):
    (tmp_path / "kit.pem").write_bytes(listed[2])
    (tmp_path / "crl.pem").write_bytes(listed[2])
    (tmp_path / damaged).write_bytes(b"damaged")
    one = known()
    assert one.refresh()
    assert (one.current.number, SERIALS[1] in one) == (2, True)
    assert not one.refresh()
    assert (tmp_path / "crl.pem").read_bytes() == listed[2]


def test_a_list_that_was_still_being_copied_is_read_once_it_is_whole(known, listed, tmp_path):
    one, path = known(), tmp_path / "kit.pem"
    path.write_bytes(listed[1][:100])
    written_at = path.stat().st_mtime_ns
    assert not one.refresh()
    path.write_bytes(listed[1])
    os.utime(path, ns=(written_at, written_at))  # a file system's clock may tick only a few times a second
    assert one.refresh()


def test_a_list_that_cannot_be_kept_is_in_force_all_the_same(authority, listed, tmp_path, caplog):
    one = RevocationList([authority.certificate], sources=[], memory=tmp_path / "no such folder" / "crl.pem")
    assert one.adopt(listed[1])
    assert SERIALS[0] in one
    assert "A restart will forget" in caplog.text


def test_after_the_root_was_exchanged_the_kits_list_counts_although_the_old_one_is_unreadable(
    known, listed, stranger, now, tmp_path
):
    """`finish` leaves a workspace whose list the old root signed, and brings a kit whose list the new one signed."""
    (tmp_path / "crl.pem").write_bytes(listed[2])
    (tmp_path / "kit.pem").write_bytes(stranger.revocation_list(lines(2, now), now=now))
    for _ in range(2):  # the second time is a restart
        one = known(trusted=[stranger.certificate])
        assert one.refresh()
        assert SERIALS[1] in one
