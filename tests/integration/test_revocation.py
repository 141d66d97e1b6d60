"""A revoked certificate is worth nothing within seconds, on both sides, wherever the list comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import RevokedLine
from clouddeploy_runtime import audit, kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import AuthenticationRefused, ConnectionFailed, SessionExpired
from clouddeploy_runtime.kit import KitRevoked
from clouddeploy_runtime.revocation import LIST_PATH, RevocationFault
from cryptography import x509

PASSPHRASE = "only for this test"
SOON_S = 5.0


@pytest.fixture
def running(provisioned):
    provisioned.start("server1", "site-1", "site-2")
    for name in ("site-1", "site-2"):
        provisioned.wait_for(name, "registered")
    return provisioned


def revoke(one, *names):
    return certificate_authority.revoke(one.state, names, passphrase=PASSPHRASE.encode())


def number(path):
    if not path.exists():
        return 0
    crl = x509.load_pem_x509_crl(path.read_bytes())
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def refusals(one, name):
    return one.log("server1").count(f"Refused the registration of '{name}'")


@pytest.mark.fault("client's certificate revoked", "out within seconds, named on both sides")
def test_a_revoked_site_is_out_at_once_and_stays_out_and_nobody_else_is(running):
    words = ["cert", "revoke", "site-1", "--ca", running.state, "--admin-kit", running.kits["root@example.com"]]
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", *map(str, words)],
        env={"PATH": "/usr/bin:/bin", "CLOUDDEPLOY_CA_PASSPHRASE": PASSPHRASE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The server has it and tells every site." in done.stdout
    running.until(lambda: running.connected() == {"site-2"}, timeout_s=SOON_S, what="site-1 out")
    running.until(lambda: refusals(running, "site-1") > 0, timeout_s=SOON_S, what="a refused registration")
    running.until(
        lambda: "The server refused this site: the certificate of site-1 was revoked" in running.log("site-1")
    )
    assert "Client site-2 is gone" not in running.log("server1")
    running.until(
        lambda: number(running.workspace("site-2") / "crl.pem") == 1, timeout_s=SOON_S, what="the list at site-2"
    )

    # The list outlives the server's restart, although its kit has none.
    assert running.stop("server1") == 0
    before = refusals(running, "site-1")
    running.start("server1")
    running.until(lambda: refusals(running, "site-1") > before, what="a refusal after the restart")
    running.wait_for("site-2", "registered")
    assert running.connected() == {"site-2"}
    assert "Traceback" not in running.log("server1") + running.log("site-1") + running.log("site-2")


@pytest.mark.fault("server's certificate revoked", "left and refused by everybody")
def test_a_revoked_server_is_left_and_refused_by_everybody(running):
    with running.admin() as session:
        assert session.update_crl(revoke(running, "server1"))
    for name in ("site-1", "site-2"):
        running.wait_for(name, "connecting", timeout_s=SOON_S)
        refused = "The server server1 is refused: its certificate was revoked"
        # Once for leaving, and again for each attempt to come back.
        running.until(lambda name=name, text=refused: running.log(name).count(text) > 1, what="refused again")
    with pytest.raises(ConnectionFailed, match="was revoked"), running.admin():
        pass
    assert running.stop("server1") == 0
    (running.kits["server1"] / LIST_PATH).write_bytes((running.state / "crl.pem").read_bytes())
    with pytest.raises(KitRevoked):
        kit.verify(running.kits["server1"])


def test_a_site_that_was_away_gets_the_list_when_it_comes_back(provisioned):
    provisioned.start("server1")
    with provisioned.admin() as session:
        session.update_crl(revoke(provisioned, "site-1"))
    provisioned.start("site-2")
    provisioned.wait_for("site-2", "registered")
    assert number(provisioned.workspace("site-2") / "crl.pem") == 1


def test_a_list_put_into_the_servers_kit_takes_effect_while_it_runs(running):
    target = running.kits["server1"] / LIST_PATH
    target.write_bytes(b"-----BEGIN X509 CRL-----\nhalf of it")
    running.until(lambda: f"{LIST_PATH}: the list of revoked" in running.log("server1"), timeout_s=SOON_S)
    target.write_bytes(revoke(running, "site-1"))
    running.until(lambda: running.connected() == {"site-2"}, timeout_s=SOON_S, what="site-1 out")


def test_a_list_put_into_a_sites_kit_takes_effect_while_it_runs(running):
    (running.kits["site-1"] / LIST_PATH).write_bytes(revoke(running, "server1"))
    running.wait_for("site-1", "connecting", timeout_s=SOON_S)
    assert "its certificate was revoked" in running.log("site-1")
    assert running.status("site-2") == "registered"  # it does not know yet
    running.until(lambda: running.connected() == {"site-2"}, what="only site-2")


@pytest.mark.fault("admin's certificate revoked", "refused and audited")
def test_a_revoked_admin_is_refused_and_that_is_audited(provisioned):
    provisioned.start("server1")
    with provisioned.admin("member@example.com") as member, provisioned.admin() as root:
        assert member.list_jobs() == []
        root.update_crl(revoke(provisioned, "member@example.com"))
        for command in (member.list_jobs, member.system_status, lambda: member.update_crl(b"x")):
            with pytest.raises(SessionExpired, match=r"the certificate was revoked \(list 1\)"):
                command()
        assert root.list_jobs() == []
    with pytest.raises(AuthenticationRefused, match=r"member@example\.com was revoked"):
        provisioned.admin("member@example.com").__enter__()
    path = provisioned.workspace("server1") / "audit.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    seen = [(one["user"].partition("@")[0], one["action"], one["result"]) for one in entries]
    assert [one for one in seen if one[1] != "session_end"] == [
        ("member", "login", "allowed"),
        ("root", "login", "allowed"),
        ("member", "list_jobs", "allowed"),
        ("root", "update_crl", "allowed"),
        ("root", "update_crl", "done"),
        ("member", "list_jobs", "refused"),
        ("root", "list_jobs", "allowed"),
        ("root", "logout", "allowed"),
        ("member", "login", "refused"),
    ]
    assert audit.first_broken_line(path) is None


def test_the_server_takes_only_newer_lists_of_its_own_authority(provisioned):
    provisioned.start("server1")
    first, second = revoke(provisioned, "site-1"), revoke(provisioned, "site-2")
    now = datetime.now(UTC)
    stranger = Authority.create("study", now=now)
    foreign = stranger.revocation_list([RevokedLine("1", "x", "unspecified", now.isoformat())] * 9, now=now)
    with provisioned.admin("member@example.com") as session:  # any admin may bring what the authority signed
        assert session.update_crl(second)
        assert not session.update_crl(first)
        assert not session.update_crl(second)
        for pem in (foreign, b"", second[:-60], bytes(reversed(second))):
            with pytest.raises(RevocationFault):
                session.update_crl(pem)
    assert number(provisioned.workspace("server1") / "crl.pem") == 2
    with pytest.raises(AuthenticationRefused), AdminSession(kit.load(provisioned.kits["server1"])):
        pass
