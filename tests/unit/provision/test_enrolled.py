"""Participants whose key is made where they run: named in the project file, but with no kit in a result."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import approval, certificate_authority
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.errors import CaError, ResultError
from clouddeploy_provision.provisioner import Options, preview, provision
from clouddeploy_runtime.enrolment import formats, packaging, request
from clouddeploy_runtime.kit import verify

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project

PASSPHRASE = b"correct horse"


@pytest.fixture(autouse=True)
def _own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))


@pytest.fixture
def enrol(dummy, tmp_path):
    """Let site-1 make its key, approve it with the project's authority, and make its kit in the same workspace."""

    def enrol():
        site = formats.Site(project=dummy.name, name="site-1", org=dummy.participant("site-1").org, type="client")
        made = request.make(site, tmp_path / "requests")
        approved = approval.approve(made.archive, tmp_path / dummy.name / "state", passphrase=PASSPHRASE)
        return packaging.package(
            approved.archive,
            tmp_path,
            request_dir=made.folder,
            expected_fingerprint=approved.rootca_fingerprint,
            force=True,
        ).kit

    return enrol


def make(project: Project, folder, **given):
    return provision(project, folder, passphrase=PASSPHRASE, **given)


def without_site_1(project: Project) -> Project:
    return dataclasses.replace(project, participants=tuple(one for one in project.participants if one.name != "site-1"))


def outcomes(report) -> dict[str, str]:
    return {one.name: one.outcome for one in report.changes}


def test_a_site_that_asked_gets_no_second_key_when_it_is_written_into_the_project_file(dummy, tmp_path, enrol):
    make(without_site_1(dummy), tmp_path)
    kit = enrol()
    report = make(dummy, tmp_path)
    assert "site-1" not in report.kits
    assert outcomes(report)["site-1"] == "enrolled"
    assert verify(kit).participant == "site-1"


def test_a_kit_that_was_made_at_a_site_is_neither_removed_nor_a_reason_for_another_result(dummy, tmp_path, enrol):
    first = make(without_site_1(dummy), tmp_path)
    enrol()
    assert "site-1" not in [one.name for one in preview(without_site_1(dummy), tmp_path) if one.outcome == "removed"]
    assert make(without_site_1(dummy), tmp_path, reuse_result=True).result == first.result


def test_a_site_that_will_make_its_key_gets_no_kit(dummy, tmp_path):
    report = make(dummy, tmp_path, options=Options(enrolled=frozenset({"site-1"})))
    assert outcomes(report)["site-1"] == "enrolled"
    assert not (report.result / "site-1").exists()


def test_what_only_the_site_can_renew_is_not_renewed_here(dummy, tmp_path, enrol):
    make(without_site_1(dummy), tmp_path)
    enrol()
    with pytest.raises(ResultError, match="site-1 cannot be renewed here"):
        make(dummy, tmp_path, options=Options(renewal=Renewal(frozenset({"site-1"}))))


def test_a_site_that_was_revoked_is_not_taken_for_one_that_has_its_key(dummy, tmp_path, enrol):
    make(without_site_1(dummy), tmp_path)
    enrol()
    certificate_authority.revoke(tmp_path / dummy.name / "state", ["site-1"], passphrase=PASSPHRASE)
    with pytest.raises(CaError, match="site-1 gets no kit"):
        make(dummy, tmp_path)
