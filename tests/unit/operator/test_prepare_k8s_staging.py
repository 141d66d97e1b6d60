"""The files of a kit go into a cluster and out of it: what is made, what is left alone, what is known when it fails."""

from __future__ import annotations

import base64
import json
import os
import uuid
from pathlib import Path

import kubernetes.client
import kubernetes_validate
import pytest
import yaml
from clouddeploy_rehearsal.kubernetes import Cluster

from clouddeploy.cli.main import main
from clouddeploy.prepare import cluster as clusters
from clouddeploy.prepare import kit_files, staged, staging
from clouddeploy.prepare import kubernetes as chart
from clouddeploy.prepare.cluster import ClusterRefused, Identity
from clouddeploy.prepare.config import K8sConfig
from clouddeploy.prepare.errors import InvalidArguments, InvalidKit, OutputStaged, PrepareError
from clouddeploy.prepare.kit import PreparedKit

REAL = "CLOUDDEPLOY_KUBECONFIG"
IMAGE = "registry.example/site@sha256:" + "0123456789abcdef" * 4
KEY = "-----BEGIN " + "PRIVATE KEY-----\nnot one\n"  # in two parts: this repository holds none


@pytest.fixture
def stub(tmp_path):
    with Cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def cluster(stub):
    return clusters.connect(namespace="default", kubeconfig=stub.kubeconfig())


@pytest.fixture
def output(tmp_path):
    return prepared(tmp_path / "prepared")


def prepared(root, *, kind="client"):
    (root / "startup" / "deep").mkdir(parents=True)
    (root / "local" / "custom").mkdir(parents=True)
    (root / "startup" / "client.key").write_text(KEY)
    (root / "startup" / "deep" / "start.sh").write_text("true\n")
    (root / "local" / "resources.json").write_text("{}")
    (root / "local" / "custom" / "own.py").write_text("x = 1\n")
    (root / "local" / "binary").write_bytes(b"\xff\0")
    kit = PreparedKit(
        root=root,
        output=root,
        kind=kind,
        name="site-1",
        project="study",
        org="org",
        server_name="server",
        server_host="fl.example.com",
        fed_learn_port=8002,
        admin_port=8002,
    )
    chart.render(kit, K8sConfig.model_validate({"runtime": "k8s", "parent": {"docker_image": IMAGE}}))
    return staging.read(root)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_files_of_a_kit_are_where_the_pod_looks_for_them(output, cluster, stub):
    made = staging.stage(output, cluster)
    config, secret = stub.objects("configmaps")[made.local], stub.objects("secrets")[made.startup]
    for one in (config, secret):
        kubernetes_validate.validate(one, "1.31", strict=True)
    values = staging.read(output.root).values["workspaceConfig"]
    found = {
        **{f"local/{one['path']}": config["data"].get(one["key"]) for one in values["local"]["items"]},
        **{
            f"startup/{one['path']}": base64.b64decode(secret["data"][one["key"]]) for one in values["startup"]["items"]
        },
    }
    assert found == {
        "local/resources.json": "{}",
        "local/custom/own.py": "x = 1\n",
        "local/binary": None,
        "startup/client.key": KEY.encode(),
        "startup/deep/start.sh": b"true\n",
    }
    assert config["binaryData"] == {"binary": base64.b64encode(b"\xff\0").decode()}
    assert KEY not in json.dumps(config)
    assert (made.namespace, made.local, made.startup) == ("default", "nvflare-local-site-1", "nvflare-startup-site-1")


def test_staging_and_back_leaves_no_trace(output, cluster, stub):
    before = files(output.root)
    staging.stage(output, cluster)
    assert before != files(output.root)
    assert staged.names(output.root) == {
        "namespace": "default",
        "local": "nvflare-local-site-1",
        "startup": "nvflare-startup-site-1",
    }
    staging.unstage(staging.read(output.root), cluster)
    assert stub.objects("configmaps") == stub.objects("secrets") == {}
    assert files(output.root) == before
    assert staging.unstage(staging.read(output.root), cluster) is None


