"""The dashboard as a service of a deployment: what is written, and what is not."""

from datetime import UTC, datetime

import pytest
import yaml

from clouddeploy import service
from clouddeploy.config import load
from clouddeploy.dashboard import cloud, people
from clouddeploy.dashboard.cloud import Wish
from clouddeploy.dashboard.errors import DashboardState, Invalid
from clouddeploy.dashboard.opening import open_desk
from clouddeploy.secrets import Secret

SECRETS = ("of the authority", "root@hub.example:four words in a row:hub")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud") / "dashboard"
    wish = Wish("aws", ("203.0.113.0/24",), place="eu-central-1", names=("dash.example.com",))
    return folder, cloud.write(folder, wish, secrets=SECRETS, now=NOW)


def test_the_deploy_file_opens_the_port_to_whom_it_is_meant_for(written):
    folder, told = written
    document = yaml.safe_load(told.file.read_text())
    assert document == {
        "version": 1,
        "service": "service",
        "federation_sources": ["203.0.113.0/24"],
        "sites": {"dashboard": {"provider": "aws", "region": "eu-central-1"}},
    }
    found = service.read(folder / "service", deploy_file=told.file)
    assert (found.ports, found.path) == ((8443,), "/")
    assert found.certificate.encode() == told.identity.cert.read_bytes()
    assert "segno" in " ".join(found.requirements)
    assert load(told.file).sites[0].name == "dashboard"


def test_secrets_are_files_of_their_owner_alone_and_nowhere_else(written):
    folder, _ = written
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in (cloud.PASSPHRASE, cloud.CREDENTIAL, "cert/web.key"):
        assert (folder / "service" / name).stat().st_mode & 0o777 == 0o600
    for name in ("deploy.yml", "service/service.yml"):
        text = (folder / name).read_text()
        assert not [word for word in ("of the authority", "four words", "PRIVATE KEY") if word in text]


def test_the_first_admins_password_is_in_no_file_and_opens_the_account_all_the_same(written, tmp_path):
    folder, _ = written
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"four words in a row" in path.read_bytes()]
    first = cloud.FirstAdmin.read(folder / "service" / cloud.CREDENTIAL)
    assert (first.email, first.org) == ("root@hub.example", "hub")
    desk = open_desk(tmp_path / "there", passphrase=Secret("x"))
    people.seed(desk, first.email, "", first.org, hashed=first.password_hash)
    with desk.visit() as visit:
        known = people.of_email(visit, first.email).password_hash
    desk.database.close()
    assert desk.passwords.is_right(known, "four words in a row")
    (tmp_path / "damaged").write_text("root@hub.example:four words:hub")
    with pytest.raises(DashboardState, match="not known") as caught:
        cloud.FirstAdmin.read(tmp_path / "damaged")
    assert "four words" not in str(caught.value)


def test_a_password_that_an_earlier_version_left_there_is_hashed(written):
    folder, _ = written
    (folder / "service" / cloud.CREDENTIAL).write_text(SECRETS[1])
    cloud.write(folder, Wish("aws", ()), secrets=None, now=NOW)
    assert "four words" not in (folder / "service" / cloud.CREDENTIAL).read_text()
    assert cloud.FirstAdmin.read(folder / "service" / cloud.CREDENTIAL).org == "hub"


def test_again_it_keeps_secrets_and_certificate(written):
    folder, told = written
    again = cloud.write(folder, Wish("aws", ("198.51.100.0/24",)), secrets=None, now=NOW)
    assert again.identity.fingerprint == told.identity.fingerprint
    assert (folder / "service" / cloud.PASSPHRASE).read_text() == SECRETS[0]
    before = again.file.read_text()
    cloud.write(folder, Wish("aws", ()), secrets=None, now=NOW)
    assert again.file.read_text() == before, "what was chosen need not be said again"
    with pytest.raises(Invalid, match="is in aws"):
        cloud.write(folder, Wish("azure", ()), secrets=None, now=NOW)


def test_nobody_is_no_choice(tmp_path):
    with pytest.raises(Invalid, match="nobody could reach"):
        cloud.write(tmp_path / "d", Wish("aws", ()), secrets=SECRETS, now=NOW)
    with pytest.raises(DashboardState, match="no secrets"):
        cloud.write(tmp_path / "d", Wish("aws", ("203.0.113.0/24",)), secrets=None, now=NOW)
