"""`provider: kubernetes` through the whole engine, on an API server that keeps objects and has its faults."""

import json
import stat
from dataclasses import replace

import kubernetes_validate
import pytest
from clouddeploy_providers.errors import (
    AccessDenied,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    QuotaError,
)
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import Kind, Resource
from clouddeploy_rehearsal.kubernetes_sites import SiteCluster
from clouddeploy_runtime.errors import ExitCode
from cryptography import x509

from clouddeploy import shells, sweep, upgrade
from clouddeploy.cli.main import main
from clouddeploy.clusters import kubectl
from clouddeploy.clusters.provider import refuse_taken
from clouddeploy.clusters.work import SiteDown
from clouddeploy.errors import ConfigError, PartialFailure, PreflightFailed, UpgradeFailed
from tests.unit.operator.kubernetes_trial import IMAGE, NEWER, Trial

OBJECTS = {
    ("configmaps", "nvflare-local-server1"),
    ("configmaps", "nvflare-local-site-1"),
    ("deployments", "server1"),
    ("deployments", "site-1"),
    ("networkpolicies", "server1"),
    ("networkpolicies", "server1-jobs"),
    ("networkpolicies", "site-1"),
    ("networkpolicies", "site-1-jobs"),
    ("persistentvolumeclaims", "server1-workspace"),
    ("persistentvolumeclaims", "site-1-workspace"),
    ("poddisruptionbudgets", "server1"),
    ("poddisruptionbudgets", "site-1"),
    ("pods", "server1-1"),
    ("pods", "site-1-1"),
    ("rolebindings", "server1"),
    ("rolebindings", "site-1"),
    ("roles", "server1"),
    ("roles", "site-1"),
    ("secrets", "nvflare-startup-server1"),
    ("secrets", "nvflare-startup-site-1"),
    ("serviceaccounts", "server1"),
    ("serviceaccounts", "site-1"),
    ("services", "server1"),
}
ROOM = ".clouddeploy/deploy/prepared"


def validate(manifest):
    """Refuse what a real cluster would refuse."""
    try:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    except kubernetes_validate.ValidationError as exc:
        raise ValueError(exc.message) from exc


@pytest.fixture
def cluster(tmp_path):
    with SiteCluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def trial(tmp_path, cluster):
    return Trial(tmp_path, cluster)


def marks(cluster, namespace="fl"):
    return {name: one for name, one in cluster.objects("configmaps", namespace).items() if name.startswith("cd-")}


def test_a_plan_shows_where_a_site_goes_and_how_it_is_reached(trial, cluster):
    plan = trial.plan()
    server, client = plan.pending
    assert (server.node, server.place, server.image) == ("server1/machine", "kubernetes rehearsal, fl", IMAGE)
    assert "service LoadBalancer at 203.0.113.7" in server.reason
    assert "client" in client.reason
    assert IMAGE in client.reason
    assert any("open to the world" in one for one in plan.warnings)
    assert cluster.namespaces == set()


def test_applied_twice_nothing_changes_and_destroyed_twice_nothing_is_left(trial, cluster):
    cluster._validate = validate
    trial.apply()
    made = cluster.names("fl")
    assert made - {("configmaps", name) for name in marks(cluster)} == OBJECTS
    assert trial.pending() == ({}, ())
    trial.apply()
    assert cluster.names("fl") == made
    assert {one["metadata"]["generation"] for one in cluster.objects("deployments", "fl").values()} == {1}
    for _ in range(2):
        assert trial.destroy().left == ()
        assert cluster.namespaces == set()


def test_the_server_has_the_reserved_address_in_its_service_its_certificate_and_the_kits(trial, cluster):
    trial.top = {"federation_sources": ["198.51.100.0/24"]}
    trial.apply()
    spec = cluster.objects("services", "fl")["server1"]["spec"]
    assert (spec["loadBalancerIP"], spec["loadBalancerSourceRanges"]) == ("203.0.113.7", ["198.51.100.0/24"])
    assert "203.0.113.7" in (trial.deployment().kit("site-1") / "local" / "endpoint.json").read_text()
    certificate = x509.load_pem_x509_certificate(
        (trial.deployment().kit("server1") / "startup/server.crt").read_bytes()
    )
    hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in hosts.get_values_for_type(x509.IPAddress)] == ["203.0.113.7"]
    assert "server1.fl.svc.cluster.local" in hosts.get_values_for_type(x509.DNSName)
    record = trial.deployment().recorded().resources["server1/machine"].ref.outputs
    assert (record["address"], record["dns_name"]) == ("203.0.113.7", "server1.fl.svc.cluster.local")


