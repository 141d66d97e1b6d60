"""Which startup kits may be deployed alone, and what is read from them."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from clouddeploy_providers.resources import Need
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import KitError, KitExpired, KitTampered

from clouddeploy import lone_kit
from clouddeploy.errors import ConfigError
from clouddeploy.lone_kit import Maker

PROJECT = {
    "api_version": 3,
    "name": "trial",
    "builders": [
        {"path": f"nvflare.lighter.impl.{name}"} for name in ("cert.CertBuilder", "signature.SignatureBuilder")
    ],
    "participants": [
        {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": 8102, "default_host": "fl.example.com"},
        {"name": "site-1", "type": "client", "org": "a", "capacity": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16}},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("provisioned")
    file = folder / "project.yml"
    file.write_text(yaml.safe_dump(PROJECT))
    return provision(project.load(file), folder / "workspace", passphrase=b"x").kits


@pytest.fixture
def kit(made, tmp_path):
    """Returns a copy of a participant's kit, as NVFLARE would have made it where that is wanted."""

    def kit(name, *, is_theirs=False):
        copy = tmp_path / name
        shutil.copytree(made[name], copy)
        if is_theirs:
            for file in copy.glob("startup/manifest.*"):
                file.unlink()
            (copy / "startup/start.sh").write_text("#!/usr/bin/env bash\n# as the reference has it\n")
        return copy

    return kit


def edit(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_a_server_says_its_port_and_the_names_under_which_clients_find_it(kit):
    lone = lone_kit.read(kit("server1"))
    assert (lone.maker, lone.is_server, lone.project, lone.participant) == (Maker.OURS, True, "trial", "server1")
    assert (lone.server, lone.ports, lone.tls_name) == ("fl.example.com", (8102,), "server1")
    assert set(lone.hosts) == {"server1", "fl.example.com"}
    assert (lone.facts.server, lone.facts.clients, lone.facts.ports) == ("server1", (), (8102,))
    assert not lone.facts.is_signed_here


def test_a_client_says_where_its_server_is_and_what_it_offers_to_jobs(kit):
    lone = lone_kit.read(kit("site-1"))
    assert (lone.is_server, lone.endpoint) == (False, "fl.example.com:8102")
    assert lone.need == Need(gpus=2, gpu_memory_gib=16)
    assert (lone.facts.server, lone.facts.clients, lone.facts.ports) == (None, ("site-1",), ())
    assert lone.facts.capacities == {"site-1": lone.need}


def test_what_the_site_has_edited_counts_and_not_the_default(kit):
    folder = kit("site-1")
    file = folder / "local" / "resources.json"
    shutil.copy(folder / "local" / "resources.json.default", file)
    edit(file, lambda one: [part["args"].update(num_of_gpus=0) for part in one["components"]])
    assert lone_kit.read(folder).need is None
    file.write_text('{"components": [{"id": "resource_manager", "args": {"num_of_gpus": "many"}}]}')
    with pytest.raises(KitError, match=r"resources\.json cannot be used"):
        lone_kit.read(folder)


def test_a_kit_of_ours_that_was_changed_is_refused(kit):
    folder = kit("server1")
    edit(folder / "startup" / "fed_server.json", lambda one: one["servers"][0].update(admin_port=22))
    with pytest.raises(KitTampered):
        lone_kit.read(folder)


def test_a_kit_of_the_reference_may_have_a_second_port(kit):
    folder = kit("server1", is_theirs=True)
    edit(folder / "startup" / "fed_server.json", lambda one: one["servers"][0].update(admin_port=8103))
    lone = lone_kit.read(folder)
    assert (lone.maker, lone.ports) == (Maker.NVFLARE, (8102, 8103))
    assert lone.tls_name in lone.hosts
    edit(folder / "startup" / "fed_server.json", lambda one: one["servers"][0].update(admin_port=0))
    with pytest.raises(KitError, match="admin_port"):
        lone_kit.read(folder)


@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", ["server1", "site-1"])
def test_a_kit_whose_time_is_over_is_refused(kit, name, is_theirs):
    with pytest.raises(KitExpired) as caught:
        lone_kit.read(kit(name, is_theirs=is_theirs), now=datetime.now(UTC) + timedelta(days=9000))
    assert caught.value.hint


def test_a_certificate_of_another_authority_is_refused(kit, made, tmp_path):
    folder = kit("site-1", is_theirs=True)
    file = tmp_path / "project.yml"
    file.write_text(yaml.safe_dump(PROJECT))
    other = provision(project.load(file), tmp_path / "other", passphrase=b"x").kits["site-1"]
    shutil.copy(other / "startup/rootCA.pem", folder / "startup/rootCA.pem")
    with pytest.raises(KitError, match="not issued by the kit's own"):
        lone_kit.read(folder)
    (folder / "startup/rootCA.pem").unlink()
    with pytest.raises(KitError):
        lone_kit.read(folder)


def test_a_kit_without_tls_is_refused(kit):
    folder = kit("site-1", is_theirs=True)
    edit(folder / "startup/fed_client.json", lambda one: one["client"].update(connection_security="clear"))
    with pytest.raises(ConfigError, match="without TLS"):
        lone_kit.read(folder)


def test_an_admin_has_no_machine(kit):
    with pytest.raises(ConfigError) as caught:
        lone_kit.read(kit("admin@example.com"))
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "of the kind admin" in str(caught.value)
    assert caught.value.hint


def test_a_folder_that_is_no_kit(tmp_path):
    with pytest.raises(KitError):
        lone_kit.read(tmp_path)
    (tmp_path / "startup").mkdir()
    with pytest.raises(KitError):
        lone_kit.read(tmp_path)


def test_a_server_that_would_take_any_port_is_refused(kit):
    folder = kit("server1")
    (folder / "local" / "endpoint.json").write_text('{"port": 0}')
    with pytest.raises(ConfigError, match="any free port"):
        lone_kit.read(folder)


def test_a_kit_of_ours_without_its_signature_is_no_kit_of_the_reference(kit):
    folder = kit("site-1")
    for file in folder.glob("startup/manifest.*"):
        file.unlink()
    with pytest.raises(KitError):
        lone_kit.read(folder)


@pytest.mark.parametrize("name", ["local/more", "startup/more"])
def test_a_link_out_of_the_kit_is_refused_since_it_would_be_followed(kit, tmp_path, name):
    folder = kit("site-1", is_theirs=True)
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(ConfigError) as refused:
        lone_kit.read(folder)
    assert name in refused.value.why


def test_what_a_site_has_left_beside_its_kit_stays_here(kit):
    folder = kit("site-1")
    (folder / "log.txt").write_text("of a trial on this machine")
    with lone_kit.alone(lone_kit.read(folder)) as copy:
        assert {path.name for path in copy.iterdir()} == {"startup", "local"}
        assert (copy / "startup/client.key").stat().st_mode & 0o777 == 0o600
