"""The root is exchanged under a running federation, one participant's kit after the other."""

from __future__ import annotations

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_runtime.revocation import LIST_PATH

PASSPHRASE = b"only for this test"


@pytest.mark.timeout(180)
def test_kits_are_exchanged_one_by_one_and_nobody_is_ever_shut_out(provisioned):
    provisioned.start("server1", "site-1", "site-2")
    provisioned.until(lambda: provisioned.connected() == {"site-1", "site-2"}, what="both sites")
    for phase in Phase:
        certificate_authority.rollover(provisioned.state, phase, passphrase=PASSPHRASE)
        provisioned.provision()
        for name in ("site-1", "server1", "site-2"):  # the server in between: it meets an old and a new site
            assert provisioned.stop(name) == 0
            provisioned.start(name)
            provisioned.until(
                lambda: provisioned.connected() == {"site-1", "site-2"}, what=f"all after {name}'s {phase}"
            )
    assert "Traceback" not in provisioned.log("server1") + provisioned.log("site-1")


def test_after_the_end_a_site_with_an_old_kit_is_shut_out(provisioned):
    old = provisioned.kits["site-2"]
    for phase in Phase:
        certificate_authority.rollover(provisioned.state, phase, passphrase=PASSPHRASE)
        provisioned.provision()
    provisioned.kits = {**provisioned.kits, "site-2": old}
    provisioned.start("server1", "site-1", "site-2")
    provisioned.wait_for("site-1", "registered")
    provisioned.until(lambda: "Could not connect to server" in provisioned.log("site-2"), what="the refusal")
    assert provisioned.connected() == {"site-1"}


def test_what_was_revoked_before_the_exchange_is_still_revoked_after_it(provisioned):
    """What the server remembers cannot be believed any more; the list in its kit counts."""
    provisioned.start("server1", "site-1", "site-2")
    provisioned.until(lambda: provisioned.connected() == {"site-1", "site-2"}, what="both sites")
    certificate_authority.rollover(provisioned.state, Phase.START, passphrase=PASSPHRASE)
    certificate_authority.rollover(provisioned.state, Phase.SWITCH, passphrase=PASSPHRASE)
    provisioned.provision()  # site-2 has a certificate of the new root, which is revoked then
    crl = certificate_authority.revoke(provisioned.state, ["site-2"], passphrase=PASSPHRASE)
    certificate_authority.rollover(provisioned.state, Phase.FINISH, passphrase=PASSPHRASE)
    for name in ("server1", "site-2"):
        assert provisioned.stop(name) == 0
    (provisioned.workspace("server1") / "crl.pem").write_bytes(b"of the old root")
    (provisioned.kits["server1"] / LIST_PATH).write_bytes(crl)
    provisioned.start("server1", "site-2")
    provisioned.until(lambda: "was revoked" in provisioned.log("site-2"), what="the refusal")
    assert "site-2" not in provisioned.connected()