@pytest.mark.parametrize(
    ("settings", "annotation", "value"),
    [
        (
            {"cloud": "aws", "address": "eipalloc-1", "host": "fl.example.com"},
            "aws-load-balancer-eip-allocations",
            "eipalloc-1",
        ),
        ({"cloud": "azure", "address": "pip", "host": "fl.example.com"}, "azure-pip-name", "pip"),
    ],
)
def test_each_cloud_is_told_the_reserved_address_in_its_own_way(trial, cluster, settings, annotation, value):
    trial.sites["server1"] = {"service": "LoadBalancer", **settings}
    trial.apply()
    service = cluster.objects("services", "fl")["server1"]
    assert service["metadata"]["annotations"][f"service.beta.kubernetes.io/{annotation}"] == value
    assert trial.deployment().status()[0].address == "fl.example.com"


def test_a_load_balancer_with_another_address_than_the_kits_is_no_success(trial):
    trial.sites["server1"] = {"service": "LoadBalancer", "host": "203.0.113.99"}
    with pytest.raises(InvalidRequest, match=r"198\.51\.100\.77"):
        trial.apply()


def test_inside_one_cluster_the_service_has_its_own_name(trial):
    trial.sites["server1"] = {"service": "ClusterIP"}
    trial.apply()
    assert trial.deployment().status()[0].address == "server1.fl.svc.cluster.local"


def test_no_key_is_anywhere_but_in_its_secret(trial, cluster):
    seen = []
    cluster.on_call = lambda call: seen.append(
        {stat.S_IMODE(path.stat().st_mode) for path in trial.folder.glob(f"{ROOM}/*")}
        if call.verb == "patch"
        else set()
    )
    trial.apply()
    assert {0o700} in seen
    assert not list(trial.folder.glob(f"{ROOM}/*"))
    for text in (path.read_text() for path in trial.folder.glob(".clouddeploy/deploy/*.json*")):
        assert "PRIVATE KEY" not in text
    for kind in ("configmaps", "deployments"):
        assert "PRIVATE KEY" not in json.dumps(cluster.objects(kind, "fl"))
    assert "client.key" in cluster.objects("secrets", "fl")["nvflare-startup-site-1"]["data"]


def test_a_newer_image_replaces_the_pod_of_its_site_alone(trial, cluster):
    trial.apply()
    trial.sites["site-1"] = {"container": NEWER}
    assert trial.pending() == ({}, ("site-1",))
    trial.apply()
    assert trial.pending() == ({}, ())
    found = cluster.objects("deployments", "fl")
    assert found["site-1"]["spec"]["template"]["spec"]["containers"][0]["image"] == NEWER
    assert {name: one["metadata"]["generation"] for name, one in found.items()} == {"server1": 1, "site-1": 2}
    assert found["site-1"]["spec"]["strategy"] == {"type": "Recreate"}


def test_another_address_is_a_change_that_replaces_nothing(trial, cluster):
    trial.apply()
    trial.sites["server1"]["address"] = "203.0.113.8"
    pending, _ = trial.pending()
    assert pending == {"server1/machine": "update"}
    trial.apply()
    assert trial.pending() == ({}, ())
    assert cluster.objects("services", "fl")["server1"]["spec"]["loadBalancerIP"] == "203.0.113.8"
    assert ("persistentvolumeclaims", "server1-workspace") in cluster.names("fl")


def test_what_others_did_meanwhile_is_shown_and_mended(trial, cluster):
    trial.apply()
    cluster.remove("fl", "deployments", "site-1")
    cluster.change("fl", "deployments", "server1", lambda one: one["spec"].update(replicas=0))
    drift = {one.name: one.drift for one in trial.deployment().status(is_refresh=True)}
    assert "somebody deleted" in drift["site-1"][0]
    assert drift["server1"] == ("machine: it is stopped",)
    assert trial.pending()[0] == {"server1/machine": "update", "site-1/machine": "update"}
    trial.apply()
    assert trial.pending() == ({}, ())
    assert OBJECTS - {("pods", "server1-1")} <= cluster.names("fl")


