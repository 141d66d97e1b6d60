"""Installing a site whose machine makes its key, on this machine and without a network."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import site_keys
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, Options, provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment import request
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.kit import Kind

from clouddeploy import enrolment
from clouddeploy.errors import ConfigError, RemoteCommandFailed
from clouddeploy.remote.local import LocalHost
from clouddeploy.remote.wheels import Wheelhouse
from clouddeploy.secrets import Secret

if TYPE_CHECKING:
    from pathlib import Path

SITES = ("site-1", "site-2", "site-3")
ENDPOINT = Endpoint("203.0.113.7", 8002)
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", host="server1", port=8002),
        *(Participant(Kind.CLIENT, name, "org_a", host="server1", port=8002) for name in SITES),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", host="server1", port=8002),
    ),
)


@pytest.fixture
def enroller(tmp_path):
    secret = Secret("only for this test")
    provision(
        PROJECT,
        tmp_path / "workspace",
        passphrase=secret.reveal_bytes(),
        endpoint=ENDPOINT,
        options=Options(enrolled=frozenset(SITES)),
    )
    return enrolment.Enroller(PROJECT, tmp_path / "workspace", passphrase=secret, endpoint=ENDPOINT)


class Site:
    """A folder of this machine in which the Python environment stands already."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clouddeploy/study/site-1"
        python = self.root / "venv-made/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (self.root / "venv-made/.complete").touch()
        self.wheels = folder / "wheels.tar"
        self.wheels.write_bytes(b"")
        self.host = LocalHost(folder)

    def install(self, enroller: enrolment.Enroller) -> enrolment.Enrolled:
        return enroller.install(
            "site-1",
            self.host,
            data=None,
            wheelhouse_for=lambda _: Wheelhouse(archive=self.wheels, digest="made"),
            timeout_s=10,
        )


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "machine")


def test_kit_is_made_from_the_key_of_the_machine(site, enroller):
    enrolled = site.install(enroller)
    kit = site.root / "current/kit"
    assert kits.verify(kit).participant == "site-1"
    assert (kit / "startup/client.key").read_bytes() == (site.root / "enrolment/site-1/site-1.key").read_bytes()
    assert (kit.resolve().parent.name, enrolled.answered.reason) == (enrolled.release.digest, "it has none yet")


def test_plan_says_which_certificate_is_due(site, enroller, tmp_path):
    assert enrolment.due(PROJECT, tmp_path / "workspace", "site-1") == "it has none yet"
    site.install(enroller)
    assert enrolment.due(PROJECT, tmp_path / "workspace", "site-1") == ""


def test_answer_that_was_exchanged_on_its_way_is_refused_by_the_machine(site, enroller, monkeypatch):
    upload = site.host.upload

    def exchange(source, target, *, mode):
        digest = upload(source, target, mode=mode)
        if "answer-" in target:
            with open(target, "r+b") as archive:  # noqa: PTH123 - a name, as the machine knows it
                archive.seek(-200, 2)
                archive.write(bytes(8))
        return digest

    monkeypatch.setattr(site.host, "upload", exchange)
    with pytest.raises(RemoteCommandFailed, match="package failed"):
        site.install(enroller)
    assert not (site.root / "current").exists()


def test_request_for_another_site_gets_no_certificate(site, enroller):
    made = request.make(site_keys.expected(PROJECT, "site-2"), site.root / "elsewhere")
    place = site.root / "enrolment/site-1/site-1.request.zip"
    place.parent.mkdir(parents=True)
    made.archive.rename(place)
    with pytest.raises(ClouddeployError, match="asks for somebody else"):
        site.install(enroller)


def test_sites_that_ask_at_the_same_time_are_answered_one_after_the_other(enroller, tmp_path):
    asked = {site: request.make(site_keys.expected(PROJECT, site), tmp_path).archive.read_bytes() for site in SITES}
    answered = {}
    threads = [
        threading.Thread(target=lambda site=site: answered.update({site: enroller.answer(site, asked[site])}))
        for site in SITES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answered) == list(SITES)
    assert len({one.serial for one in answered.values()}) == len(SITES)


def test_every_site_that_cannot_make_its_key_is_named_before_anything_is_created(tmp_path):
    with pytest.raises(ConfigError) as refused:
        enrolment.check(PROJECT, tmp_path, on_site=["server1", "site-1", "admin@example.com"], central=["site-2"])
    assert "admin@example.com" in refused.value.why
    assert "site-" not in refused.value.why


def test_site_that_made_its_key_has_no_kit_for_a_deploy_file_that_forgets_it(site, enroller, tmp_path):
    workspace = tmp_path / "workspace"
    enrolment.check(PROJECT, workspace, on_site=[], central=["server1", *SITES])
    site.install(enroller)
    enrolment.check(PROJECT, workspace, on_site=["server1", *SITES], central=[])
    with pytest.raises(ConfigError, match="site-1 made its private key itself"):
        enrolment.check(PROJECT, workspace, on_site=["site-2"], central=["server1", "site-1"])
