"""What a deploy file adds to a result: for each site a deploy file and a script, with which it is deployed alone."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import Options, provision

from clouddeploy import site_scripts
from clouddeploy.config import load
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from clouddeploy.site_scripts import SiteScripts

HOST_KEY = "SHA256:7n7yOGxKnpUfTLGZzLJ1vdgMC9nr1Vx4jKKFzhCxGWs"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
SITES: dict[str, dict[str, Any]] = {
    "server1": {"provider": "azure", "location": "westus2", "subscription_id": SUBSCRIPTION, "dns_label": "fl"},
    "site-1": {"provider": "aws", "region": "us-west-2", "gpus": 1, "zones": ["us-west-2a"], "data": "data"},
    "001": {"provider": "onprem", "address": "192.0.2.20", "user": "fl", "host_key": HOST_KEY, "identity_file": "id"},
    "here": {"provider": "local", "directory": "sites"},
}
PROJECT = {
    "api_version": 3,
    "name": "trial",
    "participants": [
        {"name": "server1", "type": "server", "org": "hub"},
        *({"name": name, "type": "client", "org": "org_a"} for name in ("site-1", "001", "here")),
    ],
    "builders": [{"path": "nvflare.lighter.impl.cert.CertBuilder"}],
}
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A project and a folder of data; no deploy file yet."""
    (tmp_path / "study" / "data").mkdir(parents=True)
    (tmp_path / "study/project.yml").write_text(yaml.safe_dump(PROJECT))
    return tmp_path / "study"


def write(folder: Path, name: str = "deploy.yml", **keys: Any) -> Path:
    file = folder / name
    document = {"version": 1, "project": "project.yml", "sites": SITES, **keys}
    file.write_text(yaml.safe_dump(document))
    return file


def make(folder: Path, deploy_file: Path | None = None) -> SiteScripts:
    project = folder / "project.yml"
    result = folder.parent / "ws" / "trial" / "prod_00"
    return site_scripts.make(project_file.load(project), project_file=project, result=result, deploy_file=deploy_file)