def test_an_image_that_somebody_gave_by_hand_is_shown(trial, cluster):
    trial.apply()

    def other(one):
        one["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:1"

    cluster.change("fl", "deployments", "site-1", other)
    (change,) = trial.plan().pending
    assert "evil:1" in change.reason
    trial.apply()
    assert trial.pending() == ({}, ())


def test_a_namespace_that_was_there_stays_and_so_does_what_is_in_it(tmp_path):
    with SiteCluster(tmp_path / "cluster", namespaces=("fl",)) as cluster:
        trial = Trial(tmp_path, cluster)
        cluster._kept(("fl", "configmaps", "theirs"), {"metadata": {"name": "theirs"}})
        trial.apply()
        trial.destroy()
        assert cluster.names("fl") == {("configmaps", "theirs")}
        assert cluster.namespaces == {"fl"}


def test_a_namespace_of_ours_stays_while_others_use_it(trial, cluster):
    trial.apply()
    cluster._kept(("fl", "secrets", "theirs"), {"metadata": {"name": "theirs"}})
    assert trial.destroy().left == ()
    assert cluster.names("fl") == {("secrets", "theirs")}
    assert cluster.namespaces == {"fl"}


def test_a_job_that_runs_goes_with_its_site_and_one_of_another_site_stays(trial, cluster):
    trial.apply()
    for site in ("site-1", "site-2"):
        labels = {"clouddeploy/project": "trial", "clouddeploy/site": site, "app.kubernetes.io/component": "job"}
        with cluster._lock:
            cluster._objects["fl", "pods", f"job-{site}"] = {
                "metadata": {"name": f"job-{site}", "namespace": "fl", "uid": site, "labels": labels}
            }
    trial.destroy()
    assert cluster.names("fl") == {("pods", "job-site-2")}


def test_a_site_that_leaves_the_deploy_file_goes_and_the_others_stay(trial, cluster):
    trial.apply()
    trial.sites.pop("site-1")
    trial.apply()
    assert {name for _, name in cluster.names("fl") if "site-1" in name} == set()
    assert cluster.namespaces == {"fl"}


def test_rights_that_are_missing_are_named_before_anything_is_made(trial, cluster):
    cluster.faults.forbidden = {("create", "deployments"), ("patch", "secrets"), ("create", "namespaces")}
    with pytest.raises(PreflightFailed) as caught:
        trial.apply()
    for words in ("create deployments (apps)", "patch secrets", "create namespaces", "namespace fl"):
        assert words in caught.value.why
    assert cluster.namespaces == set()


def test_a_right_that_is_lost_on_the_way_names_verb_and_resource(trial, cluster):
    cluster.on_call = lambda call: cluster.faults.forbidden.update(
        {("patch", "services")} if call.resource == "secrets" and call.verb == "patch" else set()
    )
    with pytest.raises(AccessDenied) as caught:
        trial.apply()
    assert caught.value.exit_code == ExitCode.CONNECTION
    assert 'cannot patch resource "services"' in caught.value.why
    cluster.on_call = lambda _call: None
    cluster.faults.forbidden = set()
    trial.apply()
    assert trial.pending() == ({}, ())


def test_who_may_not_see_namespaces_works_in_one_that_is_there(tmp_path):
    with SiteCluster(tmp_path / "cluster", namespaces=("fl",)) as cluster:
        cluster.faults.forbidden = {("get", "namespaces"), ("create", "namespaces")}
        trial = Trial(tmp_path, cluster)
        trial.apply()
        assert trial.destroy().left == ()


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ({"missing_images": {IMAGE}}, SiteDown, "ImagePullBackOff: Failed to pull image"),
        ({"quota": "pods is forbidden: exceeded quota: small, used: cpu=4"}, QuotaError, "exceeded quota: small"),
        ({"claims": "storageclass fast is not there"}, DeadlineExceeded, "server1-workspace is pending: storageclass"),
        ({"unschedulable": "0/3 nodes have enough memory"}, DeadlineExceeded, "Unschedulable: 0/3 nodes"),
        ({"crash": "no python\x1b[31m here\n"}, SiteDown, "no python\\x1b[31m here"),
        ({"is_slow": True}, DeadlineExceeded, "neither serves nor is registered"),
    ],
)
def test_what_keeps_a_pod_from_running_is_said_in_the_clusters_words(trial, cluster, faults, error, words):
    for name, value in faults.items():
        setattr(cluster.faults, name, value)
    with pytest.raises(error) as caught:
        trial.apply()
    assert words in caught.value.why
    assert caught.value.hint
    status = trial.deployment().status()[0]
    assert status.state == "not ready"
    cluster.faults.__init__()
    trial.apply()
    assert [one.state for one in trial.deployment().status()] == ["serving", "registered"]