def test_what_somebody_wrote_into_the_values_stays(output, cluster):
    path = output.root / chart.VALUES
    path.write_text("# ours\n" + path.read_text().replace("size: 20Gi", "size: 50Gi # more"))
    staging.stage(staging.read(output.root), cluster)
    text = path.read_text()
    assert text.startswith("# ours\n")
    assert "size: 50Gi # more" in text


def test_staging_again_takes_what_has_changed(output, cluster, stub):
    first = staging.stage(output, cluster)
    digest = staging.read(output.root).values["workspaceConfig"]["digest"]
    (output.root / "local" / "resources.json").write_text('{"a": 1}')
    assert staging.stage(staging.read(output.root), cluster) == first
    assert stub.objects("configmaps")[first.local]["data"]["resources.json"] == '{"a": 1}'
    assert staging.read(output.root).values["workspaceConfig"]["digest"] != digest


def test_the_names_are_known_when_the_cluster_refuses(output, cluster, stub):
    stub.faults.forbidden = {("patch", "secrets")}
    with pytest.raises(ClusterRefused, match="Secret"):
        staging.stage(output, cluster)
    assert staged.names(output.root)["startup"] == "nvflare-startup-site-1"
    stub.faults.forbidden = set()
    staging.unstage(staging.read(output.root), cluster)
    assert stub.objects("configmaps") == {}


def test_a_staged_kit_goes_to_no_other_place(output, cluster, stub):
    staging.stage(output, cluster)
    other = clusters.connect(namespace="other", kubeconfig=stub.kubeconfig())
    for act in (staging.stage, staging.unstage):
        with pytest.raises(OutputStaged, match="is staged"):
            act(staging.read(output.root), other)
    with pytest.raises(OutputStaged):
        staging.stage(staging.read(output.root), cluster, startup="another")
    assert set(stub.objects("secrets")) == {"nvflare-startup-site-1"}


@pytest.mark.parametrize("name", ["nvflare-startup-site-1", "nvflare-local-site-1"])
def test_what_is_somebody_elses_is_left_alone(output, cluster, stub, name):
    kind = "Secret" if "startup" in name else "ConfigMap"
    theirs = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": {"clouddeploy/site": "site-2"}}}
    cluster.apply(theirs)
    before = files(output.root)
    with pytest.raises(PrepareError, match="is not changed"):
        staging.stage(output, cluster)
    assert files(output.root) == before
    assert "data" not in cluster.get(Identity(kind, name)) or not cluster.get(Identity(kind, name))["data"]


def test_a_private_key_in_local_is_refused(output, cluster, stub):
    (output.root / "local" / "mine.pem").write_text(KEY)
    with pytest.raises(InvalidKit, match=r"mine\.pem"):
        staging.stage(output, cluster)
    assert stub.objects("configmaps") == {}


def test_too_many_bytes_are_refused_and_many_are_warned_of(output, cluster):
    large = output.root / "startup" / "large"
    large.write_bytes(b"0" * kit_files.WARN_BYTES)
    assert "startup/ has" in staging.stage(output, cluster).warnings[0]
    large.write_bytes(b"0" * kit_files.LIMIT_BYTES)
    with pytest.raises(InvalidKit, match="startup/"):
        staging.stage(staging.read(output.root), cluster)


def test_another_folder_is_none(tmp_path):
    with pytest.raises(InvalidArguments, match="no kit prepared"):
        staging.read(tmp_path)


