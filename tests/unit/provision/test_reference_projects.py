"""Project files of the kinds that the reference ships: taken unchanged, and each gives kits that can be used.

What is refused says why. `overseer.yml` has what older files have and the reference does not read any more.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.errors import ProjectFileError
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.kit import Kind

DATA = Path(__file__).parent / "data" / "reference"
REFUSED = {"edge", "confidential", "standby"}
EXTRAS = {"encryption": "tenseal"}
TREES = "generated trees of simulated sites are not supported; write the relays and clients down"
NAMES = sorted(path.stem for path in DATA.glob("*.yml") if "_template" not in path.name)


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(DATA, tmp_path / "files")
    (tmp_path / "files" / "proxy_ca.pem").write_bytes(Authority.create("proxy", now=datetime.now(UTC)).pem)
    return tmp_path / "files"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_a_project_of_the_reference_gives_kits(folder, tmp_path, name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    custom = Custom(folder)
    found = project.load(folder / f"{name}.yml", custom=custom)
    report = provision(found, tmp_path / "ws", passphrase=b"x", options=Options(custom=custom))
    assert {one.name for one in found.participants} == set(report.kits) == set(report.created)
    for participant, root in report.kits.items():
        assert kit.verify(root).participant == participant
        if found.participant(participant).kind is not Kind.RELAY:
            read = kit.load(root)
            assert (read.name, read.project, read.server_name) == (participant, found.name, found.server.name)
    again = provision(found, tmp_path / "ws", passphrase=b"x", options=Options(custom=custom))
    assert set(again.kept) == set(report.kits)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "edge",
            {
                f"edge: {TREES}",
                "participants: missing server: exactly one participant must be of type server",
                f"builders[3].path: EdgeBuilder: {TREES}",
            },
        ),
        (
            "confidential",
            {
                "participants[0].cc_config: confidential computing is not supported",
                "builders[3].path: CCBuilder: confidential computing is not supported",
                "packager.path: OnPremPackager: confidential computing is not supported",
            },
        ),
        ("standby", {"participants[1].type: exactly one participant may be of type server"}),
    ],
)
def test_what_is_out_of_scope_is_refused_with_the_reason(folder, name, lines):
    with pytest.raises(ProjectFileError) as caught:
        project.load(folder / f"{name}.yml", custom=Custom(folder))
    found = {f"{one.key}: {one.rule}" for one in caught.value.problems}
    assert {line for line in lines if line not in found} == set(), found


def test_what_nobody_reads_any_more_is_ignored_with_a_warning(folder):
    assert set(project.load(folder / "overseer.yml").warnings) == {
        "an overseer is obsolete and ignored",
        "overseer_agent is ignored: there is one server and no overseer",
        "snapshot_persistor of StaticFileBuilder is ignored, as in the reference's newer versions",
        "admin_port is ignored, everything goes through fed_learn_port",
        "server1: enable_byoc is ignored; local/authorization.json decides about byoc",
        "site-1: enable_byoc is ignored; local/authorization.json decides about byoc",
        "site-1: components is ignored; what the site offers to jobs is its capacity",
    }


def test_a_template_of_ones_own_is_not_read_and_the_user_is_told(folder):
    file = folder / "default.yml"
    file.write_text(file.read_text().replace("aws_template.yml", "our_template.yml"))
    (warning,) = (one for one in project.load(file).warnings if "template" in one)
    assert warning.startswith("template_file our_template.yml is not read")


def test_a_builder_in_the_words_of_the_reference_runs_unchanged(folder, tmp_path):
    custom = Custom(folder)
    found = project.load(folder / "custom.yml", custom=custom)
    result = provision(found, tmp_path / "ws", passphrase=b"x", options=Options(custom=custom)).result
    kits = {one.name: result / one.name for one in found.participants}
    assert (kits["admin@nvidia.com"] / "startup/notice.txt").read_text() == "To admin@nvidia.com: Handle with care.\n"
    assert (kits["site-1"] / "local/org.txt").read_text() == "site-1 of nvidia, to server1"
    assert (result / "notices.txt").read_text() == "admin@nvidia.com"
    assert (result / "kits.txt").read_text() == "server1 site-1 site-2 admin@nvidia.com"
    assert kit.verify(kits["admin@nvidia.com"]).participant == "admin@nvidia.com"