def document(made: SiteScripts, site: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(made.files[site][f"{site}.deploy.yml"].content)
    return found


def test_each_site_on_a_cloud_or_on_premises_gets_two_files(folder):
    file = write(folder)
    made = make(folder)
    assert made.source == file
    assert made.notes == ()
    assert {name: sorted(files) for name, files in made.files.items()} == {
        "server1": ["deploy_server1.sh", "server1.deploy.yml"],
        "site-1": ["deploy_site-1.sh", "site-1.deploy.yml"],
        "001": ["001.deploy.yml", "deploy_001.sh"],
    }


def test_a_site_keeps_its_settings_and_nothing_of_others(folder):
    write(folder)
    made = make(folder)
    assert document(made, "server1") == {"version": 1, "kit": "./server1", "sites": {"server1": SITES["server1"]}}
    moved = {**SITES["site-1"], "data": "../../../study/data"}
    assert document(made, "site-1") == {"version": 1, "kit": "./site-1", "sites": {"site-1": moved}}


def test_a_name_of_digits_stays_text(folder):
    write(folder)
    assert list(document(make(folder), "001")["sites"]) == ["001"]


@pytest.mark.parametrize(
    ("given", "written"),
    [("id", "../../../study/id"), ("~/.ssh/id", "~/.ssh/id"), ("/keys/id", "/keys/id"), ("../id", "../../../id")],
)
def test_paths_are_seen_from_the_result(folder, given, written):
    write(folder, sites={"001": {**SITES["001"], "identity_file": given}})
    assert document(make(folder), "001")["sites"]["001"]["identity_file"] == written


def test_who_may_reach_it_and_how_long_it_lives_are_carried_over(folder):
    keys = {"ssh_sources": ["203.0.113.7/32"], "ttl": "8h"}
    write(folder, **keys, federation_sources=["198.51.100.0/24"], state="s3://bucket/one", workspace="elsewhere")
    made = make(folder)
    assert document(made, "site-1").items() >= keys.items()
    assert set(document(made, "site-1")) == {"version", "kit", "sites", *keys}
    assert document(made, "server1")["federation_sources"] == ["198.51.100.0/24"]


def test_a_server_for_its_sites_alone_gets_no_script(folder):
    """A kit does not know the sites, and to open the port to the world instead would be another decision."""
    write(folder, federation_sources="sites")
    made = make(folder)
    assert "server1" not in made.files
    assert "federation_sources" not in document(made, "site-1")
    (note,) = made.notes
    assert "name their addresses as CIDR blocks" in note


def test_a_site_that_makes_its_own_key_has_no_kit_to_deploy(folder):
    write(folder, keys="on-site", sites={**SITES, "server1": {**SITES["server1"], "keys": "central"}})
    made = make(folder)
    assert list(made.files) == ["server1"]
    assert "keys" not in document(made, "server1")["sites"]["server1"]
    assert {note.split()[0] for note in made.notes} == {"site-1", "001"}


def test_without_a_deploy_file_beside_the_project_there_are_no_scripts(folder):
    made = make(folder)
    assert (made.source, made.files) == (None, {})
    assert "--deploy-file" in made.notes[0]


@pytest.mark.parametrize(
    "content", ["project: another.yml\n", "kit: ./site-1\n", "project: [1]\n", "- 1\n", "a: [", "\0"]
)
def test_a_file_beside_the_project_that_is_for_something_else_is_left_alone(folder, content):
    (folder / "deploy.yml").write_text(content)
    made = make(folder)
    assert (made.source, made.files) == (None, {})
    assert "there is no" in made.notes[0]


def test_a_default_deploy_file_with_a_mistake_costs_the_scripts_alone(folder):
    write(folder, sites={"server1": {"provider": "azure", "data": "gone"}})
    made = make(folder)
    assert made.files == {}
    assert "is not a folder" in made.notes[0]


def test_a_deploy_file_that_was_named_and_has_a_mistake_is_refused(folder):
    file = write(folder, "mine.yml", sites={"server1": {"provider": "azure", "data": "gone"}})
    with pytest.raises(ConfigError, match="is not a folder"):
        make(folder, file)


def test_a_deploy_file_of_another_project_is_refused(folder):
    (folder / "other.yml").write_text("")
    with pytest.raises(ConfigError, match="is not a deploy file of"):
        make(folder, write(folder, "mine.yml", project="other.yml"))


def test_a_site_that_the_project_does_not_have_is_refused(folder):
    with pytest.raises(ConfigError, match="names stranger"):
        make(folder, write(folder, "mine.yml", sites={"stranger": {"provider": "aws"}}))


def test_a_deploy_file_elsewhere_may_be_named(folder):
    (folder.parent / "plans").mkdir()
    file = write(folder.parent / "plans", "x.yml", project="../study/project.yml", sites={"server1": SITES["server1"]})
    assert list(make(folder, file).files) == ["server1"]


def deployed(folder: Path, body: str) -> None:
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(body)


def test_a_site_that_is_deployed_from_an_earlier_result_is_named(tmp_path):
    """Its new script would make a second machine. What was destroyed since is no matter."""
    machine = {"kind": "machine", "name": "m", "id": "i-1", "outputs": {}}
    record = {"ref": machine, "site": "site-1", "provider": "aws", "settings": {}, "fingerprint": {}}
    one: dict[str, Any] = {
        "schema": 2,
        "deployment": "01234567",
        "project": "trial",
        "serial": 1,
        "attempts": {},
        "sites": {},
    }
    one["resources"] = {"site-1/machine": record}
    deployed(tmp_path / "prod_00/.clouddeploy/site-1.deploy", json.dumps(one))
    deployed(tmp_path / "prod_00/.clouddeploy/site-2.deploy", json.dumps({**one, "resources": {}}))
    deployed(tmp_path / "prod_01/.clouddeploy/site-3.deploy", "{")
    results = [tmp_path / "prod_00", tmp_path / "prod_01"]
    notes = site_scripts.deployed_before(results, ["site-1", "site-2", "site-3", "site-4"])
    assert [note.partition(":")[0] for note in notes] == [
        f"site-1 was deployed with {tmp_path}/prod_00/site-1.deploy.yml",
        f"site-3 was deployed with {tmp_path}/prod_01/site-3.deploy.yml",
    ]


@pytest.fixture
def result(folder) -> Path:
    """A result with scripts."""
    write(folder)
    options = Options(start_script=True, companions=make(folder).files)
    project = project_file.load(folder / "project.yml")
    return provision(project, folder.parent / "ws", passphrase=b"x", options=options).result


def test_the_files_lie_beside_the_kits(result):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in result.iterdir() if path.is_file()}
    scripts = {f"deploy_{name}.sh": 0o755 for name in ("001", "server1", "site-1")}
    files = {f"{name}.deploy.yml": 0o644 for name in ("001", "server1", "site-1")}
    assert modes == {**scripts, **files, "start_all.sh": 0o755}


