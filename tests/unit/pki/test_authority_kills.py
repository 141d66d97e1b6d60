"""Killed before any of its writes, a change of the authority leaves what can be used, and can be made again."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clouddeploy_provision import certificate_authority, reference_state
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.errors import CaError
from clouddeploy_provision.project import Participant
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.enrolment.formats import Profile
from clouddeploy_runtime.kit import Kind
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

PASSPHRASE = b"correct horse"


def kills(base: Path, out: Path, action: str) -> list[Path]:
    """Return the folder as each kill left it, and, last, as it is without one."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_points.py")), str(base), str(out), action],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return sorted(out.iterdir())


@pytest.fixture
def state(project, tmp_path):
    provision(project, tmp_path / "made", passphrase=PASSPHRASE)
    return tmp_path / "made" / "study" / "state"


def usable(folder):
    """Lock, open, issue: what any next run does first."""
    store = CaStore(folder)
    with store.locked():
        authority = store.open(PASSPHRASE)
        site = Participant(Kind.CLIENT, "new", "org")
        cert = authority.issue(site, keys.generate().public_key(), now=datetime.now(UTC))
        assert cert.issuer == authority.certificate.subject
        assert authority.certificate in store.trusted()
    assert certificate_authority.listing(folder)
    return store


def test_a_killed_revocation_is_made_up_by_the_next_run(state, tmp_path):
    left = kills(state, tmp_path / "left", "revoke")
    assert len(left) > 4
    for folder in left:
        store = usable(folder)
        decided = store.records.revoked()
        assert len(decided) in {0, 2}
        # Whatever was decided stands in the next list, and the same command brings the rest.
        with store.locked():
            crl = store.records.crl(store.open(PASSPHRASE), now=datetime.now(UTC))
        assert (revocation.parse(crl, store.trusted()).serials if crl else set()) == set(decided)
        again = certificate_authority.revoke(folder, ["site-1", "site-2"], passphrase=PASSPHRASE)
        known = revocation.parse(again, store.trusted())
        assert (known.number, len(known.serials)) == (2, 2)
        assert certificate_authority.signed_list(folder) == again


def test_a_killed_start_of_a_rollover_can_be_made_again(state, tmp_path):
    root = CaStore(state).certificate()
    left = kills(state, tmp_path / "left", "start")
    assert len(left) > 4
    for folder in left:
        store = usable(folder)
        assert store.certificate() == root
        if not store.has("next_"):
            certificate_authority.rollover(folder, Phase.START, passphrase=PASSPHRASE)
        assert len(store.trusted()) == 2
        assert store.open(PASSPHRASE, "next_")


def test_a_killed_switch_can_be_made_again_and_finished(state, tmp_path):
    certificate_authority.revoke(state, ["site-2"], passphrase=PASSPHRASE)
    certificate_authority.rollover(state, Phase.START, passphrase=PASSPHRASE)
    old, new = CaStore(state).trusted()
    left = kills(state, tmp_path / "left", "switch")
    assert len(left) > 6
    seen = set()
    for folder in left:
        store = usable(folder)
        assert set(store.trusted()) == {old, new}
        signs = store.certificate()
        seen.add(signs == new)
        if signs == old:
            with pytest.raises(CaError, match="was not switched"):
                certificate_authority.rollover(folder, Phase.FINISH, passphrase=PASSPHRASE)
            certificate_authority.rollover(folder, Phase.SWITCH, passphrase=PASSPHRASE)
        with pytest.raises(CaError, match="there is no next root"):
            certificate_authority.rollover(folder, Phase.SWITCH, passphrase=PASSPHRASE)
        certificate_authority.rollover(folder, Phase.FINISH, passphrase=PASSPHRASE)
        assert store.trusted() == [new]
        with store.locked():
            crl = store.records.crl(store.open(PASSPHRASE), now=datetime.now(UTC))
            assert revocation.parse(crl, [new]).number == 1
    assert seen == {True, False}


def test_a_killed_finish_can_be_made_again(state, tmp_path):
    for phase in (Phase.START, Phase.SWITCH):
        certificate_authority.rollover(state, phase, passphrase=PASSPHRASE)
    new = CaStore(state).certificate()
    for folder in kills(state, tmp_path / "left", "finish"):
        store = usable(folder)
        if store.has("previous_"):
            certificate_authority.rollover(folder, Phase.FINISH, passphrase=PASSPHRASE)
        assert store.trusted() == [new]


def test_a_killed_replacement_keeps_the_old_authority_somewhere_whole(state, tmp_path):
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.name != "lock"}
    left = kills(state, tmp_path / "left", "replace")
    assert len(left) > 10
    for folder in left:
        places = [folder, *folder.glob("backup_*")]
        kept = [{path.name: path.read_bytes() for path in place.iterdir() if path.name in before} for place in places]
        assert before in kept
        if not (folder / "ca.json").exists() or CaStore(folder).ca_file().provision_version == "00":
            certificate_authority.init(Profile("study"), folder, passphrase=PASSPHRASE, version="01", force=True)
        assert usable(folder).ca_file().provision_version == "01"
        assert CaStore(folder).records.issued() == []


def test_a_killed_import_never_lets_a_new_root_be_made(project, tmp_path, now):
    authority = Authority.create("study", now=now)
    cert = authority.issue(Participant(Kind.CLIENT, "site-1", "org_a"), keys.generate().public_key(), now=now)
    text = (Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    pair = {"cert": cert.public_bytes(Encoding.PEM).decode(), "pri_key": ""}
    document = {
        "root_cert": authority.pem.decode(),
        "root_pri_key": authority.key.private_bytes(*text).decode(),
        "site-1": pair,
    }
    base = tmp_path / "made" / "state"
    base.mkdir(parents=True)
    (base / "cert.json").write_text(json.dumps(document))
    left = kills(base, tmp_path / "left", "import")
    assert len(left) > 5
    for folder in left:
        workspace = tmp_path / "workspaces" / folder.name
        (workspace / "study").mkdir(parents=True)
        state = folder.rename(workspace / "study" / "state")
        if not CaStore(state).exists:
            with pytest.raises(CaError, match="cannot be used yet"):
                provision(project, workspace, passphrase=PASSPHRASE)
            reference_state.import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
        assert [one.name for one in CaStore(state).records.issued()] == ["site-1"]
        assert CaStore(state).open(PASSPHRASE).certificate == authority.certificate
