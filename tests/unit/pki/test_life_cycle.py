"""List, renew, revoke and roll over, as kits and as TLS between them show it."""

from __future__ import annotations

import dataclasses
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca_records import Issued
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.errors import CaError, ResultError
from clouddeploy_provision.project import Listening, Participant
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit, revocation
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import authorities, certificate

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"correct horse"
NAMES = {"server1", "site-1", "site-2", "admin@example.com"}


class Life:
    """One project over time; every step is a run of its own."""

    def __init__(self, project, workspace: Path, now) -> None:
        self.project, self.workspace, self.now = project, workspace, now
        self.state = workspace / project.name / "state"

    def provision(self, **given):
        return provision(self.project, self.workspace, passphrase=PASSPHRASE, now=self.now, **given)

    def renew(self, *names, new_key=False):
        return self.provision(options=Options(renewal=Renewal(frozenset(names), new_key)))

    def revoke(self, *names, **given):
        return certificate_authority.revoke(self.state, names, passphrase=PASSPHRASE, now=self.now, **given)

    def rollover(self, phase):
        return certificate_authority.rollover(self.state, phase, passphrase=PASSPHRASE, now=self.now)

    def states(self, name, after=timedelta(0)):
        found = certificate_authority.listing(self.state, now=self.now + after)
        return [one.state for one in found if one.name == name]

    def without(self, name):
        left = tuple(one for one in self.project.participants if one.name != name)
        self.project = dataclasses.replace(self.project, participants=left)


@pytest.fixture
def life(project, tmp_path, now):
    # TLS goes by the real clock, so that what these tests add to the time must already have passed.
    return Life(project, tmp_path, now - timedelta(days=20))


