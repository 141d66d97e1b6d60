"""A deploy file with `kit:` on the shipped fake cloud: the engine without a project, an authority or a passphrase."""

import shutil
import socket

import pytest
import yaml
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.fake_cloud import FakeCloud
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime._version import __version__
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import KitError, KitTampered

from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError
from clouddeploy.killable import BareKitInstallation
from clouddeploy.kit_installation import is_led_to
from clouddeploy.remote.container import Image
from clouddeploy.remote.wheels import PythonTarget


class Lone:
    """One kit of a trial project, and the deploy file for it."""

    def __init__(self, folder, write_trial):
        write_trial(folder)
        self.folder = folder
        self.kits = provision(project.load(folder / "project.yml"), folder / "workspace", passphrase=b"x").kits
        (folder / "project.yml").unlink()
        self.cloud = FakeCloud(folder / "cloud.json")

    def deployment(self, name, *, site=None, keys_of_site=None, **top):
        own = {"provider": "fake", "file": str(self.folder / "cloud.json"), **(keys_of_site or {})}
        document = {"version": 1, "kit": str(self.kits[name]), **top, "sites": {site or name: own}}
        file = self.folder / f"{name}.deploy.yml"
        file.write_text(yaml.safe_dump(document))
        return Deployment(file, endpoints=Endpoints(caller_address="192.0.2.1"), kit_installation=BareKitInstallation)


@pytest.fixture
def lone(tmp_path, write_trial):
    return Lone(tmp_path, write_trial)


def rules(plan):
    (firewall,) = (change.wanted for change in plan.changes if change.node.endswith("/firewall"))
    return {rule.port: rule.sources for rule in firewall.rules}


def test_a_server_alone_has_an_address_and_its_port_open(lone):
    deployment = lone.deployment("server1")
    plan = deployment.plan()
    assert plan.problems == ()
    assert plan.signatures == ()
    assert {change.node for change in plan.pending} >= {"server1/address", "server1/firewall", "server1/machine"}
    assert rules(plan) == {22: ("192.0.2.1/32",), 8002: ("0.0.0.0/0",)}
    (warning,) = plan.warnings
    assert "with the blocks of the sites" in warning
    assert set(rules(lone.deployment("server1", federation_sources=["198.51.100.0/24"]).plan())) == {22, 8002}


def test_what_a_deploy_file_from_others_sends_and_lets_in_is_said(lone):
    (lone.folder / "scans").mkdir()
    deployment = lone.deployment("site-1", ssh_sources=["198.51.100.0/24"], keys_of_site={"data": "scans"})
    assert deployment.plan().warnings == (
        f"site-1: everything in {lone.folder}/scans is copied to its machine",
        "SSH is open to what the deploy file names, not to your address: 198.51.100.0/24",
    )


def test_the_image_of_a_deploy_file_from_others_is_named_and_one_without_a_digest_is_said_to_be_open(lone):
    said = "site-1: it runs in the image {}, which has its private key, and sees its data"
    one, pinned = "ghcr.io/org/train:1", f"ghcr.io/org/train:1@sha256:{64 * 'a'}"
    first, second = lone.deployment("site-1", keys_of_site={"container": one}).plan().warnings
    assert first.startswith(f"site-1: {one} has no digest")
    assert second == said.format(one)
    assert lone.deployment("site-1", keys_of_site={"container": pinned}).plan().warnings == (said.format(pinned),)


def test_a_client_alone_is_applied_and_destroyed_without_its_server(lone):
    deployment = lone.deployment("site-1")
    plan = deployment.plan()
    assert plan.warnings == ()
    assert rules(plan) == {22: ("192.0.2.1/32",)}
    events = []
    applied = deployment.apply(on_event=events.append)
    assert set(applied.ready_after_s) == {"site-1"}
    titles = {event.title for event in events}
    assert "verify the kit" in titles
    assert "sign kits" not in titles
    assert deployment.plan().pending == ()
    assert [site.name for site in deployment.status()] == ["site-1"]
    assert deployment.kit("site-1") == lone.kits["site-1"]
    with pytest.raises(ConfigError, match="no startup kit of server1 here"):
        deployment.kit("server1")
    assert lone.deployment("site-1").destroy().left == ()
    assert lone.cloud.names == []


def test_a_server_that_is_not_found_under_its_name_says_what_to_enter_in_the_dns(lone):
    deployment = lone.deployment("server1")
    warnings = deployment.apply().warnings
    address = deployment.recorded().resources["server1/machine"].ref.outputs["address"]
    assert f"let the name server1 lead to {address} (a DNS record of type A), port 8002" in warnings[-1]


