"""A project with an authority, requests of its sites, and the answers to them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from clouddeploy_provision import approval, certificate_authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_runtime.enrolment import archive, formats, packaging, request

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSPHRASE = b"only for this test"
PROFILE = formats.Profile("hospitals", formats.ServerProfile("fl.example.com", 8002))
SITE = formats.Site("hospitals", "site-1", "hospital_a", "client")


@dataclass
class Enrolment:
    """One test's project; every step takes what the test wants to be different."""

    folder: Path
    now: datetime = NOW
    passphrase: bytes = PASSPHRASE
    profile: formats.Profile = PROFILE
    site: formats.Site = SITE

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def fingerprint(self) -> str:
        return CaStore(self.ca).ca_file().rootCA_fingerprint

    def init(self, **given) -> formats.Profile:
        given = {"passphrase": self.passphrase, "now": self.now, **given}
        return certificate_authority.init(given.pop("profile", self.profile), self.ca, **given)

    def ask(self, site: formats.Site | None = None, **given) -> request.MadeRequest:
        return request.make(site or self.site, self.folder / "site", **{"now": self.now, **given})

    def approve(self, request_zip: Path | None = None, **given) -> approval.Approval:
        chosen = request_zip or self.folder / "site" / self.site.name / f"{self.site.name}.request.zip"
        given = {"passphrase": self.passphrase, "now": self.now, "out": self.folder / "answers", **given}
        return approval.approve(chosen, given.pop("ca", self.ca), **given)

    def package(self, signed_zip: Path | None = None, **given) -> packaging.Package:
        chosen = signed_zip or self.folder / "answers" / f"{self.site.name}.signed.zip"
        given = {
            "request_dir": self.folder / "site" / self.site.name,
            "expected_fingerprint": self.fingerprint,
            "now": self.now,
            **given,
        }
        return packaging.package(chosen, given.pop("workspace", self.folder / "workspace"), **given)

    # What somebody on the way, or somebody with the authority's key, can do to an archive.

    @property
    def request_zip(self) -> Path:
        return self.folder / "site" / self.site.name / f"{self.site.name}.request.zip"

    @property
    def signed_zip(self) -> Path:
        return self.folder / "answers" / f"{self.site.name}.signed.zip"

    def members(self, path: Path) -> dict[str, bytes]:
        return archive.read(path, "SIGNED", is_expected=lambda _: True)

    def replace(self, path: Path, changed: dict[str, bytes | None]) -> None:
        """Change members of an archive, remove those that are None."""
        members = self.members(path) | changed
        path.write_bytes(archive.write({name: content for name, content in members.items() if content is not None}))

    def say_in_request(self, **fields: object) -> None:
        """Change fields of request.json, or with `site_yaml` and `csr` a file together with its digest."""
        members = self.members(self.request_zip)
        changed: dict[str, bytes | None] = {}
        document = msgspec.json.decode(members["request.json"])
        for name, file in (("site_yaml", "site.yaml"), ("csr", f"{self.site.name}.csr")):
            if name in fields:
                changed[file] = content = fields.pop(name)
                document[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
        changed["request.json"] = msgspec.json.encode(document | fields)
        self.replace(self.request_zip, changed)

    def sign_again(self, change, extra: dict[str, bytes | None] | None = None) -> None:
        """Let the authority itself sign a changed `signed.json`: whatever it says, no unsound kit may come of it."""
        members = self.members(self.signed_zip) | (extra or {})
        document = msgspec.json.decode(members["signed.json"])
        change(document)
        data = msgspec.json.encode(document)
        signature = base64.b64encode(CaStore(self.ca).open(self.passphrase).sign(data))
        self.replace(self.signed_zip, {**(extra or {}), "signed.json": data, "signed.json.sig": signature})


@pytest.fixture(autouse=True)
def _own_records(tmp_path, monkeypatch):
    """No test writes into the home of whoever runs it."""
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))


@pytest.fixture
def enrolment(tmp_path) -> Enrolment:
    """A project with an authority, and nothing asked yet."""
    one = Enrolment(tmp_path)
    one.init()
    return one


@pytest.fixture
def asked(enrolment) -> Enrolment:
    """A site has asked."""
    enrolment.ask()
    return enrolment


@pytest.fixture
def approved(asked) -> Enrolment:
    """And was approved."""
    asked.approve()
    return asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Enrolment:
    """A request and its answer that many mutations of one module share; each puts back what it changed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("enrolment")
        patch.setenv("CLOUDDEPLOY_STATE_DIR", str(folder / "records"))
        one = Enrolment(folder)
        one.init()
        one.ask()
        one.approve()
        yield one
