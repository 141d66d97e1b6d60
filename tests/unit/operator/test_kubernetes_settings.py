"""What a deploy file says of sites in Kubernetes: refused before anything is asked, and what becomes of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.errors import (
    InvalidRequest,
)
from clouddeploy_providers.fake_cloud import FakeCloud
from clouddeploy_rehearsal.kubernetes_sites import SiteCluster

from clouddeploy.clusters import api, wishes
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError
from clouddeploy.prepare.cluster import ClusterUnreachable
from clouddeploy.remote.bootstrap import Release
from tests.unit.operator import kubernetes_trial
from tests.unit.operator.kubernetes_trial import IMAGE, Impatient, Trial


@pytest.fixture
def cluster(tmp_path):
    with SiteCluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def trial(tmp_path, cluster):
    return Trial(tmp_path, cluster)


@pytest.mark.parametrize(
    ("site", "given", "words"),
    [
        ("site-1", {"context": None}, "lacks context"),
        ("site-1", {"namespace": "Up per"}, "no name of a namespace"),
        ("site-1", {"container": None}, "container is missing"),
        ("site-1", {"size": "big"}, "means nothing in Kubernetes"),
        ("site-1", {"gpus": 1}, "asks for GPUs itself"),
        ("site-1", {"keys": "on-site"}, "from the Secret of its kit"),
        ("site-1", {"service": "ClusterIP"}, "nobody calls a client"),
        ("site-1", {"host": "a.example"}, "is for a server"),
        ("site-1", {"egress": "here"}, "egress"),
        ("site-1", {"unheard": "of"}, "unknown key"),
        ("site-1", {"study_runtime": "nowhere.yaml"}, "is not a file"),
        ("site-1", {"config": "nowhere.yaml"}, "does not exist"),
        ("server1", {"service": None, "cloud": None, "address": None}, "`service` is missing"),
        ("server1", {"service": "NodePort"}, "no service 'NodePort'"),
        ("server1", {"cloud": "aws"}, "not known where clients find"),
        ("server1", {"host": "not a host"}, "is no host"),
        ("server1", {"cloud": None, "host": "a.example"}, "address is of no cloud"),
    ],
)
def test_a_deploy_file_that_cannot_work_is_refused_with_nothing_asked(trial, cluster, site, given, words):
    trial.sites[site] = {**trial.sites[site], **given}
    with pytest.raises((ConfigError, InvalidRequest)) as caught:
        trial.apply()
    assert words in str(caught.value) + caught.value.why
    assert cluster.log == []


def test_an_open_port_for_sites_alone_is_no_promise_of_a_load_balancer(trial):
    trial.top = {"federation_sources": "sites"}
    with pytest.raises(ConfigError, match="not opened site by site"):
        trial.plan()


def test_a_context_that_is_not_there_says_where_to_look(trial):
    trial.sites["site-1"] = {"context": "elsewhere"}
    with pytest.raises(ClusterUnreachable) as caught:
        trial.apply()
    assert "elsewhere" in caught.value.why
    assert "get-contexts" in caught.value.hint


def test_a_cluster_that_is_not_there_is_unreachable(trial, cluster):
    trial.apply()
    deployment = trial.deployment()
    with SiteCluster(trial.folder / "gone") as other:
        url = other.url
    path = cluster.kubeconfig()
    path.write_text(path.read_text().replace(cluster.url, url))
    assert {one.state for one in deployment.status()} == {"unreachable"}


def test_a_configuration_of_ones_own_says_the_rest(trial, cluster):
    more = {
        "runtime": "k8s",
        "parent": {"docker_image": "registry.example.com/none:1", "python_path": "/opt/python"},
        "storage": {"access_mode": "ReadWriteMany"},
        "network_policy": False,
    }
    (trial.folder / "runtime.yaml").write_text(yaml.safe_dump(more))
    (trial.folder / "study.yaml").write_text("format_version: 1\n")
    own = {"config": "runtime.yaml", "study_runtime": "study.yaml", "storage_class": "fast", "disk_gib": 50}
    trial.sites["site-1"] = {**own, "vcpus": 3, "memory_gib": 1.5}
    trial.apply()
    claim = cluster.objects("persistentvolumeclaims", "fl")["site-1-workspace"]["spec"]
    assert claim == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "50Gi"}},
        "storageClassName": "fast",
    }
    container = cluster.objects("deployments", "fl")["site-1"]["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["command"][0]) == (IMAGE, "/opt/python")
    assert container["resources"]["requests"] == {"cpu": "3", "memory": "1536Mi"}
    assert ("networkpolicies", "site-1") not in cluster.names("fl")
    local = cluster.objects("configmaps", "fl")["nvflare-local-site-1"]["data"]
    assert local["study_runtime.yaml"] == "format_version: 1\n"
    (trial.folder / "study.yaml").write_text("format_version: 1\n# more\n")
    assert trial.pending() == ({}, ("site-1",))


def test_what_is_not_wanted_any_more_goes_but_for_the_workspace(trial, cluster):
    trial.apply()
    more = {"runtime": "k8s", "parent": {"docker_image": IMAGE}, "network_policy": False}
    (trial.folder / "runtime.yaml").write_text(yaml.safe_dump(more))
    trial.sites["site-1"] = {"config": "runtime.yaml"}
    trial.apply()
    assert {kind for kind, name in cluster.names("fl") if name == "site-1-jobs"} == set()
    assert ("networkpolicies", "server1-jobs") in cluster.names("fl")


@pytest.mark.parametrize("key", ["namespace", "service", "server_service_name"])
def test_a_configuration_does_not_say_what_the_deploy_file_does(trial, key):
    more = {"runtime": "k8s", "parent": {"docker_image": IMAGE}, key: {} if key == "service" else "fl"}
    (trial.folder / "runtime.yaml").write_text(yaml.safe_dump(more))
    trial.sites["site-1"] = {"config": "runtime.yaml"}
    with pytest.raises(ConfigError, match=f"says {key}"):
        trial.plan()


def test_a_rehearsal_reaches_no_cluster(trial):
    """A rehearsal has emulated clouds, and the user's own cluster is not one of them."""
    endpoints = SimpleNamespace(aws=object(), azure=None)
    with pytest.raises(InvalidRequest, match="cannot be rehearsed"):
        Deployment(trial.write(), endpoints=endpoints)


