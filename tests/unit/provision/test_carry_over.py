"""What of the last result goes on: signed files by link, hand-made ones by copy, certificates while they fit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.errors import CaError, ResultError
from clouddeploy_provision.project import Listening, Participant, Project
from clouddeploy_provision.provisioner import Endpoint, Options, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.kit import Kind
from cryptography import x509

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_provision.provisioner import ProvisionReport

PASSPHRASE = b"correct horse"


def make(project: Project, folder: Path, **given) -> ProvisionReport:
    return provision(project, folder, passphrase=PASSPHRASE, **given)


def with_server(project: Project, **change) -> Project:
    server, *rest = project.participants
    return dataclasses.replace(project, participants=(dataclasses.replace(server, **change), *rest))


def with_site(project: Project, **change) -> Project:
    """Change site-1."""
    server, site, *rest = project.participants
    return dataclasses.replace(project, participants=(server, dataclasses.replace(site, **change), *rest))


def serial(root: Path, name: str = "client.crt") -> int:
    return x509.load_pem_x509_certificate((root / "startup" / name).read_bytes()).serial_number


def reasons(report: ProvisionReport) -> dict[str, str]:
    return {one.name: one.reason for one in report.changes if one.outcome != "kept"}


def test_signed_files_have_one_copy_and_all_others_are_separate(dummy, tmp_path):
    """An editor that writes in place changes one result only, whatever file of the site's it is."""
    first, second = make(dummy, tmp_path), make(dummy, tmp_path)
    for name, root in first.kits.items():
        for path in (one for one in root.rglob("*") if one.is_file()):
            other = second.kits[name] / path.relative_to(root)
            assert path.read_bytes() == other.read_bytes()
            is_signed = path.parent.name == "startup"
            assert (path.stat().st_ino == other.stat().st_ino) == is_signed, path


@pytest.mark.parametrize("path", ["local/resources.json.default", "local/privacy.json.sample", "readme.txt"])
def test_a_file_that_was_edited_in_place_goes_on_and_the_earlier_result_stays(dummy, tmp_path, path):
    first = make(dummy, tmp_path)
    second = make(dummy, tmp_path)
    with (second.kits["site-1"] / path).open("r+") as file:
        file.write("MINE")
    assert not (first.kits["site-1"] / path).read_text().startswith("MINE")
    for _ in range(3):  # and is known as edited for ever
        report = make(dummy, tmp_path)
        assert (report.kits["site-1"] / path).read_text().startswith("MINE")
        assert not (report.kits["site-2"] / path).read_text().startswith("MINE")
        assert report.warnings == second.warnings


def test_an_edited_file_is_no_reason_for_another_result(dummy, tmp_path):
    first = make(dummy, tmp_path)
    (first.kits["site-1"] / "local/resources.json.default").write_text("{}")
    assert make(dummy, tmp_path, reuse_result=True).result == first.result


def test_an_edit_of_a_file_that_is_made_differently_now_is_reported(dummy, tmp_path):
    first = make(dummy, tmp_path)
    path = "local/resources.json.default"
    (first.kits["site-1"] / path).write_text("{}")
    report = make(with_site(dummy, gpus=8), tmp_path)
    assert json.loads((report.kits["site-1"] / path).read_text()) != {}
    assert any(f"site-1/{path} is made differently now" in one for one in report.warnings)


def test_a_site_file_that_was_removed_is_made_again(dummy, tmp_path):
    (make(dummy, tmp_path).kits["site-1"] / "local/privacy.json.sample").unlink()
    report = make(dummy, tmp_path)
    assert report.kept == tuple(report.kits)
    assert (report.kits["site-1"] / "local/privacy.json.sample").is_file()


@pytest.mark.parametrize("what", ["kept", "reissued", "without index"])
def test_what_was_added_by_hand_goes_on(dummy, tmp_path, what):
    root = make(dummy, tmp_path).kits["site-1"]
    (root / "local/custom/deep").mkdir(parents=True)
    (root / "local/custom/deep/mine.py").write_text("x = 1\n")
    (root / "local/custom/deep/mine.py").chmod(0o700)
    (root / "local/authorization.json").write_text("{}")
    (root / "local/link").symlink_to("/etc/passwd")
    (root / "transfer/result.bin").write_text("big")
    (root / "log.txt").write_text("")
    if what == "without index":
        (tmp_path / "example_project/state/kits.json").unlink()
    renewal = Renewal(frozenset({"site-1"} if what == "reissued" else ()))
    report = make(dummy, tmp_path, options=Options(renewal=renewal))
    new = report.kits["site-1"]
    assert ("site-1" in report.reissued) == (what == "reissued")
    assert (new / "local/custom/deep/mine.py").read_text() == "x = 1\n"
    assert (new / "local/custom/deep/mine.py").stat().st_mode & 0o777 == 0o700
    assert (new / "local/authorization.json").read_text() == "{}"
    for gone in ("local/link", "transfer/result.bin", "log.txt"):
        assert not os.path.lexists(new / gone)
    assert kit.verify(new).participant == "site-1"


