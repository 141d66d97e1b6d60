"""Participants of a project file whose machines make the keys: answered as often as they ask, certified when needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from clouddeploy_provision import approval, certificate_authority, certificates, site_keys
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.errors import CaError, ProvisionError
from clouddeploy_provision.project import Listening, Participant, Project
from clouddeploy_provision.provisioner import Endpoint, Options, provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment import packaging, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import certificate

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSPHRASE = b"only for this test"
SITES = frozenset({"server1", "site-1", "site-2"})
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("fl.example.com",), host="fl.example.com", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="fl.example.com", port=8002, gpus=2, gib_per_gpu=16),
        Participant(Kind.CLIENT, "site-2", "org_b", host="fl.example.com", port=8002, listening=Listening(port=9000)),
        Participant(Kind.RELAY, "relay-1", "org_b", host="fl.example.com", port=8002, listening=Listening(port=9001)),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", host="fl.example.com", port=8002),
    ),
)


@dataclass
class Operator:
    """One test's project; every step takes what the test wants to be different."""

    folder: Path
    project: Project = PROJECT
    endpoint: Endpoint = dataclasses.field(default_factory=lambda: Endpoint("203.0.113.7", 8002))
    names: tuple[str, ...] = ()
    now: datetime = NOW

    @property
    def state(self) -> Path:
        return self.folder / "study/state"

    @property
    def valid(self) -> list[str]:
        return [one.serial for one in certificate_authority.listing(self.state, now=self.now) if one.state == "valid"]

    def provision(self) -> None:
        provision(
            self.project,
            self.folder,
            passphrase=PASSPHRASE,
            endpoint=self.endpoint,
            reuse_result=True,
            options=Options(enrolled=SITES),
            now=self.now,
        )

    def machine(self, who: str = "site-1", **given) -> Path:
        """A machine with a new key asks."""
        site = site_keys.expected(self.project, who)
        return request.make(msgspec.structs.replace(site, **given), self.folder / "site", force=True).archive

    def answer(self, request_zip: Path, name: str = "site-1") -> site_keys.Answered:
        return site_keys.answer(
            request_zip,
            self.folder / f"{name}.signed.zip",
            self.state,
            project=self.project,
            name=name,
            passphrase=PASSPHRASE,
            endpoint=self.endpoint,
            extra_server_hosts=self.names,
            now=self.now,
        )

    def due(self) -> str:
        archive = self.folder / "site-1.signed.zip"
        return site_keys.due(archive, self.state, project=self.project, name="site-1", now=self.now)

    def package(self, answered: site_keys.Answered, name: str = "site-1") -> Path:
        return packaging.package(
            answered.archive,
            self.folder / "machine",
            request_dir=self.folder / "site" / name,
            expected_fingerprint=answered.rootca_fingerprint,
            force=True,
            now=self.now,
        ).kit


@pytest.fixture
def operator(tmp_path) -> Operator:
    one = Operator(tmp_path)
    one.provision()
    return one


def test_kit_has_what_the_project_file_says_of_the_site_and_where_the_server_is(operator):
    folder = operator.package(operator.answer(operator.machine()))
    kits.verify(folder, now=NOW)
    kit = kits.load(folder)
    assert (kit.name, kit.org, kit.host, kit.port) == ("site-1", "org_a", "203.0.113.7", 8002)
    assert '"num_of_gpus": 2' in (folder / "local/resources.json.default").read_text()


def test_same_question_has_the_same_answer_whenever_it_is_asked(operator):
    asked = operator.machine()
    first = operator.answer(asked)
    content, valid = first.archive.read_bytes(), operator.valid
    operator.now += timedelta(days=1)
    second = operator.answer(asked)
    assert (first.reason, first.is_new) == ("it has none yet", True)
    assert second == dataclasses.replace(first, reason="", is_new=False)
    assert second.archive.read_bytes() == content
    assert operator.valid == valid


def test_server_that_moves_gives_clients_another_kit_with_the_same_certificate(operator):
    asked = operator.machine()
    first = operator.answer(asked)
    operator.endpoint = Endpoint("203.0.113.9", 8002)
    second = operator.answer(asked)
    assert second == dataclasses.replace(first, reason="", is_new=True)
    assert kits.load(operator.package(second)).host == "203.0.113.9"


def test_revocation_of_somebody_else_reaches_the_kit_with_the_same_certificate(operator):
    asked = operator.machine()
    first = operator.answer(asked)
    certificate_authority.revoke(operator.state, ["admin@example.com"], passphrase=PASSPHRASE, now=NOW)
    second = operator.answer(asked)
    assert (second.serial, second.reason, second.is_new) == (first.serial, "", True)
    assert (operator.package(second) / "local/crl.pem").exists()


def test_certificate_of_a_server_names_its_address_and_follows_it(operator):
    asked = operator.machine("server1")
    first = operator.answer(asked, "server1")
    assert names(operator.package(first, "server1")) == {"DNS:server1", "DNS:fl.example.com", "IP:203.0.113.7"}
    operator.endpoint = Endpoint("203.0.113.9", 8002)
    second = operator.answer(asked, "server1")
    assert (second.reason, second.superseded) == ("its names and addresses are others now", "")
    assert names(operator.package(second, "server1")) == {"DNS:server1", "DNS:fl.example.com", "IP:203.0.113.9"}
    assert operator.answer(asked, "server1").is_new is False


def names(kit: Path) -> set[str]:
    return {certificates.text_of(name) for name in certificates.names_of(certificate(kit / "startup/server.crt"))}


