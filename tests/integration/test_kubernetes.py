"""Jobs as pods: whole jobs through an API server that runs pods as processes, and what becomes of pods that fail."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import uuid
from pathlib import Path

import kubernetes.client
import kubernetes.config
import kubernetes_validate
import numpy as np
import pytest
import safetensors.numpy
import yaml
from clouddeploy_rehearsal.kubernetes import Cluster
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Task
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.launchers import JobLaunch
from clouddeploy_runtime.launchers.outpost import OutpostLauncher
from clouddeploy_runtime.outposts import kubernetes as outpost
from clouddeploy_runtime.outposts.post import CREDENTIAL, Errand

from clouddeploy.prepare.manifests import rules
from tests.integration.federation import Federation, tiny_job
from tests.integration.test_job_process_relay import BUSY, EXAMPLE_APP, EXAMPLES, LAUNCH, LOOP, app, federate

VERSIONS = ("1.27", "1.33")
REAL = "CLOUDDEPLOY_KUBECONFIG"


def validate(manifest):
    """Refuse what a cluster would refuse, of the oldest and of a new version."""
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as exc:
            raise ValueError(exc.message) from exc


@pytest.fixture
def cluster(tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with Cluster(tmp_path / "cluster", claims={"workspace": workspace}, validate=validate) as running:
        yield running


def launcher(cluster, site="site-1", **more):
    """Return the launcher of a site whose pods are this cluster's."""
    folder = cluster.folder.parent
    settings = {
        "image": "registry.example/job@sha256:" + "0" * 64,
        "workspace_pvc": "workspace",
        "workspace_mount_path": str(folder / "workspace"),
        "config_file_path": str(cluster.kubeconfig()),
        "parent_host": "127.0.0.1",
        "parent_port": 20_000 + os.getpid() % 20_000,
        "job_mount_path": str(folder / "pods" / site),
        "poll_interval": 0.1,
        **more,
    }
    return OutpostLauncher.of("k8s", settings, folder, project="study", participant=site)


def pods(cluster):
    return cluster.objects("pods")


@pytest.mark.nightly
def test_a_whole_job_of_two_sites_runs_in_pods(cluster, tmp_path):
    shutil.copytree(EXAMPLE_APP, tmp_path / "workspace" / "app")
    shutil.copytree(EXAMPLES / "hybrid" / "data", tmp_path / "workspace" / "data")
    seen = {}

    async def launch(job, pool):
        process = await launcher(cluster, job.site).launch(job, pool)
        seen[job.site] = process
        return process

    token = LAUNCH.set(launch)
    try:
        work = federate(
            tmp_path / "workspace" / "app", tmp_path / "workspace" / "jobs", data=tmp_path / "workspace" / "data"
        )
        final, progress, said, codes = asyncio.run(work)
    finally:
        LAUNCH.reset(token)
    assert (final.status, final.reason, codes) == ("FINISHED:COMPLETED", "", [0, 0, 0])
    assert len(progress) == 5
    assert {done.status for done in said.values()} == {"FINISHED:COMPLETED"}
    assert final.metrics["test_accuracy"] > 0.93
    stored = safetensors.numpy.load_file(tmp_path / "workspace" / "jobs" / "server" / "global_model.safetensors")
    assert stored
    assert pods(cluster) == {}
    assert cluster.objects("secrets") == {}


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path)
    yield made
    for name in list(made.processes):
        made.stop(name)


def in_pods(federation, cluster, name):
    """Have a participant start its jobs as pods."""
    kit = federation.kits[name] if name == "server" else federation.client_kit(name)
    cluster.claims[name] = federation.workspace(name)
    args = dict(launcher(cluster, name).settings)
    args |= {"workspace_pvc": name, "workspace_mount_path": str(federation.workspace(name))}
    for key in ("project", "participant"):
        del args[key]
    component = {"id": "k8s_launcher", "path": "clouddeploy_runtime.launchers.k8s", "args": args}
    (kit / "local" / "resources.json").write_text(json.dumps({"format_version": 2, "components": [component]}))


