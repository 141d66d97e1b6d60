"""A deploy file with sites in Kubernetes: their pods really run, and whoever applies it may be killed at any call."""

import base64
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from clouddeploy_providers.endpoints import REAL as REAL_CLOUDS
from clouddeploy_providers.errors import AccessDenied
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import Demand, Kind, Owner, Resource
from clouddeploy_rehearsal.kubernetes_sites import SiteCluster
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import liveness
from clouddeploy_runtime.admin.session import AdminSession
from kubernetes import client, config

from clouddeploy.clusters import api as apis
from clouddeploy.clusters.provider import KubernetesProvider
from clouddeploy.clusters.wishes import target_of
from clouddeploy.prepare import cluster as clusters
from clouddeploy.prepare import kubernetes as chart
from clouddeploy.prepare import staging
from clouddeploy.prepare.cluster import Identity
from tests.unit.operator.kubernetes_trial import NEWER, Trial
from tests.unit.operator.test_prepare_k8s_staging import prepared

REAL = "CLOUDDEPLOY_KUBECONFIG"
ROOT = Path(__file__).resolve().parents[2]
RUN = """
    import sys
    from pathlib import Path
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy.deployment import Deployment
    from clouddeploy.secrets import Secret
    from tests.unit.operator.kubernetes_trial import Impatient
    endpoints = Endpoints(caller_address="192.0.2.1")
    deployment = Deployment(Path(sys.argv[2]), endpoints=endpoints, installation=Impatient)
    deployment.apply(Secret("correct horse")) if sys.argv[1] == "apply" else deployment.destroy()
"""


class LiveCluster(SiteCluster):
    """Runs the pods of sites as processes of this machine: mounts of the kit, the first container, probes."""

    def __init__(self, folder, **given):
        super().__init__(folder, **given)
        self.running = {}

    def _pod(self, key, deployment):
        super()._pod(key, deployment)
        made = self._objects[key]
        gone = [name for name in self.running if (key[0], "pods", name) not in self._objects]
        for name in gone:
            self.end(name)
        folder = self.folder / key[2].rpartition("-")[0]
        if key[2] not in self.running:
            self.running[key[2]] = self._begin(folder, made["spec"], key)
        is_ready = not liveness.problem(folder / "workspace", is_ready=True)
        made["status"] = {"phase": "Running"} if is_ready else {"phase": "Pending"}
        return is_ready

    def _begin(self, folder, spec, key):
        (first,), (second,) = spec["initContainers"], spec["containers"]
        volumes = {one["name"]: one for one in spec["volumes"]}
        kit, startup = folder / "run", folder / "mounted"
        (folder / "workspace").mkdir(parents=True, exist_ok=True)
        secret = self._objects[key[0], "secrets", volumes["startup"]["secret"]["secretName"]]["data"]
        texts = self._objects[key[0], "configmaps", volumes["local"]["configMap"]["name"]]["data"]
        for one in volumes["startup"]["secret"]["items"]:
            write(startup / one["path"], base64.b64decode(secret[one["key"]]))
        for one in volumes["local"]["configMap"]["items"]:
            write(kit / "kit" / "local" / one["path"], texts[one["key"]].encode())
        mounts = {one["name"]: one["mountPath"] for one in (*second["volumeMounts"], *first["volumeMounts"])}
        here = {mounts["startup"]: startup, mounts["kit"]: kit, mounts["workspace"]: folder / "workspace"}

        def inside(words):
            for there, path in sorted(here.items(), key=lambda pair: -len(pair[0])):
                words = [str(path) + one.removeprefix(there) if one.startswith(there) else one for one in words]
            return [sys.executable, *words[1:]]

        subprocess.run(inside(first["command"]), check=True)
        environment = {**os.environ, "CLOUDDEPLOY_POD_IP": "127.0.0.1", "KUBERNETES_SERVICE_HOST": ""}
        with (folder / "log").open("ab") as log:
            words = inside([*second["command"], *second["args"]])
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def _deleted(self, key):
        gone = super()._deleted(key)
        for name in [name for name in self.running if (key[0], "pods", name) not in self._objects]:
            self.end(name)
        return gone

    def end(self, name):
        process = self.running.pop(name)
        process.terminate()
        process.wait(20)

    def __exit__(self, *given):
        for name in list(self.running):
            self.end(name)
        super().__exit__(*given)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_federation_comes_up_in_pods_takes_another_image_and_goes(tmp_path):
    with LiveCluster(tmp_path / "cluster") as cluster:
        trial = Trial(tmp_path, cluster, port=free_port(), ready_timeout_s=60)
        trial.sites["server1"] = {"service": "ClusterIP", "host": "127.0.0.1"}
        applied = trial.apply()
        assert set(applied.ready_after_s) == {"server1", "site-1"}
        assert [one.state for one in trial.deployment().status()] == ["serving", "registered"]
        with AdminSession(kits.load(trial.deployment().kit("admin@example.com"))) as session:
            assert {one.name for one in session.system_status().clients} == {"site-1"}
        before = dict(cluster.running)
        trial.sites["site-1"] = {"container": NEWER}
        trial.apply()
        assert set(cluster.running) == {"server1-1", "site-1-2"}
        assert cluster.running["server1-1"] is before["server1-1"]
        assert trial.pending() == ({}, ())
        assert trial.destroy().left == ()
        assert cluster.running == {}
        assert before["server1-1"].poll() is not None


