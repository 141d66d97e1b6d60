"""The deploy file that a launch writes, keeps or leaves alone."""

from pathlib import Path

import pytest
import yaml
from clouddeploy_providers.resources import Need
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import launch
from clouddeploy.errors import ConfigError
from clouddeploy.launch import Wish
from clouddeploy.lone_kit import LoneKit, Maker


@pytest.fixture
def kit(tmp_path):
    """Returns a kit, as far as launch asks it."""

    def kit(*, is_server=False, server="fl.example.com", need=None):
        (tmp_path / "their kit").mkdir(exist_ok=True)
        folder = Path(tmp_path / "their kit").resolve()
        return LoneKit(
            folder, Maker.OURS, is_server, "trial", "site-1", server, (8002,), tls_name="x", roots=b"", need=need
        )

    return kit


def written(kit, wish):
    prepared = launch.prepare(kit, wish)
    prepared.save()
    return yaml.safe_load(prepared.file.read_text())


@pytest.mark.parametrize(
    ("cloud", "site"),
    [
        ("aws", {"provider": "aws", "region": "us-west-2"}),
        ("azure", {"provider": "azure", "location": "westus2"}),
    ],
)
def test_nothing_asked_for_gives_the_defaults(kit, tmp_path, cloud, site):
    assert written(kit(), Wish(cloud)) == {"version": 1, "kit": "their kit", "sites": {"site-1": site}}
    assert launch.deploy_file(kit()) == tmp_path.resolve() / "site-1.deploy.yml"


def test_what_is_asked_for_is_written(kit):
    wish = Wish("aws", {"region": "eu-west-1", "size": "t3.large", "vpc_id": "vpc-1"}, ("192.0.2.0/24",))
    document = written(kit(), wish)
    assert document["ssh_sources"] == ["192.0.2.0/24"]
    assert document["sites"]["site-1"] == {"provider": "aws", **wish.settings}


def test_a_container_is_written_and_stays_when_something_else_is_asked_for(kit):
    written(kit(), Wish("azure", {"container": "ghcr.io/org/train:1.2"}))
    site = written(kit(), Wish("azure", {"size": "Standard_D4s_v5"}))["sites"]["site-1"]
    assert (site["container"], site["size"]) == ("ghcr.io/org/train:1.2", "Standard_D4s_v5")


def test_gpus_of_the_kit_become_the_need_unless_a_size_is_named(kit):
    lone = kit(need=Need(gpus=2, gpu_memory_gib=16))
    site = {"provider": "aws", "region": "us-west-2"}
    assert written(lone, Wish("aws"))["sites"]["site-1"] == {**site, "gpus": 2, "gpu_memory_gib": 16}
    assert written(lone, Wish("aws", {"size": "g5.xlarge"}))["sites"]["site-1"] == {**site, "size": "g5.xlarge"}


def test_a_server_known_by_azures_name_gets_that_name(kit):
    lone = kit(is_server=True, server="Trial.westeurope.cloudapp.azure.com")
    site = {"provider": "azure", "location": "westeurope", "dns_label": "trial"}
    assert written(lone, Wish("azure"))["sites"]["site-1"] == site
    with pytest.raises(ConfigError, match="cannot be in eastus"):
        launch.prepare(lone, Wish("azure", {"location": "eastus"}))
    assert "dns_label" not in launch.defaults(lone, "aws")
    assert "dns_label" not in launch.defaults(kit(server=lone.server), "azure")


def test_the_second_launch_changes_nothing(kit):
    written(kit(), Wish("aws", {"size": "t3.large"}))
    before = launch.deploy_file(kit()).read_bytes()
    again = launch.prepare(kit(), Wish("aws"))
    again.save()
    assert launch.deploy_file(kit()).read_bytes() == before
    assert "used as it is" in again.note


def test_another_wish_changes_that_and_no_more(kit):
    written(kit(), Wish("aws", {"size": "t3.large", "image": "ami-1"}, ("192.0.2.0/24",)))
    document = written(kit(), Wish("aws", {"size": "t3.small"}))
    assert document["ssh_sources"] == ["192.0.2.0/24"]
    assert document["sites"]["site-1"] == {
        "provider": "aws",
        "region": "us-west-2",
        "size": "t3.small",
        "image": "ami-1",
    }


def test_a_file_with_keys_of_its_owner_is_used_as_it_is(kit):
    written(kit(), Wish("aws"))
    file = launch.deploy_file(kit())
    file.write_text(file.read_text() + "ttl: 8h\n")
    prepared = launch.prepare(kit(), Wish("aws", {"size": "t3.large"}))
    assert prepared.text == prepared.before
    assert "keys of your own (ttl)" in prepared.note
    assert "without size" in prepared.note


def test_a_refused_launch_leaves_the_file_as_it_was(kit):
    first = launch.prepare(kit(), Wish("aws"))
    first.save()
    second = launch.prepare(kit(), Wish("aws", {"size": "t3.large"}))
    second.save()
    second.undo()
    assert first.file.read_text() == first.text
    first.undo()
    assert not first.file.exists()


def test_the_other_cloud_is_refused_while_the_first_may_have_a_machine(kit):
    written(kit(), Wish("aws"))
    with pytest.raises(ConfigError, match="is launched in aws, not in azure") as caught:
        launch.prepare(kit(), Wish("azure"))
    assert "destroy" in caught.value.hint


@pytest.mark.parametrize("text", ["version: 1\n", "kit: elsewhere\nsites: {site-1: {provider: aws}}\n", "a: ]\n", "[]"])
def test_a_file_that_is_not_of_this_kit_is_left_alone(kit, text):
    file = launch.deploy_file(kit())
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        launch.prepare(kit(), Wish("aws"))
    assert caught.value.hint
    assert file.read_text() == text


def test_a_word_of_the_other_cloud_is_refused():
    with pytest.raises(ConfigError, match="vpc_id cannot be chosen in azure") as caught:
        Wish("azure", {"vpc_id": "vpc-1"})
    assert caught.value.exit_code == ExitCode.BAD_INPUT