def test_an_installed_kit_is_ready_and_goes_but_for_its_workspace(tmp_path, cluster, stub):
    output = prepared(tmp_path / "server", kind="server")
    staging.stage(output, cluster)
    output = staging.read(output.root)
    assert not staging.is_ready(output, cluster)
    made = staging.install(output, cluster)
    staging.wait_ready(output, cluster, timeout_s=2, poll_s=0.01)
    assert Identity("Deployment", "site-1") in made
    assert len(staging.install(output, cluster)) == len(made)
    pod = {"name": "job-1", "labels": output.labels}
    stub.faults.missing_images = {"none"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": pod,
            "spec": {"containers": [{"name": "job", "image": "none"}], "volumes": []},
        }
    )
    gone = staging.uninstall(output, cluster)
    assert set(gone) == {*made, Identity("Pod", "job-1")} - {Identity("PersistentVolumeClaim", "site-1-workspace")}
    assert stub.objects("persistentvolumeclaims")
    staging.uninstall(output, cluster, with_workspace=True)
    assert not stub.objects("persistentvolumeclaims")


def test_the_command_stages_and_unstages(output, stub, capsys):
    words = [str(output.root), "--kubeconfig", str(stub.kubeconfig()), "--output", "json"]
    main(["prepare", "k8s", "stage", *words])
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["helm_command"].startswith("helm upgrade --install site-1 ")
    assert data["cleanup_command"].endswith("delete configmap/nvflare-local-site-1 secret/nvflare-startup-site-1")
    main(["prepare", "k8", "unstage", *words])
    assert json.loads(capsys.readouterr().out)["data"]["removed"]
    assert stub.objects("secrets") == {}


def test_the_commands_of_another_tool_are_printed_and_nothing_is_asked(output, capsys):
    main(["prepare", "k8s", "stage", str(output.root), "--namespace", "fl", "--kubectl", "oc"])
    text = capsys.readouterr().out
    assert "oc --namespace fl create secret generic nvflare-startup-site-1 --from-file=client.key=" in text
    assert KEY.splitlines()[1] not in text
    assert staged.names(output.root)["namespace"] == "fl"


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no kubeconfig: see scripts/kube-apiserver")
@pytest.mark.parametrize("kind", ["server", "client"])
def test_a_real_cluster_takes_it_all(tmp_path, kind):
    output = prepared(tmp_path / "kit", kind=kind)
    path = output.root / chart.VALUES
    text = path.read_text()
    for part in ("podDisruptionBudget", "networkPolicy"):  # the server of scripts/kube-apiserver is too old for these
        assert f"{part}:\n  enabled: true" in text
        text = text.replace(f"{part}:\n  enabled: true", f"{part}:\n  enabled: false")
    path.write_text(text)
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    there = clusters.connect(namespace=namespace, kubeconfig=Path(os.environ[REAL]))
    _namespace(there, "POST")
    try:
        staging.stage(staging.read(output.root), there)
        output = staging.read(output.root)
        staging.install(output, there, is_trial=True)
        made = staging.install(output, there)
        assert staging.install(output, there) == made
        for what in made:
            assert there.get(what) is not None
        assert not staging.is_ready(output, there)
        assert set(staging.uninstall(output, there, with_workspace=True)) == set(made)
        staging.unstage(output, there)
        assert there.get(Identity("Secret", "nvflare-startup-site-1")) is None
    finally:
        _namespace(there, "DELETE")


def _namespace(there, method):
    core = kubernetes.client.CoreV1Api(there._api)
    if method == "POST":
        core.create_namespace({"metadata": {"name": there.namespace}})
    else:
        core.delete_namespace(there.namespace)


def test_manifests_name_what_is_staged(output, cluster):
    staging.stage(output, cluster)
    (path,) = (output.root / "manifests").glob("*deployment.yaml")
    volumes = {one["name"]: one for one in yaml.safe_load(path.read_text())["spec"]["template"]["spec"]["volumes"]}
    assert volumes["startup"]["secret"]["secretName"] == "nvflare-startup-site-1"
    assert {one["path"] for one in volumes["local"]["configMap"]["items"]} == {
        "binary",
        "custom/own.py",
        "resources.json",
    }
    assert "secretGenerator" not in yaml.safe_load((output.root / "kustomization.yaml").read_text())