class TestAnAddress:
    def test_of_a_deployment_stays(self, dummy, tmp_path):
        make(dummy, tmp_path, endpoint=Endpoint("20.1.2.3", 9000))
        report = make(dummy, tmp_path)
        assert {kit.load(report.kits[name]).host for name in ("site-1", "site-2")} == {"20.1.2.3"}

    def test_that_one_site_wrote_by_hand_is_that_sites(self, dummy, tmp_path):
        (make(dummy, tmp_path).kits["site-1"] / "local/endpoint.json").write_text('{"host": "proxy.example.com"}')
        report = make(dummy, tmp_path)
        assert kit.load(report.kits["site-1"]).host == "proxy.example.com"
        assert kit.load(report.kits["site-2"]).host == "localhost"
        assert not (report.kits["server1"] / "local/endpoint.json").exists()

    def test_that_one_site_edited_is_that_sites_until_the_deployment_moves(self, dummy, tmp_path):
        first = make(dummy, tmp_path, endpoint=Endpoint("20.1.2.3", 9000))
        (first.kits["site-1"] / "local/endpoint.json").write_text('{"host": "proxy.example.com"}')
        second = make(dummy, tmp_path)
        hosts = [kit.load(second.kits[name]).host for name in ("site-1", "site-2")]
        assert hosts == ["proxy.example.com", "20.1.2.3"]
        third = make(dummy, tmp_path, endpoint=Endpoint("20.1.2.4", 9000))
        assert {kit.load(third.kits[name]).host for name in ("site-1", "site-2")} == {"20.1.2.4"}

    def test_is_found_without_an_index(self, dummy, tmp_path):
        make(dummy, tmp_path, endpoint=Endpoint("20.1.2.3", 9000))
        (tmp_path / "example_project/state/kits.json").unlink()
        assert kit.load(make(dummy, tmp_path).kits["site-2"]).host == "20.1.2.3"


class TestHostNames:
    @pytest.mark.parametrize(
        ("hosts", "reason"),
        [
            (("localhost", "127.0.0.1", "fl.example.com"), "its certificate lacks DNS:fl.example.com"),
            (("localhost", "127.0.0.1", "::1"), "its certificate lacks IP:::1"),
            (("localhost",), "the project file has 127.0.0.1 no more"),
        ],
    )
    def test_changed_ones_reissue_the_server_with_its_key_and_nobody_else(self, dummy, tmp_path, hosts, reason):
        first = make(dummy, tmp_path)
        report = make(with_server(dummy, hosts=hosts), tmp_path)
        assert reasons(report) == {"server1": reason}
        old, new = first.kits["server1"], report.kits["server1"]
        assert (old / "startup/server.key").read_bytes() == (new / "startup/server.key").read_bytes()
        assert serial(old, "server.crt") != serial(new, "server.crt")
        names = x509.load_pem_x509_certificate((new / "startup/server.crt").read_bytes())
        found = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {str(one.value) for one in found} == {"server1", *hosts}

    def test_another_order_changes_nothing(self, dummy, tmp_path):
        make(dummy, tmp_path)
        report = make(with_server(dummy, hosts=tuple(reversed(dummy.server.hosts))), tmp_path)
        assert reasons(report) == {}

    def test_of_a_listener_reissue_its_second_certificate_only(self, dummy, tmp_path):
        def listening(host: str) -> Project:
            return with_site(dummy, listening=Listening(host=host, port=8102))

        first = make(listening("a.example.com"), tmp_path)
        report = make(listening("b.example.com"), tmp_path)
        assert reasons(report)["site-1"] == "its names as a listener changed"
        old, new = first.kits["site-1"], report.kits["site-1"]
        assert serial(old) == serial(new)
        assert serial(old, "server.crt") != serial(new, "server.crt")
        assert kit.verify(new).participant == "site-1"
        lines = CaStore(tmp_path / "example_project/state").records.issued()
        assert [one.listener for one in lines if one.name == "site-1"] == [False, True, True]


class TestIdentity:
    @pytest.mark.parametrize("change", [{"org": "other"}, {"kind": Kind.ADMIN, "role": "lead"}])
    def test_of_a_site_cannot_change(self, dummy, tmp_path, change):
        make(dummy, tmp_path)
        with pytest.raises(CaError, match="site-1 cannot change its"):
            make(with_site(dummy, **change), tmp_path)
        assert not (tmp_path / "example_project/prod_01").exists()

    def test_of_one_who_left_and_came_back_cannot_change_either(self, dummy, tmp_path):
        make(dummy, tmp_path)
        server, _, *rest = dummy.participants
        make(dataclasses.replace(dummy, participants=(server, *rest)), tmp_path)
        with pytest.raises(CaError, match="site-1 cannot change its organisation"):
            make(with_site(dummy, org="other"), tmp_path)

    def test_one_who_left_and_came_back_gets_a_new_key(self, dummy, tmp_path):
        first = make(dummy, tmp_path)
        server, _, *rest = dummy.participants
        make(dataclasses.replace(dummy, participants=(server, *rest)), tmp_path)
        report = make(dummy, tmp_path)
        assert report.created == ("site-1",)
        key = "site-1/startup/client.key"
        assert (first.result / key).read_bytes() != (report.result / key).read_bytes()


