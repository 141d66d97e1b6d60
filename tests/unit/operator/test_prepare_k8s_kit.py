"""A provisioned kit, prepared for Kubernetes: what its pod makes of what is mounted is a kit that starts."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
import yaml
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_rehearsal.kubernetes import Cluster
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import settings
from clouddeploy_runtime.kit import Kind, mounted
from clouddeploy_runtime.kit.errors import KitError, KitTampered
from clouddeploy_runtime.outposts import engines

from clouddeploy.prepare import cluster as clusters
from clouddeploy.prepare import kit_files, preparing, staging
from clouddeploy.prepare.errors import OutputStaged

IMAGE = "registry.example:5000/site@sha256:" + "0123456789abcdef" * 4
HOST = "fl.example.com"
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=(HOST,), host=HOST, port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host=HOST, port=8002),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", host=HOST, port=8002),
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"only for this test").kits


@pytest.fixture(params=["server1", "site-1"])
def output(request, made, tmp_path):
    config = tmp_path / "runtime.yaml"
    config.write_text(yaml.safe_dump({"runtime": "k8s", "parent": {"docker_image": IMAGE}}))
    kit = tmp_path / request.param
    shutil.copytree(made[request.param], kit)
    return preparing.prepare(kit, config=config, target=tmp_path / "prepared").kit.output


def mount(folder, content):
    """Lay files as a kubelet does: links into a folder that is exchanged as a whole."""
    inner = folder / "..2026_01_01"
    for path, data in content.items():
        (inner / path).parent.mkdir(parents=True, exist_ok=True)
        (inner / path).write_bytes(data)
        (inner / path).chmod(0o440)
    (folder / "..data").symlink_to(inner.name)
    for name in {path.split("/")[0] for path in content}:
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def contents(output):
    """Return what a ConfigMap and a Secret of the kit hold, by path."""
    secret = kit_files.secret(output, "s", {})["data"]
    config = kit_files.config_map(output, "c", {})
    return (
        {path: base64.b64decode(secret[key]) for key, path in kit_files.startup(output).items()},
        {path: config["data"][key].encode() for key, path in kit_files.local(output).items()},
    )


@pytest.fixture
def pod_kit(output, tmp_path):
    startup, local = contents(output)
    kit = tmp_path / "memory" / "kit"
    mounted.copy(mount(tmp_path / "mounted", startup), kit)
    (kit / "local").rmdir()
    mount(kit / "local", local)
    return kit


def test_the_kit_that_a_pod_makes_is_the_one_that_was_signed(pod_kit, output):
    assert kits.verify(pod_kit).participant == kits.load(output).name
    assert oct((pod_kit / "startup").stat().st_mode)[-3:] == "700"


def test_it_may_be_made_again(pod_kit, tmp_path):
    mounted.copy(tmp_path / "mounted", pod_kit)
    kits.verify(pod_kit)


def test_what_was_changed_in_the_cluster_is_refused(pod_kit):
    path = next((pod_kit / "startup").glob("fed_*.json"))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(KitTampered):
        kits.verify(pod_kit)


def test_a_folder_without_a_manifest_is_no_startup_folder(tmp_path):
    with pytest.raises(KitError, match="is not the startup folder"):
        mounted.copy(tmp_path, tmp_path / "kit")


def test_its_launcher_is_the_clusters(pod_kit, output):
    read = settings.load(pod_kit / "local")
    assert read.launcher == "k8s"
    checked = engines.check(read.launcher, read.launcher_args)
    name = yaml.safe_load((output / "helm_chart" / "values.yaml").read_text())["name"]
    assert checked["image"] == IMAGE
    assert (checked["workspace_pvc"], checked["workspace_sub_path"]) == (f"{name}-workspace", name)
    assert checked["parent_port"] == 8102


def test_a_staged_kit_is_not_prepared_again(output, tmp_path):
    with Cluster(tmp_path / "cluster") as stub:
        there = clusters.connect(namespace="default", kubeconfig=stub.kubeconfig())
        staging.stage(staging.read(output), there)
        kit = next(path for path in tmp_path.iterdir() if path.name in {"server1", "site-1"})
        with pytest.raises(OutputStaged):
            preparing.prepare(kit, config=tmp_path / "runtime.yaml", target=output)
        staging.unstage(staging.read(output), there)
    again = preparing.prepare(kit, config=tmp_path / "runtime.yaml", target=output)
    assert again.backup is None
    document = json.loads(json.dumps(again.document()))
    assert document["runtime"] == "k8s"
    assert {"namespace", "helm_chart", "helm_command"} <= set(document)
    assert Path(document["helm_chart"]).is_dir()