def test_a_second_result_has_the_same_files_and_the_same_kits(folder, result):
    options = Options(start_script=True, companions=make(folder).files)
    project = project_file.load(folder / "project.yml")
    again = provision(project, folder.parent / "ws", passphrase=b"x", options=options)
    assert again.kept == ("server1", "site-1", "001", "here")
    for path in (one for one in result.rglob("*") if one.is_file()):
        assert (again.result / path.relative_to(result)).read_bytes() == path.read_bytes()


def test_a_participant_without_a_kit_here_gets_no_script(folder):
    write(folder)
    options = Options(companions=make(folder).files, enrolled=frozenset({"site-1"}))
    project = project_file.load(folder / "project.yml")
    result = provision(project, folder.parent / "ws", passphrase=b"x", options=options).result
    assert not list(result.glob("*site-1*"))
    assert (result / "deploy_server1.sh").exists()


def test_a_file_is_a_deploy_file_of_one_kit(result, folder):
    """Its kit is the site's, and its paths lead to where the project's deploy file found them."""
    for name in ("server1", "site-1", "001"):
        config = load(result / f"{name}.deploy.yml")
        assert config.kit == result / name
        assert [site.name for site in config.sites] == [name]
        assert (config.project, config.state) == (None, None)
    assert load(result / "site-1.deploy.yml").site("site-1").data.resolve() == folder / "data"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("server1", ["group", "address", "network", "firewall", "machine"]), ("site-1", ["firewall", "machine"])],
)
def test_a_plan_of_one_site(result, name, kinds):
    plan = Deployment(result / f"{name}.deploy.yml").plan(is_offline=True)
    assert plan.problems == ()
    assert [change.node for change in plan.changes] == [f"{name}/{kind}" for kind in kinds]


def test_scripts_can_be_parsed_and_have_no_placeholder_left(result):
    for path in result.glob("deploy_*.sh"):
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False).stderr == b""
        assert b"@file@" not in path.read_bytes()
        assert b"@site@" not in path.read_bytes()
        assert b"@package@" not in path.read_bytes()


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_scripts_are_shellcheck_clean_before_and_after_they_are_filled(result):
    template = Path(site_scripts.__file__).parent / site_scripts.TEMPLATE
    done = subprocess.run([SHELLCHECK, template, *result.glob("*.sh")], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_a_script_applies_its_file_from_its_own_folder(result, tmp_path):
    tool = tmp_path / "bin" / "clouddeploy"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\npwd -P\nprintf "<%s>" "$@"\n')
    tool.chmod(0o755)
    env = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "CDPATH": "/"}
    script = os.path.relpath(result / "deploy_site-1.sh", tmp_path)
    done = subprocess.run(
        [script, "--yes", "two words"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{result.resolve()}\n<apply><site-1.deploy.yml><--yes><two words>"


@pytest.mark.parametrize(
    ("site", "package"), [("site-1", "'clouddeploy[aws]'"), ("server1", "'clouddeploy[azure]'"), ("001", "clouddeploy")]
)
def test_a_script_without_the_operators_command_says_how_to_get_it(result, tmp_path, site, package):
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "env"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    env = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run([result / f"deploy_{site}.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == (
        f"deploy_{site}.sh: the command clouddeploy is not installed here; install it with: pip install {package}\n"
    )