class TestRenewal:
    @pytest.mark.parametrize("new_key", [False, True])
    def test_of_one(self, dummy, tmp_path, new_key):
        first = make(dummy, tmp_path)
        report = make(dummy, tmp_path, options=Options(renewal=Renewal(frozenset({"site-1"}), new_key=new_key)))
        assert reasons(report) == {"site-1": "its renewal was asked for"}
        assert (report.created if new_key else report.reissued) == ("site-1",)
        key = "site-1/startup/client.key"
        assert ((first.result / key).read_bytes() == (report.result / key).read_bytes()) == (not new_key)
        assert serial(first.kits["site-1"]) != serial(report.kits["site-1"])

    def test_of_nobody_known(self, dummy, tmp_path):
        make(dummy, tmp_path)
        with pytest.raises(ResultError, match="site-7 cannot be renewed"):
            make(dummy, tmp_path, options=Options(renewal=Renewal(frozenset({"site-7"}))))

    def test_an_expired_certificate_keeps_its_key(self, dummy, tmp_path):
        first = make(dummy, tmp_path)
        later = datetime.now(UTC) + timedelta(days=400)
        report = make(dummy, tmp_path, now=later)
        assert set(reasons(report).values()) == {"its certificate has expired"}
        key = "site-1/startup/client.key"
        assert (first.result / key).read_bytes() == (report.result / key).read_bytes()
        for root in report.kits.values():
            kit.verify(root, now=later)

    def test_a_key_that_was_exchanged_meanwhile_is_not_certified(self, dummy, tmp_path):
        """Looks untouched: same size, mode and time. It is read, so it is verified."""
        first = make(dummy, tmp_path)
        key = first.kits["site-1"] / "startup/client.key"
        before = key.stat()
        shutil.copyfile(first.kits["site-2"] / "startup/client.key", key)
        os.utime(key, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ResultError, match=r"client\.key"):
            make(dummy, tmp_path, options=Options(renewal=Renewal(frozenset({"site-1"}))))
        assert not (tmp_path / "example_project/prod_01").exists()


class TestRevocation:
    @pytest.fixture
    def revoked(self, dummy, tmp_path) -> ProvisionReport:
        report = make(dummy, tmp_path)
        certificate_authority.revoke(tmp_path / "example_project/state", ["site-1"], passphrase=PASSPHRASE)
        return report

    def test_a_revoked_site_gets_no_kit(self, dummy, tmp_path, revoked):
        with pytest.raises(CaError, match="site-1 gets no kit"):
            make(dummy, tmp_path)

    def test_it_is_readmitted_with_a_new_key(self, dummy, tmp_path, revoked):
        report = make(dummy, tmp_path, options=Options(renewal=Renewal(frozenset({"site-1"}))))
        assert reasons(report) == {"site-1": "its certificate was revoked"}
        assert kit.verify(report.kits["site-1"]).crl_number == 1
        for root in report.kits.values():
            assert (root / "local/crl.pem").is_file()

    def test_a_readmission_that_was_killed_before_its_kit_was_there_has_not_happened(self, dummy, tmp_path, revoked):
        """The new certificate is recorded already, but the last kit still has the revoked one."""
        index = tmp_path / "example_project/state/kits.json"
        before = index.read_bytes()
        given = Options(renewal=Renewal(frozenset({"site-1"}), new_key=True))
        shutil.rmtree(make(dummy, tmp_path, options=given).result)
        index.write_bytes(before)
        with pytest.raises(CaError, match="site-1 gets no kit"):
            make(dummy, tmp_path)
        assert reasons(make(dummy, tmp_path, options=given)) == {"site-1": "its certificate was revoked"}

    def test_the_list_is_the_authoritys_word_whatever_stands_in_a_kit(self, dummy, tmp_path, revoked):
        given = Options(renewal=Renewal(frozenset({"site-1"})))
        first = make(dummy, tmp_path, options=given)
        wanted = (first.kits["site-2"] / "local/crl.pem").read_bytes()
        (first.kits["site-2"] / "local/crl.pem").write_bytes(b"")
        second = make(dummy, tmp_path, reuse_result=True)
        assert second.result != first.result
        assert (second.kits["site-2"] / "local/crl.pem").read_bytes() == wanted


def test_new_participants_of_every_kind_beside_old_ones(dummy, tmp_path):
    first = make(dummy, tmp_path)
    more = (
        Participant(Kind.CLIENT, "site-3", "nvidia", host="localhost", port=8002),
        Participant(Kind.ADMIN, "new@nvidia.com", "nvidia", role="member", host="localhost", port=8002),
    )
    report = make(dataclasses.replace(dummy, participants=(*dummy.participants, *more)), tmp_path)
    assert report.created == ("site-3", "new@nvidia.com")
    assert report.kept == tuple(first.kits)
    for root in report.kits.values():
        kit.verify(root)