def test_another_key_gets_another_certificate_and_the_old_one_is_named(operator):
    first = operator.answer(operator.machine())
    second = operator.answer(operator.machine())
    assert (second.reason, second.superseded) == ("its machine made another key", first.serial)
    assert second.serial in operator.valid
    assert first.serial not in operator.valid


def test_site_whose_key_was_made_by_provisioning_before_gets_a_certificate_for_its_own(tmp_path):
    operator = Operator(tmp_path)
    provision(operator.project, tmp_path, passphrase=PASSPHRASE, endpoint=operator.endpoint, now=NOW)
    known = {one.name: one.serial for one in certificate_authority.listing(operator.state, now=NOW)}
    operator.provision()
    answered = operator.answer(operator.machine())
    assert answered.superseded == known["site-1"]
    operator.provision()
    assert not list(tmp_path.glob("study/prod_01/site-1"))


def test_worn_certificate_is_renewed_for_the_same_key(operator):
    asked = operator.machine()
    first = operator.answer(asked)
    operator.now += timedelta(days=certificates.LEAF_DAYS * 0.7)
    second = operator.answer(asked)
    assert second.reason == f"its certificate ends on {first.not_after:%Y-%m-%d}"
    assert second.superseded == ""
    assert operator.package(second)


def test_expired_certificate_is_renewed(operator):
    asked = operator.machine()
    operator.answer(asked)
    operator.now += timedelta(days=certificates.LEAF_DAYS + 1)
    second = operator.answer(asked)
    assert second.reason.startswith("its last one does not hold any more")
    assert operator.package(second)


def test_another_root_that_signs_now_issues_another_certificate(operator):
    asked = operator.machine()
    first = operator.answer(asked)
    certificate_authority.rollover(operator.state, Phase.START, passphrase=PASSPHRASE, now=NOW)
    between = operator.answer(asked)
    assert (between.serial, between.is_new) == (first.serial, True)
    certificate_authority.rollover(operator.state, Phase.SWITCH, passphrase=PASSPHRASE, now=NOW)
    operator.provision()
    last = operator.answer(asked)
    assert last.serial != first.serial
    assert operator.package(last)


def test_certificate_that_a_kill_kept_from_being_answered_is_followed_by_another(operator, monkeypatch):
    """At its first time and at a renewal: the authority knows of all of them, the site has the last."""
    asked = operator.machine()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(site_keys, "write_atomic", interrupt)
            with pytest.raises(KeyboardInterrupt):
                operator.answer(asked)
        answered = operator.answer(asked)
        assert answered.serial in operator.valid
        assert operator.package(answered)
        assert operator.answer(asked).is_new is False
        operator.now += timedelta(days=certificates.LEAF_DAYS * 0.7)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_site_that_was_revoked_gets_no_kit_whatever_key_it_shows(operator):
    asked = operator.machine()
    operator.answer(asked)
    certificate_authority.revoke(operator.state, ["site-1"], passphrase=PASSPHRASE, now=NOW)
    for one in (asked, operator.machine()):
        with pytest.raises(CaError, match="site-1 gets no kit"):
            operator.answer(one)


def test_site_that_was_revoked_is_readmitted_by_hand_with_the_key_of_another_machine(operator):
    operator.answer(operator.machine())
    certificate_authority.revoke(operator.state, ["site-1"], passphrase=PASSPHRASE, now=NOW)
    asked = operator.machine()
    by_hand = approval.approve(
        asked, operator.state, passphrase=PASSPHRASE, out=operator.folder, force=True, now=operator.now
    )
    answered = operator.answer(asked)
    assert (answered.serial, answered.reason) == (by_hand.serial, "")
    assert '"num_of_gpus": 2' in (operator.package(answered) / "local/resources.json.default").read_text()


@pytest.mark.parametrize(
    "given", [{"name": "site-7"}, {"org": "org_b"}, {"project": "other"}, {"type": "server", "host_names": ("a.b",)}]
)
def test_request_for_somebody_else_is_refused(operator, given):
    with pytest.raises(EnrolmentFault) as refused:
        operator.answer(operator.machine(**given))
    assert refused.value.error_code == "IDENTITY_CONFLICT"
    assert not (operator.folder / "site-1.signed.zip").exists()


@pytest.mark.parametrize("name", ["relay-1", "site-2", "admin@example.com"])
def test_who_needs_more_than_one_key_or_no_machine_cannot_make_it_there(name):
    with pytest.raises(ProvisionError, match="cannot make its private key"):
        site_keys.expected(PROJECT, name)


def test_what_is_due_is_known_without_the_machine_and_the_passphrase(tmp_path):
    operator = Operator(tmp_path)
    assert operator.due() == "it has none yet"
    operator.provision()
    assert operator.due() == "it has none yet"
    first = operator.answer(operator.machine())
    assert operator.due() == ""
    operator.now += timedelta(days=certificates.LEAF_DAYS * 0.7)
    assert operator.due() == f"its certificate ends on {first.not_after:%Y-%m-%d}"
    operator.now += timedelta(days=certificates.LEAF_DAYS)
    assert operator.due().startswith("its last one does not hold any more")


def test_server_has_every_name_that_a_deployment_gives_it(operator):
    operator.names = ("server.westus2.cloudapp.azure.com",)
    answered = operator.answer(operator.machine("server1"), "server1")
    assert "DNS:server.westus2.cloudapp.azure.com" in names(operator.package(answered, "server1"))
