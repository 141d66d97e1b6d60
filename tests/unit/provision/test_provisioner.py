"""Results: what stands in a kit, what is carried over, and what a failure leaves behind (nothing)."""

from __future__ import annotations

import dataclasses
import fcntl
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.ca_records import Records
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.certificates import UNSTRUCTURED_NAME
from clouddeploy_provision.errors import CaError, PassphraseError, ProvisionLocked, ResultError
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, provision
from clouddeploy_runtime import keys, kit
from clouddeploy_runtime.kit import Kind
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_provision import provisioner

PASSPHRASE = b"correct horse"
SITE = {
    "readme.txt": 0o644,
    "startup": 0o755,
    "startup/rootCA.pem": 0o644,
    "startup/start.sh": 0o755,
    "startup/sub_start.sh": 0o755,
    "startup/stop_fl.sh": 0o755,
    "startup/manifest.json": 0o644,
    "startup/manifest.json.sig": 0o644,
    "local": 0o755,
    "local/authorization.json.default": 0o644,
    "local/log_config.json.default": 0o644,
    "local/privacy.json.sample": 0o644,
    "local/resources.json.default": 0o644,
    "transfer": 0o755,
}
TREES = {
    "server1": {
        **SITE,
        "startup/fed_server.json": 0o644,
        "startup/server.crt": 0o644,
        "startup/server.key": 0o600,
    },
    "site-1": {
        **SITE,
        "startup/fed_client.json": 0o644,
        "startup/client.crt": 0o644,
        "startup/client.key": 0o600,
    },
    "lead@nvidia.com": {
        "startup": 0o755,
        "startup/readme.txt": 0o644,
        "startup/fed_admin.json": 0o644,
        "startup/client.crt": 0o644,
        "startup/client.key": 0o600,
        "startup/rootCA.pem": 0o644,
        "startup/fl_admin.sh": 0o755,
        "startup/system_info.ipynb": 0o644,
        "startup/manifest.json": 0o644,
        "startup/manifest.json.sig": 0o644,
        "local": 0o755,
        "local/resources.json.default": 0o644,
        "transfer": 0o755,
    },
}


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def alternative_names(cert: x509.Certificate) -> list[x509.GeneralName]:
    return list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def with_client(project: Project, name: str) -> Project:
    return dataclasses.replace(
        project,
        participants=(*project.participants, Participant(Kind.CLIENT, name, "nvidia", host="localhost", port=8002)),
    )


@pytest.mark.parametrize("name", sorted(TREES))
def test_tree_and_modes(dummy, tmp_path, name):
    report = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert tree(report.kits[name]) == TREES[name]
    assert tmp_path / "example_project" / "prod_00" == report.result
    assert not (tmp_path / "example_project" / "wip").exists()


def test_every_kit_is_verified_and_read(dummy, tmp_path):
    report = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    for name, root in report.kits.items():
        assert name == kit.verify(root).participant
        read = kit.load(root)
        assert (name, "example_project", "server1") == (read.name, read.project, read.server_name)
        assert read.port == 8002
    assert kit.load(report.kits["site-1"]).host == "localhost"
    assert tuple(report.kits) == report.created


def test_certificates_say_who_and_what_for(dummy, tmp_path):
    kits = provision(dummy, tmp_path, passphrase=PASSPHRASE).kits
    server = certificate(kits["server1"] / "startup/server.crt")
    client = certificate(kits["site-1"] / "startup/client.crt")
    admin = certificate(kits["lead@nvidia.com"] / "startup/client.crt")
    root = certificate(kits["site-1"] / "startup/rootCA.pem")
    assert [str(one.value) for one in alternative_names(server)][:2] == ["server1", "localhost"]
    assert isinstance(alternative_names(server)[2], x509.IPAddress)
    assert [x509.RFC822Name("lead@nvidia.com")] == alternative_names(admin)
    assert admin.subject.get_attributes_for_oid(UNSTRUCTURED_NAME)[0].value == "lead"
    assert client.subject.get_attributes_for_oid(UNSTRUCTURED_NAME) == []
    for cert in (server, client, admin):
        cert.verify_directly_issued_by(root)
        assert cert.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "nvidia"
        assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.digital_signature
        assert not usage.value.key_cert_sign
    purposes = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.SERVER_AUTH not in purposes
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.path_length == 0