def test_a_federation_runs_its_job_in_pods(cluster, federation, tmp_path):
    for name in ("server", "site-1"):
        in_pods(federation, cluster, name)
        federation.start(name)
    federation.wait_for("server", "serving")
    federation.wait_for("site-1", "registered")
    script = (
        "from clouddeploy_runtime.job import client_api as flare\n"
        "flare.init()\n"
        "while flare.is_running():\n"
        "    model = flare.receive()\n"
        "    if model is None:\n"
        "        break\n"
        "    model.params['weights'] = model.params['weights'] + 2.0\n"
        "    flare.send(model)\n"
    )
    with federation.admin() as session:
        info = session.wait(session.submit(tiny_job(tmp_path / "job", client=script)), 60)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        result = session.download(info.job_id, tmp_path / "result")
    (model,) = result.rglob("global_model.safetensors")
    np.testing.assert_array_equal(safetensors.numpy.load_file(model)["weights"], np.full(3, 2.0))
    until(lambda: not pods(cluster))
    assert cluster.objects("secrets") == {}
    assert cluster.calls <= {
        *(("create", kind) for kind in ("pods", "secrets")),
        *((verb, "pods") for verb in ("get", "list", "delete")),
        ("get", "pods/log"),
        ("list", "events"),
    }
    assert {log.parent.name.split("-")[1] for log in cluster.folder.glob("job-*/log")} == {"server", "site"}


async def trained(cluster, script, *, act=None, **more):
    """Start a trainer in a pod and give it a task; return its exit status and what its site knows of it."""
    workspace = cluster.folder.parent / "workspace"
    pool = BufferPool(64 << 20)
    job = JobLaunch(
        job_id="11112222-3333",
        role="trainer",
        site="site-1",
        app_dir=app(workspace / "app", script),
        run_dir=workspace / "run",
        sites=("site-1",),
        data_dir=None,
    )
    process = await launcher(cluster, **more).launch(job, pool)
    model = {"w": np.arange(3.0)}
    buffer = pool.acquire(tensors.size_of(model))
    tensors.write(model, buffer.view)
    await process.send(Task("t", "train", 0, 1, ["site-1"], {}, buffer.size), buffer)
    if act is not None:
        log = workspace / "run" / "log.txt"
        await asyncio.to_thread(until, lambda: "busy" in log.read_text(), timeout_s=30)
        act(cluster, process)
    while await process.receive() is not None:
        pass
    code = await process.wait()
    pool.close()
    return code, (workspace / "run" / "log.txt").read_text()


def ending(reason):
    def act(cluster, _):
        (name,) = pods(cluster)
        cluster.kill(name, reason=reason)

    return act


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("OOMKilled", "OOMKilled: its pod needed more memory than its limit"),
        pytest.param("Evicted", "Evicted: The node was low on resource: memory.", marks=pytest.mark.nightly),
        pytest.param("Error", "its pod was ended by signal 9", marks=pytest.mark.nightly),
    ],
)
def test_a_pod_that_its_node_ends_is_named_with_the_reason(cluster, reason, words):
    code, log = asyncio.run(trained(cluster, BUSY, act=ending(reason)))
    assert code == 104
    assert words in log
    assert pods(cluster) == {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"missing_images": {"no.example/such:1"}}, 'ImagePullBackOff: Back-off pulling image "no.example/such:1"'),
        pytest.param(
            {"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."},
            "Unschedulable: 0/3 nodes are",
            marks=pytest.mark.nightly,
        ),
        pytest.param({"forbidden": {("create", "pods")}}, 'cannot create resource "pods"', marks=pytest.mark.nightly),
        ({"forbidden": {("create", "secrets")}}, 'cannot create resource "secrets"'),
    ],
)
def test_a_pod_that_does_not_start_is_named_with_the_clusters_own_words(cluster, fault, words):
    for name, value in fault.items():
        setattr(cluster.faults, name, value)
    code, log = asyncio.run(trained(cluster, LOOP, image="no.example/such:1", pending_timeout=0.3))
    assert code == 104
    assert words in log
    assert pods(cluster) == {}
    assert cluster.objects("secrets") == {}


def test_a_job_that_is_asked_to_end_ends_and_its_pod_is_gone(cluster):
    code, _ = asyncio.run(trained(cluster, BUSY, act=lambda _, process: process.terminate()))
    assert code == -signal.SIGTERM
    assert pods(cluster) == {}


