"""Request, approval and package as they are meant to go."""

import base64
import json
import os
import re
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.errors import CaError, PassphraseError
from clouddeploy_runtime import keys, places
from clouddeploy_runtime.enrolment import formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.kit import Kind, KitRevoked, KitTampered, load, verify
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = formats.Site("hospitals", "fl.example.com", "hospital_a", "server", "", ("10.0.0.1", "fl"))
ADMIN = formats.Site("hospitals", "lead@hospital.org", "hospital_a", "admin", "lead")
CLIENT = formats.Site("hospitals", "site-1", "hospital_a", "client")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


# The request.


def test_what_a_request_writes(asked):
    folder = asked.folder / "site" / "site-1"
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
        ["site-1.key", "site-1.csr", "site.yaml", "request.json", "site-1.request.zip"], 0o600
    )
    assert mode(folder) == 0o700
    assert set(asked.members(asked.request_zip)) == {"request.json", "site.yaml", "site-1.csr"}


def test_request_json_says_what_the_specification_demands(asked):
    document = json.loads((asked.folder / "site" / "site-1" / "request.json").read_bytes())
    assert set(document) == {
        "artifact_type",
        "schema_version",
        "request_id",
        "created_at",
        "project",
        "name",
        "org",
        "kind",
        "cert_type",
        "cert_role",
        "csr_sha256",
        "public_key_sha256",
        "site_yaml_sha256",
    }
    assert re.fullmatch("[0-9a-f]{32}", document["request_id"])
    assert document["created_at"] == "2026-03-01T12:00:00+00:00"


def test_a_certificate_request_has_the_subject_and_nothing_else(enrolment):
    made = enrolment.ask(ADMIN)
    csr = x509.load_pem_x509_csr((made.folder / "lead@hospital.org.csr").read_bytes())
    assert csr.is_signature_valid
    assert [one.rfc4514_string() for one in csr.subject] == [
        "CN=lead@hospital.org",
        "O=hospital_a",
        "1.2.840.113549.1.9.2=lead",
    ]
    assert list(csr.extensions) == []


def test_each_request_is_on_record(enrolment):
    made = [enrolment.ask(), enrolment.ask(ADMIN), enrolment.ask(force=True)]
    records = places.state_folder() / "requests"
    assert {path.stem for path in records.iterdir()} == {one.request_id for one in made}
    assert mode(records) == 0o700
    record = json.loads((records / f"{made[1].request_id}.json").read_bytes())
    assert (record["name"], record["folder"]) == ("lead@hospital.org", str(made[1].folder))
    assert not any("PRIVATE" in path.read_text() for path in records.iterdir())


def test_a_home_that_cannot_be_written_to_is_no_obstacle(enrolment, monkeypatch):
    monkeypatch.setenv(places.STATE_VARIABLE, "/dev/null/none")
    assert enrolment.ask().archive.exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CLOUDDEPLOY_STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/clouddeploy"),
        ({"XDG_STATE_HOME": "b", "HOME": "/c"}, "/c/.local/state/clouddeploy"),
        ({"HOME": "/c"}, "/c/.local/state/clouddeploy"),
    ],
)
def test_where_records_are(environment, expected, monkeypatch):
    for name in ("CLOUDDEPLOY_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert places.state_folder() == Path(expected)


def test_a_user_without_a_home_has_records_all_the_same(monkeypatch):
    for name in ("CLOUDDEPLOY_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert places.state_folder() == Path("/var/lib/clouddeploy")


def test_force_makes_a_new_key(asked):
    before = (asked.folder / "site" / "site-1" / "site-1.key").read_bytes()
    asked.ask(force=True)
    assert (asked.folder / "site" / "site-1" / "site-1.key").read_bytes() != before
    assert [path.name for path in (asked.folder / "site").iterdir()] == ["site-1"]


# No private key on the way.


@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm))
def test_neither_archive_holds_the_private_key_in_any_form(enrolment, algorithm):
    made = enrolment.ask(algorithm=algorithm)
    enrolment.approve()
    pem = (made.folder / "site-1.key").read_bytes()
    numbers = keys.from_pem(pem).private_numbers()
    secrets = [numbers.private_value] if algorithm is keys.KeyAlgorithm.P256 else [numbers.d, numbers.p, numbers.q]
    lines = pem.splitlines()[1:-1]
    marks = [*lines, base64.b64decode(b"".join(lines))]
    for secret in secrets:
        raw = secret.to_bytes((secret.bit_length() + 7) // 8, "big")
        marks += [raw, raw.hex().encode(), base64.b64encode(raw), str(secret).encode()]
    for path in (enrolment.request_zip, enrolment.signed_zip):
        for content in (path.read_bytes(), *enrolment.members(path).values()):
            assert not [mark for mark in marks if mark in content]
            assert b"PRIVATE" not in content


# The approval.


@pytest.mark.parametrize(
    ("site", "usages", "names"),
    [
        (CLIENT, [ExtendedKeyUsageOID.CLIENT_AUTH], ["site-1"]),
        (ADMIN, [ExtendedKeyUsageOID.CLIENT_AUTH], ["lead@hospital.org"]),
        (
            SERVER,
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
            ["fl.example.com", "10.0.0.1", "fl"],
        ),
    ],
)
def test_the_certificate_says_what_the_approved_kind_may(enrolment, site, usages, names):
    answer = enrolment.approve(enrolment.ask(site).archive)
    cert = x509.load_pem_x509_certificate(enrolment.members(answer.archive)[f"{site.name}.crt"])
    extensions = cert.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in alternatives] == names
    roles = [one.value for one in cert.subject.get_attributes_for_oid(NameOID.UNSTRUCTURED_NAME)]
    assert roles == ([site.role] if site.role else [])
    assert cert.not_valid_after_utc == enrolment.now + timedelta(days=1095)
    assert answer.host_names == site.host_names