def test_state_is_private_and_holds_no_participant_key(dummy, tmp_path):
    report = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    state = tmp_path / "example_project" / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert b"ENCRYPTED" in (state / "rootCA.key").read_bytes()
    everything = b"".join(path.read_bytes() for path in state.iterdir())
    assert b"BEGIN PRIVATE KEY" not in everything
    assert all((root / "startup").is_dir() for root in report.kits.values())


def test_second_run_keeps_every_byte(dummy, tmp_path):
    first = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    second = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert second.result.name == "prod_01"
    assert tuple(second.kits) == second.kept
    assert contents(first.result) == contents(second.result)
    assert tree(first.result) == tree(second.result)


def test_adding_a_site_makes_one_key(dummy, tmp_path):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    second = provision(with_client(dummy, "site-3"), tmp_path, passphrase=PASSPHRASE)
    assert second.created == ("site-3",)
    assert second.reissued == ()


def test_new_address_reissues_the_server_with_the_same_key(dummy, tmp_path):
    first = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    at = Endpoint("20.1.2.3", 9000)
    second = provision(dummy, tmp_path, passphrase=PASSPHRASE, extra_server_hosts=["20.1.2.3"], endpoint=at)
    assert second.reissued == ("server1",)
    old, new = first.kits["server1"], second.kits["server1"]
    assert (old / "startup/server.key").read_bytes() == (new / "startup/server.key").read_bytes()
    assert (
        certificate(old / "startup/server.crt").serial_number != certificate(new / "startup/server.crt").serial_number
    )
    assert {"server1", "localhost", "127.0.0.1", "20.1.2.3"} == {
        str(one.value) for one in alternative_names(certificate(new / "startup/server.crt"))
    }
    site = kit.load(second.kits["site-1"])
    assert (site.host, site.port, site.server_name) == ("20.1.2.3", 9000, "server1")
    assert kit.load(new).port == 9000
    assert kit.verify(new).participant == "server1"


def test_endpoint_of_the_last_result_stays_without_a_new_one(dummy, tmp_path):
    at = Endpoint("20.1.2.3", 9000)
    provision(dummy, tmp_path, passphrase=PASSPHRASE, endpoint=at)
    second = provision(with_client(dummy, "site-3"), tmp_path, passphrase=PASSPHRASE)
    assert {"20.1.2.3"} == {kit.load(second.kits[name]).host for name in ("site-1", "site-3", "lead@nvidia.com")}


def test_reuse_returns_the_same_result_until_something_changes(dummy, tmp_path):
    def run(project: Project) -> provisioner.ProvisionReport:
        at = Endpoint("20.1.2.3", 8002)
        return provision(
            project, tmp_path, passphrase=PASSPHRASE, extra_server_hosts=["20.1.2.3"], endpoint=at, reuse_result=True
        )

    first, second = run(dummy), run(dummy)
    assert first.result == second.result
    assert tuple(second.kits) == second.kept
    third = run(with_client(dummy, "site-3"))
    assert third.result.name == "prod_01"
    without = dataclasses.replace(dummy, participants=dummy.participants[:-1])
    assert run(without).result.name == "prod_02"


def test_edited_local_files_are_carried_over(dummy, tmp_path):
    first = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    (first.kits["site-1"] / "local/authorization.json").write_text("{}")
    (first.kits["site-1"] / "daemon_pid.fl").write_text("1")
    second = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert (second.kits["site-1"] / "local/authorization.json").read_text() == "{}"
    assert not (second.kits["site-1"] / "daemon_pid.fl").exists()