def test_a_client_that_fails_is_no_reason_for_the_server_to_stop(trial, cluster):
    trial.sites["site-1"] = {"container": NEWER}
    cluster.faults.missing_images = {NEWER}
    with pytest.raises(PartialFailure, match="site-1"):
        trial.apply()
    assert trial.deployment().status()[0].state == "serving"


def test_another_deployment_with_the_same_site_is_refused(trial, tmp_path, cluster):
    trial.apply()
    (tmp_path / "other").mkdir()
    other = Trial(tmp_path / "other", cluster)
    with pytest.raises(PreflightFailed) as caught:
        other.apply()
    assert "site-1 of trial is in the namespace fl already" in caught.value.why
    mine, theirs = (one.deployment().places()[0].provider for one in (other, trial))
    owner = replace(theirs.find_all()[0].owner, deployment="00000000")
    ref = mine.create(Resource(Kind.MACHINE, resource_name(owner, Kind.MACHINE), owner), other.cancel)
    with pytest.raises(Conflict, match="is in the namespace fl already"):
        refuse_taken(mine._api(owner.deployment), owner)
    mine.delete(ref, other.cancel)
    assert other.destroy().left == ()
    assert cluster.names("fl") >= OBJECTS


def test_a_lost_state_is_no_lost_site(trial, cluster):
    trial.apply()
    (trial.folder / ".clouddeploy" / "deploy" / "state.json").unlink()
    assert trial.destroy().left == ()
    assert cluster.namespaces == set()


def test_what_nobody_knows_any_more_is_found_and_swept(trial, cluster):
    trial.apply()
    places = trial.deployment().places()
    strays = sweep.look(places, known=frozenset())
    assert {one.found.owner.site for one in strays} == {"server1", "site-1"}
    assert sweep.look(places, known=frozenset({strays[0].found.owner.deployment})) == []
    swept = sweep.remove(strays, cancel=trial.cancel, on_event=lambda _event: None)
    assert swept.left == ()
    assert cluster.namespaces == set()


def test_an_upgrade_gives_the_deploy_files_image_and_leaves_alone_what_has_it(trial, cluster):
    trial.apply()
    assert {one.is_changed for one in upgrade.upgrade(trial.deployment()).values()} == {False}
    trial.sites["site-1"] = {"container": NEWER}
    done = upgrade.upgrade(trial.deployment())
    assert {name: one.is_changed for name, one in done.items()} == {"server1": False, "site-1": True}
    assert trial.pending() == ({}, ())
    cluster.faults.missing_images = {IMAGE}
    trial.sites["site-1"] = {}
    with pytest.raises(UpgradeFailed, match="site-1 could not be upgraded"):
        upgrade.upgrade(trial.deployment(), sites=frozenset({"site-1"}))
    with pytest.raises(ConfigError, match="cannot be rolled back"):
        upgrade.rollback(trial.deployment(), "site-1")


def test_the_log_is_the_pods_and_steers_no_terminal(trial, cluster, capsys):
    trial.apply()
    cluster._log = lambda _name: "line\x1b[2J\n"
    main(["logs", "site-1", "--file", str(trial.write()), "--output", "json"])
    assert json.loads(capsys.readouterr().out)["data"]["log"] == ["line\\x1b[2J"]


def test_terminals_and_ports_are_kubectls(trial, tmp_path, monkeypatch):
    trial.apply()
    tool = tmp_path / "bin" / "kubectl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    there = trial.deployment().shells()
    start = [str(tool), "--kubeconfig", str(trial.cluster.kubeconfig()), "--context", "rehearsal", "--namespace", "fl"]
    assert there.command("site-1", ["id"]) == [*start, "exec", "deployment/site-1", "--", "id"]
    assert there.command("site-1", [], has_terminal=True)[-5:] == ["exec", "-it", "deployment/site-1", "--", "sh"]
    assert there.command("site-1", [], forwards=["1:localhost:2"])[-3:] == ["port-forward", "deployment/site-1", "1:2"]
    assert there.log_command("site-1", lines=5, is_followed=True)[-3:] == ["--tail", "5", "--follow"]
    with pytest.raises(ConfigError, match="cannot be forwarded"):
        there.command("site-1", [], forwards=["1:other:2"])
    assert there.config() == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(shells.StateError, match="no kubectl"):
        kubectl.command({"name": "x", "context": "c", "namespace": "n"}, [])
