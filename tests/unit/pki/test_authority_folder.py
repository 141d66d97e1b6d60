"""The authority's folder: who may read it, what happens to damaged files, who may use it at the same time."""

from __future__ import annotations

import fcntl
import os
import stat
from datetime import timedelta

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca_records import Issued, Records, RevokedLine
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.errors import CaError, PassphraseError, ProvisionError, ProvisionLocked
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.formats import Profile
from cryptography.hazmat.primitives import serialization

PASSPHRASE = b"correct horse"
FILES = ["rootCA.pem", "rootCA.key", "ca.json", "issued.jsonl", "revoked.jsonl", "crl.pem", "kits.json", "lock"]


@pytest.fixture
def state(project, tmp_path):
    """The folder of an authority that issued, and revoked one certificate."""
    provision(project, tmp_path, passphrase=PASSPHRASE)
    folder = tmp_path / "study" / "state"
    certificate_authority.revoke(folder, ["site-2"], passphrase=PASSPHRASE)
    return folder


def use(folder):
    with CaStore(folder).locked():
        return CaStore(folder).open(PASSPHRASE)


def test_everything_is_private_and_the_key_is_encrypted(state):
    assert sorted(path.name for path in state.iterdir()) == sorted(FILES)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    pem = (state / "rootCA.key").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(TypeError, match="encrypted"):
        serialization.load_pem_private_key(pem, password=None)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_modes_do_not_depend_on_the_umask(project, tmp_path, umask):
    before = os.umask(umask)
    try:
        provision(project, tmp_path, passphrase=PASSPHRASE)
    finally:
        os.umask(before)
    state = tmp_path / "study" / "state"
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", *FILES])
@pytest.mark.parametrize("bit", [0o040, 0o004, 0o020, 0o001])
def test_a_looser_mode_is_refused_and_named(state, name, bit):
    path = state / name if name else state
    path.chmod(path.stat().st_mode | bit)
    with pytest.raises(CaError, match=f"{path} is refused.*lets others in") as caught:
        use(state)
    assert caught.value.exit_code == 4
    assert caught.value.hint == f"chmod {600 if name else 700} {path}"


def test_a_symbolic_link_is_refused(state, tmp_path):
    (state / "crl.pem").rename(tmp_path / "elsewhere")
    (state / "crl.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaError, match="symbolic link"):
        use(state)


@pytest.mark.parametrize("action", ["provision", "revoke", "rollover", "init"])
def test_another_run_is_not_let_in(project, state, action):
    run = {
        "provision": lambda: provision(project, state.parent.parent, passphrase=PASSPHRASE),
        "revoke": lambda: certificate_authority.revoke(state, ["site-1"], passphrase=PASSPHRASE),
        "rollover": lambda: certificate_authority.rollover(state, Phase.START, passphrase=PASSPHRASE),
        "init": lambda: certificate_authority.init(Profile("study"), state, passphrase=PASSPHRASE, force=True),
    }
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with (state / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProvisionLocked) as caught:
            run[action]()
    assert caught.value.exit_code == 7
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


@pytest.mark.parametrize("passphrase", [b"wrong", b"", b"x" * 1024, b"\0"])
def test_a_passphrase_that_is_not_the_right_one_is_refused(state, passphrase):
    with pytest.raises(PassphraseError) as caught:
        CaStore(state).open(passphrase)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_no_authority_is_made_with_an_impossible_passphrase(state, tmp_path, passphrase):
    with pytest.raises(PassphraseError):
        certificate_authority.init(Profile("new"), tmp_path / "new", passphrase=passphrase)
    with pytest.raises(PassphraseError):
        certificate_authority.init(Profile("new"), state, passphrase=passphrase, version="01", force=True)
    assert not (tmp_path / "new").exists()
    assert use(state)


@pytest.mark.parametrize("passphrase", ["längeres Wort €".encode(), b"\xff\xfe", b"x" * 1023])
def test_any_bytes_can_be_a_passphrase(tmp_path, passphrase):
    certificate_authority.init(Profile("new"), tmp_path / "new", passphrase=passphrase)
    assert CaStore(tmp_path / "new").open(passphrase)


@pytest.mark.parametrize("name", ["rootCA.pem", "rootCA.key"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_authority_is_refused(state, name, content):
    (state / name).unlink() if content is None else (state / name).write_bytes(content)
    with pytest.raises((CaError, PassphraseError)):
        CaStore(state).open(PASSPHRASE)


def test_the_key_of_another_certificate_is_refused(state):
    keys.write_private(state / "new", keys.to_pem(keys.generate(), passphrase=PASSPHRASE))
    (state / "new").rename(state / "rootCA.key")
    with pytest.raises(CaError, match="not the key of its certificate"):
        CaStore(state).open(PASSPHRASE)


def test_a_lost_root_certificate_is_not_replaced_by_a_new_authority(project, state):
    key = (state / "rootCA.key").read_bytes()
    (state / "rootCA.pem").unlink()
    with pytest.raises(CaError, match="has lost its root certificate"):
        provision(project, state.parent.parent, passphrase=PASSPHRASE)
    with pytest.raises(CaError, match="has lost its root certificate"):
        certificate_authority.init(Profile("study"), state, passphrase=PASSPHRASE)
    assert (state / "rootCA.key").read_bytes() == key


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaError) as caught:
        certificate_authority.init(Profile("study"), tmp_path / "file" / "ca", passphrase=PASSPHRASE)
    assert caught.value.exit_code == 4


def test_a_write_that_fails_is_an_error_of_ours(state):
    (state / "crl.pem.partial").mkdir(mode=0o700)
    with pytest.raises(ProvisionError, match="could not be changed"):
        certificate_authority.revoke(state, ["site-1"], passphrase=PASSPHRASE)


ISSUED = [Issued(f"{n:x}", f"site-{n}", "client", "org", "", "2030-01-01T00:00:00+00:00") for n in (1, 2)]
REVOKED = [RevokedLine(f"{n:x}", f"site-{n}", "unspecified", "2030-01-01T00:00:00+00:00") for n in (1, 2)]


@pytest.mark.parametrize("torn_bytes", [1, 20, 60])
@pytest.mark.parametrize("tail", [b"", b"\0\0\0\0"])
def test_a_torn_last_line_is_passed_over_and_the_next_line_is_not_lost(tmp_path, torn_bytes, tail):
    records, path = Records(tmp_path), tmp_path / "issued.jsonl"
    records.record(ISSUED)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn_bytes] + tail)
    assert records.issued() in (ISSUED, ISSUED[:1])  # a line may lack its end of line only
    records.record(ISSUED[1:])
    assert records.issued()[-1] == ISSUED[1]
    records.record(ISSUED)
    assert records.issued()[-2:] == ISSUED


