"""Manifests and lists of revoked certificates that the authority did sign, but that do not hold together."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import RevokedLine
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_runtime import kit
from clouddeploy_runtime.kit import manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def authority(made) -> Authority:
    return CaStore(made.parent / "state").open(b"x")


@pytest.fixture
def site(kits) -> Path:
    return kits / "site-1"


@pytest.fixture
def sign(authority, site) -> Callable[[bytes], None]:
    """Give the kit another manifest, properly signed."""

    def put(data: bytes) -> None:
        (site / manifest.MANIFEST_PATH).write_bytes(data)
        (site / manifest.SIGNATURE_PATH).write_bytes(authority.sign(data))

    return put


@pytest.fixture
def change(sign, site) -> Callable[..., None]:
    """Change members of the kit's manifest, properly signed."""

    def put(**members: object) -> None:
        present = manifest.decode((site / manifest.MANIFEST_PATH).read_bytes())
        sign(manifest.encode(msgspec.structs.replace(present, **members)))

    return put


def entries(site: Path) -> list[manifest.ManifestEntry]:
    return list(manifest.decode((site / manifest.MANIFEST_PATH).read_bytes()).files)


@pytest.mark.parametrize(
    "path",
    [
        "startup/../local/authorization.json.default",
        "startup/../../site-2/startup/client.key",
        "/etc/passwd",
        "local/authorization.json.default",
        "startup",
        "startup/",
        "startup//start.sh",
        "startup/./start.sh",
        "",
        "startup/manifest.json",
        "startup/a\0b",
        "startup/..\\x",
    ],
)
def test_a_path_that_is_no_file_of_startup(site, change, gates, path):
    change(files=(*entries(site), manifest.entry(path, b"", 0o644)))
    assert path in refused(site).problems
    gates.refuse(site, "stands in the manifest", "cannot be covered")


def refused(site: Path) -> kit.KitTampered:
    with pytest.raises(kit.KitTampered) as caught:
        kit.verify(site)
    return caught.value


def test_a_file_that_stands_there_twice(site, change, gates):
    """Whoever takes the first entry and whoever takes the last would not see the same kit."""
    change(files=(*entries(site), manifest.entry("startup/start.sh", b"other", 0o755)))
    gates.refuse(site, "startup/start.sh: stands in the manifest twice")


def test_a_file_below_a_file(site, change, gates):
    change(files=(*entries(site), manifest.entry("startup/start.sh/x", b"", 0o644)))
    gates.refuse(site, "startup/start.sh")


def test_signed_files_in_a_folder_of_startup(site, change, gates):
    """A builder may add folders; what is in them is held like the rest."""
    more = site / "startup/more/deep"
    more.mkdir(parents=True)
    (more / "notice.txt").write_text("x")
    (more / "notice.txt").chmod(0o644)
    change(files=(*entries(site), manifest.entry("startup/more/deep/notice.txt", b"x", 0o644)))
    gates.pass_(site)
    (more / "another.txt").write_text("")
    gates.refuse(site, "startup/more/deep/another.txt: was added")
    shutil.rmtree(site / "startup/more")
    gates.refuse(site, "startup/more/deep/notice.txt: is missing")
    (site / "elsewhere/deep").mkdir(parents=True)
    (site / "startup/more").symlink_to(site / "elsewhere")
    gates.refuse(site, "startup/more: is not a folder of its own")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"{" * 5000, b"\xff", b'{"files": 1}'])
def test_what_is_no_manifest(site, sign, gates, data):
    sign(data)
    gates.refuse(site, "startup/manifest.json")


def test_a_manifest_of_a_later_format(site, sign, gates):
    present = (site / manifest.MANIFEST_PATH).read_bytes()
    sign(present.replace(b'"project"', b'"all_files": true, "project"', 1))
    gates.refuse(site, "startup/manifest.json")


@pytest.mark.parametrize(
    "member", [{"project": "other"}, {"participant": "site-2"}, {"kind": "server"}, {"certificate_serial": "1"}]
)
def test_a_manifest_for_somebody_else(site, change, gates, member):
    change(**member)
    gates.refuse(site, "startup/manifest.json: is for")


class TestAKeyThatWasMadeAtTheSite:
    """Its digest is in no manifest; the certificate binds it."""

    @pytest.fixture(autouse=True)
    def uncovered(self, site, change):
        files = tuple(one for one in entries(site) if one.path != "startup/client.key")
        change(files=files, key_at_site="startup/client.key")

    def test_the_right_key(self, site, gates):
        gates.pass_(site)

    @pytest.mark.parametrize("what", ["other key", "no key", "missing", "open to others", "link"])
    def test_another(self, site, kits, gates, what):
        key = site / "startup/client.key"
        if what == "other key":
            shutil.copy2(kits / "site-2/startup/client.key", key)
        elif what == "no key":
            key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
        elif what == "open to others":
            key.chmod(0o644)
        else:
            key.rename(kits / "key")
            if what == "link":
                key.symlink_to(kits / "key")
        gates.refuse(site, "startup/client.key")

    def test_another_file_that_is_called_the_key(self, site, change, gates):
        """Or the one file that nobody signed could be anything."""
        (site / "startup/run.sh").write_text("")
        key = site / "startup/client.key"
        change(files=(*entries(site), manifest.entry("startup/client.key", key.read_bytes(), 0o600)))
        change(key_at_site="startup/run.sh")
        gates.refuse(site, "startup/run.sh: is not covered")

    def test_one_that_is_covered_as_well(self, site, change, gates):
        key = site / "startup/client.key"
        change(files=(*entries(site), manifest.entry("startup/client.key", key.read_bytes(), 0o600)))
        gates.refuse(site, "startup/client.key: stands in the manifest twice")


class TestTheListOfRevokedCertificates:
    @pytest.fixture
    def crl(self, authority, site, change) -> Callable[..., None]:
        """Put a list with so many entries into the kit."""
        change(crl_number=2)

        def put(count: int, *, by: Authority = authority, serial: int = 7) -> None:
            lines = [RevokedLine(f"{serial + n:x}", "x", "unspecified", NOW.isoformat()) for n in range(count)]
            (site / "local/crl.pem").write_bytes(by.revocation_list(lines, now=NOW))

        return put

    def test_as_new_as_the_kit_or_newer(self, site, crl, gates):
        for count in (2, 3):
            crl(count)
            gates.pass_(site)

    def test_older_than_the_kit(self, site, crl, gates):
        crl(1)
        gates.refuse(site, "local/crl.pem: has number 1")

    def test_removed(self, site, crl, gates):
        gates.refuse(site, "local/crl.pem: is missing")

    def test_of_another_authority(self, site, crl, gates):
        crl(5, by=Authority.create("study", now=NOW))
        gates.refuse(site, "local/crl.pem")

    @pytest.mark.parametrize("data", [b"", b"x", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
    def test_damaged(self, site, crl, gates, data):
        (site / "local/crl.pem").write_bytes(data)
        gates.refuse(site, "local/crl.pem")

    def test_a_flipped_byte(self, site, crl, gates):
        crl(2)
        file = site / "local/crl.pem"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        gates.refuse(site, "local/crl.pem")

    def test_it_names_this_kit(self, site, crl, gates):
        crl(2, serial=int(manifest.decode((site / manifest.MANIFEST_PATH).read_bytes()).certificate_serial, 16))
        gates.refuse(site, "startup/client.crt was revoked")