def test_a_name_leads_to_what_the_resolver_says():
    assert is_led_to("127.0.0.1", "127.0.0.1")
    assert is_led_to("localhost", socket.gethostbyname("localhost"))
    assert not is_led_to("localhost", "192.0.2.7")
    assert not is_led_to("no-such-name.invalid", "192.0.2.7")
    assert not is_led_to("x" * 70 + ".example", "192.0.2.7")


def test_a_changed_kit_is_refused_before_anything_is_created(lone):
    (lone.kits["site-1"] / "startup" / "start.sh").write_text("#!/bin/sh\n")
    with pytest.raises(KitTampered):
        lone.deployment("site-1")
    assert lone.cloud.names == []


def test_the_image_of_a_container_has_what_runs_the_kit_and_what_that_asks_for(lone):
    work = lone.deployment("site-1", keys_of_site={"container": "localhost/train:1"}).installation
    target = PythonTarget("3.11", "x86_64")
    asked = ("numpy>=2", "torch==2.5.1; python_version < '3'")
    ours, theirs = work.image("site-1", asked=asked), work.image("site-1", is_theirs=True, is_newest=True)
    assert ours(target) == Image("localhost/train:1", "clouddeploy_runtime", __version__, ("numpy",))
    assert theirs(target) == Image("localhost/train:1", "nvflare", is_newest=True)
    assert lone.deployment("site-1").installation.image("site-1") is None


def test_another_container_changes_no_machine(lone):
    lone.deployment("site-1").apply()
    assert lone.deployment("site-1", keys_of_site={"container": "localhost/train:1"}).plan().pending == ()


def test_a_site_of_another_name_is_refused(lone):
    with pytest.raises(ConfigError, match=r"has no such server or client \(example: site-1\)"):
        lone.deployment("site-1", site="site-2")


def test_a_runtime_of_the_reference_is_for_its_kits_alone(lone):
    with pytest.raises(ConfigError, match="runtime cannot be chosen for this kit") as caught:
        lone.deployment("site-1", runtime="nvflare==2.9.0")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    for file in lone.kits["site-1"].glob("startup/manifest.*"):
        file.unlink()
    (lone.kits["site-1"] / "startup/start.sh").write_text("# as the reference has it\n")
    assert lone.deployment("site-1", runtime="nvflare==2.9.1").plan().pending


@pytest.mark.parametrize("name", ["site-1", "server1"])
def test_what_was_made_is_destroyed_also_when_the_kit_is_gone(lone, name):
    lone.deployment(name).apply()
    shutil.rmtree(lone.kits[name])
    deployment = lone.deployment(name)
    with pytest.raises(KitError):
        deployment.plan()
    with pytest.raises(KitError):
        deployment.apply()
    assert [site.name for site in deployment.status()] == [name]
    deployment.destroy()
    assert lone.cloud.names == []


def test_a_kit_that_is_not_there_is_refused_when_nothing_was_made_with_it(lone):
    shutil.rmtree(lone.kits["site-1"])
    with pytest.raises(KitError):
        lone.deployment("site-1")


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ({"project": "project.yml"}, "kit: stands beside project"),
        ({"workspace": "w"}, "workspace: means nothing for a kit"),
        ({"smoke_job": "j"}, "smoke_job: means nothing for a kit"),
        ({"keys": "on-site"}, "keys: means nothing for a kit"),
        ({"federation_sources": "sites"}, "federation_sources: cannot be `sites`"),
        ({"runtime": "nvflare>=2"}, "runtime: is nvflare== and one version"),
        ({"runtime": "nvflare==2; rm -rf /"}, "runtime: is nvflare== and one version"),
    ],
)
def test_keys_that_do_not_go_with_a_kit(lone, top, said):
    with pytest.raises(ConfigError) as caught:
        lone.deployment("site-1", **top)
    assert said in str(caught.value)


def test_a_kit_has_one_site_and_a_runtime_needs_a_kit(tmp_path):
    file = tmp_path / "deploy.yml"
    file.write_text("version: 1\nkit: k\nsites: {a: {provider: fake, keys: central}, b: {provider: fake}}\n")
    with pytest.raises(ConfigError) as caught:
        Deployment(file)
    assert "sites: has more than the kit's own site" in str(caught.value)
    assert "sites.a.keys: means nothing for a kit" in str(caught.value)
    file.write_text("version: 1\nruntime: nvflare==2.9.0\nsites: {a: {provider: fake}}\n")
    with pytest.raises(ConfigError) as caught:
        Deployment(file)
    assert "runtime: is for a kit that NVFLARE has made" in str(caught.value)
    assert "project: is missing; or name one kit" in str(caught.value)
