"""`config …`, and whose kit a command uses."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import admin_kits
from clouddeploy.cli.config import config
from clouddeploy.cli.system import system
from clouddeploy.errors import ConfigError, KitMissing, KitNotConfigured
from tests.conftest import TRIAL
from tests.unit.cli.admin_sessions import FakeOpening, FakeSession, invoke


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    import yaml  # noqa: PLC0415 - for this fixture alone

    folder = tmp_path_factory.mktemp("provisioned")
    people = [
        {"name": f"{role}@x.org", "type": "admin", "org": "hub", "role": role} for role in ("project_admin", "lead")
    ]
    document = {**TRIAL, "participants": [*TRIAL["participants"], *people]}
    (folder / "project.yml").write_text(yaml.safe_dump(document))
    long_ago = datetime.now(UTC) - timedelta(days=350)
    loaded = project.load(folder / "project.yml")
    return provision(loaded, folder / "workspace", passphrase=b"x", now=long_ago).kits


@pytest.fixture
def lead(home, kits):
    return kits["lead@x.org"]


def test_the_first_kit_is_active_and_the_file_is_its_owners(home, kits, lead):
    assert invoke(config, "add", "mine", lead)["data"] == {"id": "mine", "path": str(lead), "active": True}
    assert invoke(config, "add", "root", kits["project_admin@x.org"])["data"]["active"] is False
    file = home / ".config" / "clouddeploy" / "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["startup_kits"]["active"] == "mine"
    invoke(config, "use", "root")
    found = invoke(config, "list")["data"]
    assert found["active"] == "root"
    assert [(one["id"], one["name"], one["role"]) for one in found["kits"]] == [
        ("mine", "lead@x.org", "lead"),
        ("root", "project_admin@x.org", "project_admin"),
    ]
    assert invoke(config, "remove", "root")["data"]["active"] == ""
    assert kits["project_admin@x.org"].is_dir()


def test_a_kit_is_shown_with_its_server_and_with_a_certificate_that_ends_soon(lead):
    invoke(config, "add", "mine", lead)
    found = invoke(config, "inspect")["data"]
    assert (found["name"], found["role"], found["org"]) == ("lead@x.org", "lead", "hub")
    assert found["server_address"] == "server1:8002"
    (finding,) = found["findings"]
    assert finding.startswith("the certificate expires in 9 days")
    assert found["problem"] == ""
    assert datetime.fromisoformat(found["not_after"]) > datetime.now(UTC)


def test_a_kit_that_was_changed_or_is_gone_is_shown_so(home, kits, lead, tmp_path):
    import shutil  # noqa: PLC0415

    copy = tmp_path / "copy"
    shutil.copytree(lead, copy)
    invoke(config, "add", "mine", copy)
    (copy / "startup" / "fed_admin.json").write_bytes((copy / "startup" / "fed_admin.json").read_bytes() + b" ")
    assert "fed_admin.json" in invoke(config, "inspect", "mine")["data"]["problem"]
    shutil.rmtree(copy)
    assert "there is no startup kit" in invoke(config, "list")["data"]["kits"][0]["problem"]
    assert invoke(config, "use", "mine", expected=ExitCode.BAD_INPUT)["error_code"] == "STARTUP_KIT_MISSING"
    invoke(config, "remove", "mine")


def test_only_an_admins_kit_gets_a_name_and_a_name_means_one_kit(home, kits, lead, tmp_path):
    refused = invoke(config, "add", "site", kits["site-1"], expected=ExitCode.BAD_INPUT)
    assert refused["error_code"] == "STARTUP_KIT_MISSING"
    assert "kit of the client site-1" in refused["message"]
    invoke(config, "add", "none", tmp_path, expected=ExitCode.BAD_INPUT)
    invoke(config, "add", "../x", lead, expected=ExitCode.BAD_INPUT)
    invoke(config, "add", "mine", lead)
    invoke(config, "add", "mine", lead)
    words = ("add", "mine", kits["project_admin@x.org"])
    assert invoke(config, *words, expected=ExitCode.BAD_INPUT)["error_code"] == "OUTPUT_EXISTS"
    invoke(config, *words, "--force")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"startup_kits": {"entries": 1}}', '{"startup_kits": 1}'])
def test_a_file_that_is_none_is_said_so(home, content):
    file = admin_kits.config_file()
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        admin_kits.read()


def test_the_names_are_where_the_environment_says(home, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert admin_kits.config_file() == tmp_path / "xdg" / "clouddeploy" / "config.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert admin_kits.config_file().is_relative_to(home)


def folder(place):
    (place / "startup").mkdir(parents=True)
    return place


def test_a_kit_is_chosen_by_name_then_folder_then_environment_then_the_active_one(home, tmp_path, monkeypatch):
    with pytest.raises(KitNotConfigured):
        admin_kits.choose()
    places = {name: folder(tmp_path / name) for name in ("named", "given", "ours", "theirs", "active")}
    admin_kits.config_file().parent.mkdir(parents=True)
    admin_kits.write(admin_kits.AdminKits({"a": places["active"], "n": places["named"]}, "a"))
    assert admin_kits.choose() == places["active"]
    monkeypatch.setenv("NVFLARE_STARTUP_KIT_DIR", str(places["theirs"]))
    assert admin_kits.choose() == places["theirs"]
    monkeypatch.setenv("CLOUDDEPLOY_STARTUP_KIT", str(places["ours"]))
    assert admin_kits.choose() == places["ours"]
    assert admin_kits.choose(startup_kit=places["given"]) == places["given"]
    assert admin_kits.choose(startup_kit=places["given"], kit_id="n") == places["named"]


def test_what_is_named_and_is_not_there_is_refused_and_nothing_else_is_used(home, tmp_path, monkeypatch):
    active = folder(tmp_path / "active")
    admin_kits.config_file().parent.mkdir(parents=True)
    admin_kits.write(admin_kits.AdminKits({"a": active}, "a"))
    with pytest.raises(KitMissing, match="known: a"):
        admin_kits.choose(kit_id="b")
    with pytest.raises(KitMissing, match="--startup-kit"):
        admin_kits.choose(startup_kit=tmp_path)
    monkeypatch.setenv("CLOUDDEPLOY_STARTUP_KIT", str(tmp_path / "none"))
    with pytest.raises(KitMissing, match="CLOUDDEPLOY_STARTUP_KIT"):
        admin_kits.choose()


def test_a_command_without_a_kit_is_bad_input_with_its_own_code(home):
    envelope = invoke(system, "status", expected=ExitCode.BAD_INPUT)
    assert envelope["error_code"] == "STARTUP_KIT_NOT_CONFIGURED"


def test_a_command_uses_the_kit_of_a_name(home, tmp_path):
    admin_kits.config_file().parent.mkdir(parents=True)
    admin_kits.write(admin_kits.AdminKits({"a": folder(tmp_path / "a"), "b": folder(tmp_path / "b")}, "a"))
    opening = FakeOpening(FakeSession())
    invoke(system, "status", opening=opening)
    invoke(system, "status", "--kit-id", "b", opening=opening)
    assert [one[0] for one in opening.opened] == [str(tmp_path / "a"), str(tmp_path / "b")]