@pytest.mark.fault("the site's end of a pod killed", "the next start removes the pod")
def test_the_next_start_of_a_site_removes_its_pods_and_no_others(cluster):
    def act(cluster, process):
        (name,) = pods(cluster)
        mine = pods(cluster)[name]
        for other, labels in {
            "anothers": {"clouddeploy/site": "site-2"},
            "of-another-project": {"clouddeploy/project": "other"},
            "parent": {"app.kubernetes.io/component": "parent"},
        }.items():
            cluster.faults.missing_images = {"none"}
            spec = {"containers": [{"name": "job", "image": "none"}], "volumes": []}
            metadata = {"name": other, "labels": {**mine["metadata"]["labels"], **labels}}
            cluster.answer("POST", "/api/v1/namespaces/default/pods", _pod(metadata, spec))
        os.kill(process.pid, signal.SIGKILL)

    code, _ = asyncio.run(trained(cluster, BUSY, act=act))
    assert code == -signal.SIGKILL
    assert len(pods(cluster)) == 4
    launcher(cluster).sweep("site-1")
    assert set(pods(cluster)) == {"anothers", "of-another-project", "parent"}
    assert cluster.objects("secrets") == {}


def _pod(metadata, spec):
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).encode()


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no kubeconfig: see scripts/kube-apiserver")
def test_a_real_cluster_lets_the_account_of_the_chart_do_what_jobs_need_and_no_more(tmp_path):
    """No kubelet is there, so the pod stays pending, and its site says so."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    admin = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(os.environ[REAL]))
    admin.create_namespace({"metadata": {"name": namespace}})
    try:
        own = account(namespace, tmp_path / "kubeconfig", admin)
        errand = Errand(
            kind="k8s",
            settings={
                "image": "registry.example/job:1",
                "workspace_pvc": "workspace",
                "workspace_mount_path": "/workspace",
                "config_file_path": str(own),
                "parent_host": "127.0.0.1",
                "pending_timeout": 0.1,
                "project": "study",
                "participant": "site-1",
            },
            job_id="11112222-3333",
            role="trainer",
            site="site-1",
            sites=("site-1",),
            app_dir="/workspace/app",
            run_dir="/workspace/run",
            local=str(tmp_path),
        )
        place = outpost.post(errand)
        (place.folder / CREDENTIAL).write_text("{}")
        launch = place.open()
        assert (launch.app_dir, launch.run_dir) == ("/clouddeploy/app", "/clouddeploy/run")
        pod = admin.read_namespaced_pod(place.name, namespace)
        secret = admin.read_namespaced_secret(place.name, namespace)
        assert secret.metadata.owner_references[0].uid == pod.metadata.uid
        assert pod.spec.containers[0].security_context.read_only_root_filesystem
        why = until(place.problem, timeout_s=5)
        assert "has been pending for 0.1 s: the cluster does not say why" in why
        theirs = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(own)))
        for forbidden in (
            lambda: theirs.read_namespaced_secret(place.name, namespace),
            lambda: theirs.list_namespaced_secret(namespace),
            lambda: theirs.delete_namespaced_secret(place.name, namespace),
            lambda: theirs.list_namespaced_pod("default"),
        ):
            with pytest.raises(kubernetes.client.ApiException) as refused:
                forbidden()
            assert refused.value.status == 403
        place.close()
        place.close()
        until(lambda: not admin.list_namespaced_pod(namespace).items, timeout_s=10)
        outpost.sweep(errand.settings, "site-1")
    finally:
        admin.delete_namespace(namespace)


def account(namespace, path, admin):
    """Make the account of the chart with its Role; return a kubeconfig of it."""
    rights = kubernetes.client.RbacAuthorizationV1Api(admin.api_client)
    admin.create_namespaced_service_account(namespace, {"metadata": {"name": "site-1"}})
    rights.create_namespaced_role(namespace, {"metadata": {"name": "site-1"}, "rules": rules()})
    subject = {"kind": "ServiceAccount", "name": "site-1", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "site-1"}
    rights.create_namespaced_role_binding(
        namespace, {"metadata": {"name": "site-1"}, "roleRef": role, "subjects": [subject]}
    )
    request = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    token = admin.create_namespaced_service_account_token("site-1", namespace, request)
    config = yaml.safe_load(Path(os.environ[REAL]).read_text())
    config["users"][0]["user"] = {"token": token.status.token}
    config["contexts"][0]["context"]["namespace"] = namespace
    path.write_text(yaml.safe_dump(config))
    return path