class Killer:
    """Kills a run at its call of one kind."""

    def __init__(self, cluster, verb, resource, occurrence=1):
        self.cluster = cluster
        self.wanted = (verb, resource)
        self.left = occurrence
        self.process = None

    def __call__(self, call):
        if self.process is None or (call.verb, call.resource) != self.wanted:
            return
        self.left -= 1
        if not self.left:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(20)

    def run(self, verb, trial):
        words = [sys.executable, "-c", textwrap.dedent(RUN), verb, str(trial.write())]
        self.cluster.on_call = self
        with subprocess.Popen(words, cwd=ROOT) as self.process:
            self.process.wait(60)
        self.cluster.on_call = lambda _call: None
        return self.process.returncode


@pytest.mark.parametrize(
    ("verb", "resource", "occurrence"),
    [
        pytest.param("post", "namespaces", 1, marks=pytest.mark.nightly),
        pytest.param("patch", "configmaps", 1, marks=pytest.mark.nightly),  # the site's place
        pytest.param("patch", "secrets", 1, marks=pytest.mark.nightly),
        ("patch", "deployments", 1),
        pytest.param("patch", "configmaps", 5, marks=pytest.mark.nightly),  # what was started
    ],
)
@pytest.mark.fault("killed while a site is made in a cluster", "the next run goes on, nothing is there twice")
def test_whoever_was_killed_in_apply_goes_on_and_leaves_nothing_behind(tmp_path, verb, resource, occurrence):
    with SiteCluster(tmp_path / "cluster") as cluster:
        trial = Trial(tmp_path, cluster)
        assert Killer(cluster, verb, resource, occurrence).run("apply", trial) == -signal.SIGKILL
        trial.apply()
        assert trial.pending() == ({}, ())
        assert not list(tmp_path.glob(".clouddeploy/deploy/prepared/*"))
        assert len([name for kind, name in cluster.names("fl") if name.startswith("cd-")]) == 2
        assert trial.destroy().left == ()
        assert cluster.namespaces == set()


@pytest.mark.parametrize(
    ("verb", "resource", "occurrence"),
    [
        ("delete", "deployments", 1),
        pytest.param("delete", "configmaps", 3, marks=pytest.mark.nightly),
        pytest.param("delete", "namespaces", 1, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.fault("killed while a site is removed from a cluster", "the next run removes the rest")
def test_whoever_was_killed_in_destroy_goes_on(tmp_path, verb, resource, occurrence):
    with SiteCluster(tmp_path / "cluster") as cluster:
        trial = Trial(tmp_path, cluster)
        trial.apply()
        assert Killer(cluster, verb, resource, occurrence).run("destroy", trial) == -signal.SIGKILL
        assert trial.destroy().left == ()
        until(lambda: cluster.namespaces == set())


@pytest.fixture
def operator(tmp_path):
    """An account of a real cluster with the rights of the documentation's Role in one namespace, and no others."""
    config.load_kube_config(os.environ[REAL])
    core, namespace = client.CoreV1Api(), f"test-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": namespace}})
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "operator"}})
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = (part.partition("```")[0] for part in text.split("```yaml\n") if "clouddeploy-operator" in part)
    admin = clusters.connect(namespace=namespace, kubeconfig=Path(os.environ[REAL]))
    role, binding = yaml.safe_load_all(block)
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}]
    for one in (role, binding):
        one["metadata"]["namespace"] = namespace
        admin.apply(one)
    asked = {"spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 600}}
    token = core.create_namespaced_service_account_token("operator", namespace, asked).status.token
    found = yaml.safe_load(Path(os.environ[REAL]).read_text())
    found["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
    yield {"context": found["current-context"], "namespace": namespace, "kubeconfig": str(tmp_path / "kubeconfig")}
    core.delete_namespace(namespace)


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no kubeconfig: see scripts/kube-apiserver")
def test_a_real_cluster_gives_a_site_its_place_and_takes_it_back(tmp_path, operator):
    """The server of `scripts/kube-apiserver` has no controllers and is older than a budget: the rest is real."""
    provider = KubernetesProvider(operator, REAL_CLOUDS)
    cancel, owner = threading.Event(), Owner("0a1b2c3d", "study", "site-1")
    resource = Resource(Kind.MACHINE, resource_name(owner, Kind.MACHINE), owner)
    demand = Demand((), deployment=owner.deployment, names=frozenset({resource.name}))
    assert [one.ok for one in provider.check(demand)] == [True]
    ref = provider.create(resource, cancel)
    assert provider.create(resource, cancel) == ref == provider.read(ref)
    assert provider.find(owner.deployment) == [ref]
    (other,) = provider.check(replace(demand, deployment="ffffffff"))[:1]
    assert "already" in other.problem
    there = apis.connect(target_of(operator), owner.deployment)
    output = prepared(tmp_path / "kit")
    path = output.root / chart.VALUES
    text = path.read_text()
    for part in ("podDisruptionBudget:\n  enabled", "networkPolicy:\n  enabled", "workspace:\n    create"):
        assert f"{part}: true" in text
        text = text.replace(f"{part}: true", f"{part}: false")
    path.write_text(text)
    staging.stage(staging.read(output.root), there)
    made = staging.install(staging.read(output.root), there)
    before = there.get(Identity("Deployment", "site-1"))["metadata"]
    assert before["labels"]["clouddeploy/deployment"] == owner.deployment
    staging.install(staging.read(output.root), there)
    assert there.get(Identity("Deployment", "site-1"))["metadata"]["generation"] == before["generation"]
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}}
    clusters.connect(namespace=operator["namespace"], kubeconfig=Path(os.environ[REAL])).apply(theirs)
    for _ in range(2):
        provider.delete(ref, cancel)
        assert provider.find(owner.deployment) == []
    assert [what for what in made if there.get(what) is not None] == []
    assert there.get(Identity("ConfigMap", "theirs")) is not None
    with pytest.raises(AccessDenied, match="Namespace"):
        there.namespace_object()