def test_a_line_that_is_damaged_otherwise_is_refused(tmp_path):
    Records(tmp_path).record(ISSUED)
    (tmp_path / "issued.jsonl").write_bytes(b'{"serial": 1}\n' + (tmp_path / "issued.jsonl").read_bytes())
    with pytest.raises(CaError, match="line 1"):
        Records(tmp_path).issued()


def test_a_revocation_that_was_torn_is_made_again(state):
    path = state / "revoked.jsonl"
    certificate_authority.revoke(state, ["site-1"], passphrase=PASSPHRASE)
    path.write_bytes(path.read_bytes()[:-25])
    with pytest.raises(CaError, match="no list to show"):
        certificate_authority.signed_list(state)
    certificate_authority.revoke(state, ["site-1"], passphrase=PASSPHRASE)
    assert {one.name for one in Records(state).revoked().values()} == {"site-1", "site-2"}
    assert certificate_authority.signed_list(state) == (state / "crl.pem").read_bytes()


class TestReplacing:
    """`cert init --force`."""

    PROFILE = Profile("study")

    def init(self, folder, **given):
        return certificate_authority.init(self.PROFILE, folder, passphrase=PASSPHRASE, **given)

    def test_an_authority_is_not_replaced_unasked(self, tmp_path):
        self.init(tmp_path / "ca")
        with pytest.raises(EnrolmentFault, match="authority already") as caught:
            self.init(tmp_path / "ca", version="01")
        assert caught.value.error_code == "CA_ALREADY_EXISTS"

    def test_nor_by_one_of_the_same_version(self, tmp_path):
        self.init(tmp_path / "ca")
        with pytest.raises(EnrolmentFault) as caught:
            self.init(tmp_path / "ca", force=True)
        assert caught.value.error_code == "CA_VERSION_ALREADY_EXISTS"

    def test_the_old_one_is_kept_whole_and_the_new_one_starts_afresh(self, state):
        certificate_authority.rollover(state, Phase.START, passphrase=PASSPHRASE)
        before = {path.name: path.read_bytes() for path in state.iterdir() if path.name != "lock"}
        self.init(state, version="01", force=True)
        backup = state / "backup_00"
        assert {path.name: path.read_bytes() for path in backup.iterdir()} == before
        assert sorted(path.name for path in state.iterdir() if path.is_file()) == [
            "ca.json",
            "lock",
            "rootCA.key",
            "rootCA.pem",
        ]
        store = CaStore(state)
        assert (store.ca_file().provision_version, len(store.trusted()), store.records.revoked()) == ("01", 1, {})
        assert CaStore(backup).open(PASSPHRASE)

    def test_it_may_go_back_to_an_earlier_version(self, tmp_path):
        for version in ("00", "01", "00", "01"):
            self.init(tmp_path / "ca", version=version, force=True)
        assert len(list((tmp_path / "ca").glob("backup_*"))) == 3

    @pytest.mark.parametrize("given", [{"version": "1"}, {"version": "\u0660\u0661"}, {"org": "x" * 65}])
    def test_what_no_certificate_can_say_is_refused(self, tmp_path, given):
        with pytest.raises(EnrolmentFault) as caught:
            self.init(tmp_path / "ca", **given)
        assert caught.value.error_code == "PROFILE_INVALID"

    def test_the_organisation_stands_in_the_root(self, tmp_path, now):
        self.init(tmp_path / "ca", org="Hub gGmbH", days=10, now=now)
        root = CaStore(tmp_path / "ca").certificate()
        assert root.subject.rfc4514_string() == "O=Hub gGmbH,CN=study"
        assert root.not_valid_after_utc == now + timedelta(days=10)