def test_worn_certificate_is_renewed_with_the_same_key(dummy, tmp_path):
    first = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    later = datetime.now(UTC) + timedelta(days=300)
    second = provision(dummy, tmp_path, passphrase=PASSPHRASE, now=later)
    assert tuple(second.kits) == second.reissued
    name = "site-1/startup/client.key"
    assert (first.result / name).read_bytes() == (second.result / name).read_bytes()
    assert kit.verify(second.kits["site-1"], now=later).participant == "site-1"


def test_tampered_kit_is_not_carried_over(dummy, tmp_path):
    first = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    key = first.kits["site-1"] / "startup/client.key"
    key.write_bytes(keys.to_pem(keys.generate()))
    second = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert second.created == ("site-1",)
    assert key.read_bytes() != (second.kits["site-1"] / "startup/client.key").read_bytes()


@pytest.mark.parametrize("change", [{"role": "member"}, {"org": "other"}])
def test_identity_of_a_name_cannot_change(dummy, tmp_path, change):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    *rest, last = dummy.participants
    changed = dataclasses.replace(dummy, participants=(*rest, dataclasses.replace(last, **change)))
    with pytest.raises(CaError, match="cannot change its"):
        provision(changed, tmp_path, passphrase=PASSPHRASE)
    assert not (tmp_path / "example_project/prod_01").exists()


@pytest.mark.parametrize("passphrase", [b"", b"wrong"])
def test_wrong_passphrase(dummy, tmp_path, passphrase):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    with pytest.raises(PassphraseError) as caught:
        provision(dummy, tmp_path, passphrase=passphrase)
    assert "wrong horse" not in str(caught.value)
    assert not (tmp_path / "example_project/prod_01").exists()


def test_prod_99_is_the_last(dummy, tmp_path):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    folder = tmp_path / "example_project"
    (folder / "prod_00").rename(folder / "prod_99")
    before = contents(folder)
    with pytest.raises(ResultError, match="prod_99"):
        provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert before == contents(folder)


def test_failure_while_writing_leaves_no_result(dummy, tmp_path, monkeypatch):
    def fail(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Records, "record", fail)
        with pytest.raises(KeyboardInterrupt):
            provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert [path.name for path in (tmp_path / "example_project").iterdir()] == ["state"]
    assert provision(dummy, tmp_path, passphrase=PASSPHRASE).result.name == "prod_00"


def test_leftover_of_a_killed_run_is_removed(dummy, tmp_path):
    wip = tmp_path / "example_project" / "wip" / "site-9"
    wip.mkdir(parents=True)
    report = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    assert not (report.result / "site-9").exists()


def test_open_state_is_refused(dummy, tmp_path):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    (tmp_path / "example_project/state/rootCA.key").chmod(0o644)
    with pytest.raises(CaError, match=r"rootCA\.key is refused"):
        provision(dummy, tmp_path, passphrase=PASSPHRASE)


def test_second_run_at_the_same_time_is_refused(dummy, tmp_path):
    provision(dummy, tmp_path, passphrase=PASSPHRASE)
    with (tmp_path / "example_project/state/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ProvisionLocked):
            provision(dummy, tmp_path, passphrase=PASSPHRASE)


def test_changed_root_validity_is_refused(dummy, tmp_path):
    provision(dataclasses.replace(dummy, root_valid_days=100), tmp_path, passphrase=PASSPHRASE)
    provision(dataclasses.replace(dummy, root_valid_days=100), tmp_path, passphrase=PASSPHRASE)
    with pytest.raises(CaError, match="root_valid_days"):
        provision(dataclasses.replace(dummy, root_valid_days=200), tmp_path, passphrase=PASSPHRASE)


def test_nothing_secret_is_in_a_repr(dummy, tmp_path):
    report = provision(dummy, tmp_path, passphrase=PASSPHRASE)
    authority = CaStore(tmp_path / "example_project/state").open(PASSPHRASE)
    text = repr(report) + repr(authority) + repr(kit.load(report.kits["site-1"]))
    assert "PrivateKey" not in text
    assert "horse" not in text