def test_the_answer_says_what_the_specification_demands(approved):
    members = approved.members(approved.signed_zip)
    plain = {name for name in members if not name.startswith("kit/")}
    assert plain == {"signed.json", "signed.json.sig", "site.yaml", "site-1.crt", "rootCA.pem"}
    document = json.loads(members["signed.json"])
    assert set(document) == {
        "artifact_type",
        "schema_version",
        "request_id",
        "approved_at",
        "project",
        "name",
        "org",
        "kind",
        "cert_type",
        "cert_role",
        "certificate",
        "cert_file",
        "rootca_file",
        "ca_info",
        "hashes",
        "scheme",
        "default_connection_security",
        "server",
        "kit",
    }
    assert document["server"]["host"] == "fl.example.com"
    assert document["ca_info"] == {"provision_version": "00", "rootCA_fingerprint": approved.fingerprint}


def test_the_end_of_a_certificate_is_never_beyond_that_of_the_root(asked):
    answer = asked.approve(days=36_500)
    assert answer.not_after == CaStore(asked.ca).certificate().not_valid_after_utc


def test_an_approved_name_is_listed_and_can_be_revoked(approved):
    def states():
        return {one.name: one.state for one in certificate_authority.listing(approved.ca, now=approved.now)}

    assert states() == {"hospitals": "valid", "site-1": "valid"}
    certificate_authority.revoke(approved.ca, ["site-1"], passphrase=approved.passphrase, now=approved.now)
    assert states() == {"hospitals": "valid", "site-1": "revoked"}


def test_a_kit_that_is_made_after_a_revocation_knows_of_it(approved):
    """And the list that it brings refuses the kit of the site that was revoked."""
    crl = certificate_authority.revoke(approved.ca, ["site-1"], passphrase=approved.passphrase, now=approved.now)
    answer = approved.approve(approved.ask(ADMIN).archive)
    made = approved.package(answer.archive, request_dir=approved.folder / "site" / ADMIN.name)
    assert (made.kit / "local" / "crl.pem").read_bytes() == crl
    old = approved.package().kit
    (old / "local" / "crl.pem").write_bytes(crl)
    with pytest.raises(KitRevoked):
        verify(old, now=approved.now)


def test_force_readmits_a_revoked_site(approved):
    certificate_authority.revoke(approved.ca, ["site-1"], passphrase=approved.passphrase, now=approved.now)
    approved.ask(force=True)
    approved.approve(force=True)
    assert verify(approved.package().kit, now=approved.now).crl_number == 1


def test_a_site_may_ask_again_when_its_certificate_has_expired(approved):
    later = approved.now + timedelta(days=1096)
    approved.ask(force=True, now=later)
    approved.signed_zip.unlink()
    approved.approve(now=later)
    assert approved.package(now=later).kit.is_dir()


def test_another_address_in_the_profile_changes_no_name(enrolment):
    """The server has its certificate; a client that is told of a new address still checks the old name."""
    enrolment.approve(enrolment.ask(SERVER).archive)
    enrolment.ask()
    enrolment.approve(profile=formats.Profile("hospitals", formats.ServerProfile("192.0.2.7", 443)))
    kit = load(enrolment.package().kit)
    assert (kit.server_name, kit.host, kit.port) == ("fl.example.com", "192.0.2.7", 443)


def test_a_wrong_passphrase_approves_nothing(asked):
    with pytest.raises(PassphraseError):
        asked.approve(passphrase=b"wrong")
    assert not list((asked.folder / "answers").iterdir())


def test_a_folder_without_an_authority(asked):
    with pytest.raises(CaError, match="no authority"):
        asked.approve(ca=asked.folder)


# The package.


@pytest.mark.parametrize("site", [CLIENT, ADMIN, SERVER], ids=lambda site: site.type)
@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm))
def test_a_kit_of_each_kind(enrolment, site, algorithm):
    made = enrolment.ask(site, algorithm=algorithm)
    answer = enrolment.approve(made.archive)
    package = enrolment.package(answer.archive, request_dir=made.folder)
    assert package.kit == enrolment.folder / "workspace" / "hospitals" / "prod_00" / site.name
    manifest = verify(package.kit, now=enrolment.now)
    kit = load(package.kit)
    assert (manifest.participant, kit.kind, kit.org) == (site.name, Kind(site.type), site.org)
    assert kit.server_name == "fl.example.com"
    assert kit.key_file.read_bytes() == (made.folder / f"{site.name}.key").read_bytes()