def signed(root):
    """Every file that the manifest covers, with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / "startup").rglob("*") if path.is_file()}


def key_of(root):
    return kit.load(root).key_file.read_bytes()


def serial_of(root):
    return certificate(kit.load(root).cert_file).serial_number


@pytest.mark.parametrize(
    ("left", "state"),
    [
        (timedelta(days=30, seconds=1), "valid"),
        (timedelta(days=30), "expires-soon"),
        (timedelta(days=7, seconds=1), "expires-soon"),
        (timedelta(days=7), "expires-now"),
        (timedelta(seconds=1), "expires-now"),
        (timedelta(0), "expired"),
    ],
)
def test_the_list_tells_how_long_a_certificate_lasts(life, left, state):
    life.provision()
    assert life.states("site-1", timedelta(days=360) - left) == [state]


def test_the_list_has_the_root_and_everybody_and_what_ends_first_comes_first(life):
    life.provision()
    found = certificate_authority.listing(life.state, now=life.now)
    assert {one.name for one in found} == {"study", *NAMES}
    assert [one.not_after for one in found] == sorted(one.not_after for one in found)
    root = found[-1]
    assert (root.kind, root.state, root.not_after) == ("root", "valid", life.now + timedelta(days=3650))


def test_a_renewed_certificate_replaces_the_old_one_which_is_listed_until_it_ends(life):
    life.provision()
    life.now += timedelta(days=10)
    life.renew("site-1")
    assert sorted(life.states("site-1")) == ["replaced", "valid"]
    assert life.states("site-1", timedelta(days=355)) == ["expires-now"]


def test_a_listeners_two_certificates_do_not_replace_each_other(life):
    life.provision()
    end = (life.now + timedelta(days=90)).isoformat()
    both = [
        Issued("a1", "relay-1", "relay", "hub", "", end),
        Issued("a2", "relay-1", "relay", "hub", "", end, listener=True),
    ]
    CaStore(life.state).records.record(both)
    assert life.states("relay-1") == ["valid", "valid"]
    assert CaStore(life.state).records.last_issued()["relay-1"].serial == "a1"
    CaStore(life.state).records.record([msgspec.structs.replace(both[1], serial="a3")])
    assert sorted(life.states("relay-1")) == ["replaced", "valid", "valid"]


def test_a_relay_that_listens_is_listed_with_both_its_certificates(life):
    listening = Listening(host="relay.example.com", port=8003)
    relay = Participant(Kind.RELAY, "relay-1", "hub", host="127.0.0.1", port=8002, listening=listening)
    life.project = dataclasses.replace(life.project, participants=(*life.project.participants, relay))
    life.provision()
    assert life.states("relay-1") == ["valid", "valid"]
    life.revoke("relay-1")
    assert life.states("relay-1") == ["revoked", "revoked"]


@pytest.mark.parametrize("new_key", [False, True])
def test_renewal_touches_one_kit_only(life, new_key, meet):
    before = life.provision().kits
    life.now += timedelta(days=1)
    report = life.renew("site-1", new_key=new_key)
    after = report.kits
    assert (report.created, report.reissued) == ((("site-1",), ()) if new_key else ((), ("site-1",)))
    for name in NAMES - {"site-1"}:
        assert signed(after[name]) == signed(before[name])
    assert serial_of(after["site-1"]) != serial_of(before["site-1"])
    assert (key_of(after["site-1"]) == key_of(before["site-1"])) is not new_key
    kit.verify(after["site-1"])
    assert meet(before["server1"], after["site-1"]) == meet(after["server1"], before["site-1"]) == "site-1"


def test_who_is_not_in_the_project_cannot_be_renewed(life):
    life.provision()
    with pytest.raises(ResultError, match="site-9 cannot be renewed"):
        life.renew("site-9")


def test_a_revocation_is_signed_numbered_and_in_every_kit_that_follows(life):
    life.provision()
    life.revoke("site-2", reason="key_compromise")
    life.without("site-2")
    kits = life.provision().kits
    for root in kits.values():
        found = revocation.read(root / revocation.LIST_PATH, authorities(root / "startup/rootCA.pem"))
        assert (found.number, len(found.serials)) == (1, 1)
        kit.verify(root)
    life.revoke("site-1")
    assert life.states("site-2") == life.states("site-1") == ["revoked"]
    assert revocation.parse((life.state / "crl.pem").read_bytes(), CaStore(life.state).trusted()).number == 2


def test_an_older_list_cannot_be_put_into_a_kit_that_was_signed_later(life):
    life.provision()
    old = life.revoke("site-2")
    life.revoke("site-1")
    life.without("site-2")
    life.without("site-1")
    root = life.renew("server1").kits["server1"]
    (root / revocation.LIST_PATH).write_bytes(old)
    with pytest.raises(kit.KitTampered, match="number 1, the kit was made with number 2"):
        kit.verify(root)
    (root / revocation.LIST_PATH).unlink()
    with pytest.raises(kit.KitTampered, match="is missing, the kit was made with number 2"):
        kit.verify(root)


def test_a_revoked_participant_gets_no_kit_until_it_is_readmitted_with_a_new_key(life):
    before = life.provision().kits["site-2"]
    life.revoke("site-2")
    with pytest.raises(CaError, match="its certificate was revoked") as caught:
        life.provision()
    assert "--new-key" in caught.value.hint
    assert [path.name for path in before.parent.parent.glob("prod_*")] == ["prod_00"]
    after = life.renew("site-2", new_key=True).kits["site-2"]
    assert key_of(after) != key_of(before)
    kit.verify(after)
    assert sorted(life.states("site-2")) == ["revoked", "valid"]
    (before / "local/crl.pem").write_bytes((after / "local/crl.pem").read_bytes())
    with pytest.raises(kit.KitRevoked):
        kit.verify(before)


def test_every_valid_certificate_of_a_name_is_revoked_at_once(life):
    life.provision()
    life.now += timedelta(days=1)
    life.renew("site-1")
    life.revoke("site-1")
    assert life.states("site-1") == ["revoked", "revoked"]


def test_one_certificate_can_be_revoked_by_its_serial_number(life):
    old = serial_of(life.provision().kits["site-1"])
    life.now += timedelta(days=1)
    new = serial_of(life.renew("site-1").kits["site-1"])
    life.revoke("site-1", serial=":".join(f"{old:040X}"[i : i + 2] for i in range(0, 40, 2)))
    assert sorted(life.states("site-1")) == ["revoked", "valid"]
    assert set(CaStore(life.state).records.revoked()) == {old}
    assert serial_of(life.provision().kits["site-1"]) == new


def test_revoking_twice_changes_nothing(life):
    life.provision()
    assert life.revoke("site-1", reason="superseded") == life.revoke("site-1", reason="key_compromise")
    assert [one.reason for one in CaStore(life.state).records.revoked().values()] == ["superseded"]


@pytest.mark.parametrize("given", [{"serial": "abc"}, {"serial": ""}])
def test_what_does_not_exist_cannot_be_revoked(life, given):
    life.provision()
    with pytest.raises(CaError, match="no valid certificate"):
        life.revoke("site-1", **given)
    with pytest.raises(CaError):
        life.revoke("site-1", "nobody")
    assert not CaStore(life.state).records.revoked()


def test_there_is_no_list_to_show_before_anything_was_revoked(life):
    life.provision()
    with pytest.raises(CaError, match="nothing was revoked yet"):
        certificate_authority.signed_list(life.state)


def test_an_expired_certificate_needs_no_revocation(life):
    life.provision()
    life.now += timedelta(days=361)
    with pytest.raises(CaError, match="no valid certificate"):
        life.revoke("site-1")


class TestRollover:
    """start, switch, finish: neighbouring steps' kits understand each other."""

    @pytest.fixture
    def phases(self, life):
        """The kits before, and after each step."""
        made = {"before": life.provision().kits}
        for phase in Phase:
            life.now += timedelta(hours=1)
            life.rollover(phase)
            made[phase.value] = life.provision().kits
        return made

    @pytest.mark.parametrize(
        ("one", "other"), [("before", "start"), ("start", "switch"), ("switch", "finish"), ("start", "start")]
    )
    def test_kits_of_neighbouring_steps_accept_each_other(self, phases, meet, one, other):
        assert meet(phases[one]["server1"], phases[other]["site-1"]) == "site-1"
        assert meet(phases[other]["server1"], phases[one]["site-1"]) == "site-1"
        assert meet(phases[other]["server1"], phases[one]["admin@example.com"]) == "admin@example.com"

    @pytest.mark.parametrize("old", ["before", "start"])
    def test_after_the_end_the_old_root_is_trusted_no_more(self, phases, meet, old):
        with pytest.raises(ssl.SSLError):
            meet(phases["finish"]["server1"], phases[old]["site-1"])
        with pytest.raises(ssl.SSLCertVerificationError):
            meet(phases[old]["server1"], phases["finish"]["site-1"])

    def test_openssl_tells_the_two_roots_of_one_name_apart(self, phases, openssl):
        bundle = phases["switch"]["site-1"] / "startup/rootCA.pem"
        for step, status in (("before", 0), ("switch", 0)):
            assert openssl("verify", "-CAfile", bundle, phases[step]["server1"] / "startup/server.crt")[0] == status
        final = phases["finish"]["site-1"] / "startup/rootCA.pem"
        assert openssl("verify", "-CAfile", final, phases["before"]["server1"] / "startup/server.crt")[0] != 0

    def test_every_kit_of_every_step_is_sound_and_keeps_its_key(self, phases):
        for kits in phases.values():
            for name, root in kits.items():
                kit.verify(root)
                assert key_of(root) == key_of(phases["before"][name])
        assert [len(authorities(kits["site-1"] / "startup/rootCA.pem")) for kits in phases.values()] == [1, 2, 2, 1]

    def test_the_new_root_is_like_the_old_one_and_lasts_as_long(self, life):
        life.provision()
        old = CaStore(life.state).certificate()
        life.now += timedelta(days=100)
        life.rollover(Phase.START)
        new = CaStore(life.state).certificate("next_")
        assert new.subject == old.subject
        assert new.serial_number != old.serial_number
        assert new.not_valid_after_utc - old.not_valid_after_utc == timedelta(days=100)

    def test_revocations_go_over_to_the_new_root(self, life):
        life.provision()
        life.revoke("site-2")
        life.without("site-2")
        for phase in Phase:
            life.rollover(phase)
            root = life.provision().kits["server1"]
            found = revocation.read(root / "local/crl.pem", [CaStore(life.state).certificate()])
            assert (found.number, len(found.serials)) == (1, 1)

    def test_the_list_can_be_shown_right_after_the_switch(self, life):
        life.provision()
        life.revoke("site-2")
        life.rollover(Phase.START)
        life.rollover(Phase.SWITCH)
        crl = certificate_authority.signed_list(life.state)
        assert revocation.parse(crl, [CaStore(life.state).certificate()]).number == 1

    @pytest.mark.parametrize(
        ("done", "wrong"),
        [
            ([], Phase.SWITCH),
            ([], Phase.FINISH),
            ([Phase.START], Phase.START),
            ([Phase.START], Phase.FINISH),
            ([Phase.START, Phase.SWITCH], Phase.SWITCH),
            ([Phase.START, Phase.SWITCH], Phase.START),
            (list(Phase), Phase.FINISH),
            (list(Phase), Phase.SWITCH),
        ],
    )
    def test_a_step_out_of_turn_is_refused_and_changes_nothing(self, life, done, wrong):
        life.provision()
        for phase in done:
            life.rollover(phase)
        before = {path.name: path.read_bytes() for path in life.state.iterdir()}
        with pytest.raises(CaError, match=f"cannot be exchanged: {wrong}") as caught:
            life.rollover(wrong)
        assert caught.value.exit_code == 4
        assert {path.name: path.read_bytes() for path in life.state.iterdir()} == before

    def test_it_can_be_done_again(self, life):
        life.provision()
        for _ in range(2):
            for phase in Phase:
                life.rollover(phase)
        assert len(CaStore(life.state).trusted()) == 1


def test_the_report_warns_of_a_root_that_ends(life):
    life.provision()
    life.now += timedelta(days=3650 - 20)
    assert any("root certificate expires in 20 days" in warning for warning in life.provision().warnings)