def test_the_rights_that_are_asked_for_hold_those_that_a_sites_own_role_gives_on():
    """Whoever makes a Role has to have what is in it."""
    wanted = {(right.verb, right.resource) for right in api.needed_rights()}
    assert {("create", "pods"), ("get", "pods/log"), ("list", "events"), ("create", "secrets")} <= wanted


def test_the_keys_of_a_site_are_those_of_its_provider():
    assert wishes.OF_SERVER <= wishes.SETTINGS


class Mixed(Impatient):
    """Does nothing on machines, and in clusters what there is to do."""

    def kits_and_install(self, passphrase):
        kits, _ = super().kits_and_install(passphrase)
        return kits, lambda _site, _host, _kit: Release("none", "/none", "/none")

    def open(self, site, machine, **_given):
        return SimpleNamespace(close=lambda: None)

    def start(self, site, host, release):
        """There is no machine."""

    def _wait_good(self, site, host, release, address):
        """Nor anybody on it."""


@pytest.fixture
def mixed(trial, monkeypatch):
    monkeypatch.setattr(kubernetes_trial, "Impatient", Mixed)
    cloud = {"provider": "fake", "file": str(trial.folder / "cloud.json"), "container": None}
    trial.elsewhere = {**cloud, "context": None, "namespace": None, "kubeconfig": None}
    return trial


def test_a_client_on_a_machine_is_led_to_a_server_in_kubernetes(mixed, cluster):
    mixed.sites["site-1"] = mixed.elsewhere
    mixed.apply()
    assert mixed.pending() == ({}, ())
    assert {name for kind, name in cluster.names("fl") if kind == "deployments"} == {"server1"}
    assert "203.0.113.7" in (mixed.deployment().kit("site-1") / "local" / "endpoint.json").read_text()
    mixed.destroy()
    assert cluster.namespaces == set()


def test_a_server_on_a_machine_lets_a_cluster_in_by_its_way_out(mixed, cluster):
    mixed.top = {"federation_sources": "sites"}
    mixed.sites["server1"] = mixed.elsewhere
    assert any("without `egress`" in one for one in mixed.plan().warnings)
    mixed.sites["site-1"] = {"egress": "203.0.113.64/28"}
    mixed.apply()
    assert mixed.pending() == ({}, ())
    (name,) = (name for name in FakeCloud(mixed.folder / "cloud.json").names if "server1-firewall" in name)
    assert (8002, "203.0.113.64/28") in FakeCloud(mixed.folder / "cloud.json").rules(name)
    record = mixed.deployment().recorded().resources["server1/machine"].ref
    text = "".join(cluster.objects("configmaps", "fl")["nvflare-local-site-1"]["data"].values())
    assert record.outputs["address"] in text


def test_one_kit_alone_runs_in_kubernetes_too(trial, cluster):
    trial.apply()
    kit = trial.deployment().kit("site-1")
    trial.destroy()
    own = yaml.safe_load(trial.write().read_text())["sites"]["site-1"]
    (trial.folder / "lone.yml").write_text(yaml.safe_dump({"version": 1, "kit": str(kit), "sites": {"site-1": own}}))
    lone = Deployment(trial.folder / "lone.yml", endpoints=Endpoints(caller_address="192.0.2.1"))
    lone.apply()
    assert [one.state for one in lone.status()] == ["registered"]
    assert lone.plan().work_left == 0
    assert lone.destroy().left == ()
    assert cluster.namespaces == set()


def test_the_role_in_the_documentation_is_what_it_takes():
    text = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
    (block,) = (part for part in text.split("```yaml\n") if "clouddeploy-operator" in part)
    role, _ = yaml.safe_load_all(block.partition("```")[0])
    has = {
        (verb, resource, group)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }
    assert {tuple(right) for right in api.needed_rights()} == has