def test_nothing_in_a_kit_may_be_written_by_others(approved):
    kit = approved.package().kit
    for path in kit.rglob("*"):
        wanted = {"client.key": 0o600}.get(path.name, 0o755 if path.suffix == ".sh" or path.is_dir() else 0o644)
        assert (str(path), oct(mode(path))) == (str(path), oct(wanted))
    assert mode(kit) == mode(kit.parent) & ~0o022 == 0o755


def test_two_participants_share_a_result(approved):
    approved.package()
    made = approved.ask(ADMIN)
    approved.package(approved.approve(made.archive).archive, request_dir=made.folder)
    assert {path.name for path in (approved.folder / "workspace/hospitals/prod_00").iterdir()} == {"site-1", ADMIN.name}


def test_trust_on_first_use_must_be_said(approved):
    made = approved.package(expected_fingerprint=None, trust_on_first_use=True)
    assert made.rootca_fingerprint == approved.fingerprint


def test_trust_on_first_use_does_not_override_a_fingerprint(approved):
    with pytest.raises(EnrolmentFault) as caught:
        approved.package(expected_fingerprint="00" * 32, trust_on_first_use=True)
    assert caught.value.error_code == "ROOTCA_FINGERPRINT_MISMATCH"


def test_the_default_folder_of_the_request_is_here(approved, monkeypatch):
    monkeypatch.chdir(approved.folder / "site")
    assert approved.package(request_dir=None).kit.is_dir()


def test_a_forced_kit_keeps_what_the_site_put_into_it(approved):
    kit = approved.package().kit
    kept = ["local/authorization.json", "local/custom/own.py", "transfer/data.csv", "workspace/log.txt"]
    for name in kept:
        (kit / name).parent.mkdir(exist_ok=True)
        (kit / name).write_text(name)
    (kit / "startup" / "added.sh").write_text("not signed")
    approved.ask(force=True)
    approved.approve(force=True)
    approved.package(force=True)
    assert [(kit / name).read_text() for name in kept] == kept
    assert verify(kit, now=approved.now).participant == "site-1"
    assert sorted(path.name for path in kit.parent.iterdir()) == ["site-1"]


def test_a_package_that_was_killed_while_it_replaced_a_kit(approved):
    """The old kit was moved aside already: the next run finds it and takes over what is the site's."""
    kit = approved.package().kit
    (kit / "local" / "endpoint.json").write_text("{}")
    kit.rename(kit.parent / ".site-1.old")
    (kit.parent / ".site-1.partial").mkdir()
    approved.package()
    assert (kit / "local" / "endpoint.json").read_text() == "{}"
    assert sorted(path.name for path in kit.parent.iterdir()) == ["site-1"]


def test_a_packaged_kit_is_refused_like_any_other_when_it_was_changed(approved):
    kit = approved.package().kit
    (kit / "startup" / "start.sh").write_text("exit 0")
    with pytest.raises(KitTampered):
        verify(kit, now=approved.now)


def test_while_the_root_is_exchanged_the_one_that_signs_is_the_one_to_tell(asked):
    """Kits trust both roots then, the fingerprint is that of the present one."""
    for phase in (certificate_authority.Phase.START, certificate_authority.Phase.SWITCH):
        old = asked.fingerprint
        certificate_authority.rollover(asked.ca, phase, passphrase=asked.passphrase, now=asked.now)
    asked.approve()
    with pytest.raises(EnrolmentFault) as caught:
        asked.package(expected_fingerprint=old)
    assert caught.value.error_code == "SIGNATURE_INVALID"
    assert verify(asked.package().kit, now=asked.now)


# The authority.


def test_a_new_version_puts_the_old_authority_aside(approved):
    before = approved.fingerprint
    key = (approved.ca / "rootCA.key").read_bytes()
    made = approved.init(force=True, version="01", org="hospital_a")
    assert (made.provision_version, made.rootCA_fingerprint) == ("01", approved.fingerprint)
    assert made.rootCA_fingerprint != before
    assert (approved.ca / "backup_00" / "rootCA.key").read_bytes() == key
    assert mode(approved.ca) == mode(approved.ca / "backup_00") == 0o700
    assert mode(approved.ca / "rootCA.key") == 0o600
    approved.approve(force=True)
    assert approved.package().kit.parent.name == "prod_01"


@pytest.mark.parametrize("version", ["0", "000", "1a", "", "0\n", "\u0660\u0660"])
def test_a_version_must_have_two_digits(tmp_path, enrolment, version):
    with pytest.raises(EnrolmentFault) as caught:
        certificate_authority.init(enrolment.profile, tmp_path / "new", passphrase=b"x", version=version)
    assert caught.value.error_code == "PROFILE_INVALID"


def test_formats_are_read_back_as_they_were_written():
    profile = formats.Profile("p", formats.ServerProfile("h", 1))
    assert formats.decode(formats.encode(profile), formats.Profile) == profile
    assert formats.convert(msgspec.to_builtins(profile), formats.Profile) == profile
    assert request.is_server_name("h")
