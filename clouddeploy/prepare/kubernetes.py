"""A kit for Kubernetes: a chart for Helm, the same objects as plain manifests, and a `kustomization.yaml`."""

from __future__ import annotations

import shlex
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy.prepare import chart_values, image_reference, kit_files
from clouddeploy.prepare.manifests import Objects, Release, local_name, startup_name
from clouddeploy.yaml_file import DUMPER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from clouddeploy.prepare.config import K8sConfig
    from clouddeploy.prepare.kit import PreparedKit

CHART, MANIFESTS, KUSTOMIZATION = "helm_chart", "manifests", "kustomization.yaml"
VALUES = f"{CHART}/values.yaml"
CHART_VERSION = "0.1.0"


def launcher_args(kit: PreparedKit, config: K8sConfig) -> Mapping[str, object]:
    """Return the arguments of `k8s_launcher`; see `clouddeploy_runtime.outposts.kube.settings`."""
    parent, jobs = config.parent, config.job_launcher
    values = chart_values.made(kit, config)
    workspace = values["persistence"]["workspace"]
    secrets = jobs.image_pull_secrets or parent.image_pull_secrets
    optional = {
        "config_file_path": jobs.config_file_path,
        "resources": jobs.resources,
        "job_pod_security_context": jobs.job_pod_security_context or parent.pod_security_context,
        "image_pull_secrets": secrets,
    }
    return {
        "image": jobs.image or parent.docker_image,
        "workspace_pvc": workspace["claimName"],
        "workspace_mount_path": workspace["mountPath"],
        "workspace_sub_path": workspace["subPath"],
        "default_python_path": jobs.default_python_path or parent.python_path or chart_values.PYTHON,
        "pending_timeout": jobs.pending_timeout,
        "parent_port": values["parentPort"],
        "parent_ports": values["parentPorts"],
        "same_node": config.storage.access_mode != "ReadWriteMany",
        **{key: value for key, value in optional.items() if value},
    }


def workspace(_kit: PreparedKit, config: K8sConfig) -> str:
    """Return where the site's pod has its workspace."""
    return config.parent.workspace_mount_path


def render(kit: PreparedKit, config: K8sConfig) -> Mapping[str, object]:
    """Write the chart, the manifests and the kustomization."""
    values = chart_values.made(kit, config)
    image = image_reference.parse(config.parent.docker_image)
    chart = {
        "apiVersion": "v2",
        "name": f"clouddeploy-{kit.kind}",
        "description": f"The {kit.kind} {kit.name} of the project {kit.project}",
        "type": "application",
        "version": CHART_VERSION,
        "appVersion": _version(image),
        "kubeVersion": ">=1.25.0-0",  # the first that knows ranges of ports in policies as stable
    }
    kit.write(f"{CHART}/Chart.yaml", dumped(chart))
    kit.write(VALUES, dumped(values))
    for name, content in _templates():
        kit.write(f"{CHART}/{name}", content)
    for name, content in plain(kit.root, values, chart=chart, namespace=config.namespace).items():
        kit.write(name, content)
    chart_path = kit.output / CHART
    command = ["helm", "upgrade", "--install", values["name"], str(chart_path), "--namespace", config.namespace]
    return {
        "namespace": config.namespace,
        "helm_chart": str(chart_path),
        "helm_command": shlex.join([*command, "--wait"]),
        "stage_command": shlex.join(
            ["clouddeploy", "prepare", "k8s", "stage", str(kit.output), "--namespace", config.namespace]
        ),
        "kustomize_command": shlex.join(["kubectl", "apply", "-k", str(kit.output)]),
        "warnings": _warnings(kit, config, image),
    }


def _warnings(kit: PreparedKit, config: K8sConfig, image: image_reference.ImageReference) -> list[str]:
    found = []
    if image.may_change:
        found.append(
            f"the image {config.parent.docker_image} is named by a tag: by its digest it would be one for ever"
        )
    service = config.service
    if kit.is_server and service.type == "LoadBalancer" and not service.address:
        found.append(f"the load balancer gets some address, and clients' kits name {kit.server_host}")
    reached = {kit.server_host, kit.server_name, *kit.hosts}
    if kit.is_server and service.type == "ClusterIP" and config.server_service_name not in reached:
        found.append(
            f"clients of the cluster find the service as {config.server_service_name}, and the server's certificate is "
            f"for {', '.join(sorted(reached))}"
        )
    return found


def _version(image: image_reference.ImageReference) -> str:
    """Return what a label may say of an image: letters, digits and some signs between them, 63 at most."""
    tag = image.tag or image.digest.partition(":")[2][:12] or image_reference.LATEST
    return tag[:63].strip("._-") or image_reference.LATEST


def plain(root: Path, values: Mapping[str, Any], *, chart: Mapping[str, Any], namespace: str) -> dict[str, str]:
    """Return the manifests and the kustomization: name of the file → content.

    Args:
        root: of the prepared kit; its files are named in the kustomization, which can make ConfigMap and Secret, too.
        values: of the chart.
        chart: `Chart.yaml`.
        namespace: where the objects go.
    """
    release = Release(str(values["name"]), namespace, str(chart["name"]), str(chart["appVersion"]))
    files, seen = {}, []
    for number, manifest in enumerate(Objects(values, release).all()):
        name = f"{MANIFESTS}/{number:02}-{manifest['metadata']['name']}-{manifest['kind'].lower()}.yaml"
        files[name] = dumped(manifest)
        seen.append(name)
    local, startup = kit_files.local(root), kit_files.startup(root)
    config = values["workspaceConfig"]
    generators = {
        "configMapGenerator": [
            {
                "name": config["local"]["configMapName"] or local_name(values),
                "files": [f"{key}=local/{path}" for key, path in local.items()],
            }
        ],
        "secretGenerator": [
            {
                "name": config["startup"]["secretName"] or startup_name(values),
                "files": [f"{key}=startup/{path}" for key, path in startup.items()],
            }
        ],
        "generatorOptions": {"disableNameSuffixHash": True},
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": seen,
        **({} if config["startup"]["secretName"] else generators),
    }
    files[KUSTOMIZATION] = dumped(kustomization)
    return files


def dumped(document: Mapping[str, Any]) -> str:
    """Return a document as YAML, its keys in the order they have."""
    return yaml.dump(dict(document), Dumper=_Plain, sort_keys=False, default_flow_style=False, width=120)


class _Plain(DUMPER):  # type: ignore[misc]
    """Writes a value that stands twice two times: no anchors, which people do not read."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _templates() -> list[tuple[str, str]]:
    folder = resources.files("clouddeploy.prepare").joinpath("chart")
    return sorted(_read(folder, ""))


def _read(folder: Traversable, above: str) -> list[tuple[str, str]]:
    found = []
    for one in folder.iterdir():
        name = f"{above}{one.name}"
        found += _read(one, f"{name}/") if one.is_dir() else [(name, one.read_text(encoding="utf-8"))]
    return found
