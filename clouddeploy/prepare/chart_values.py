"""The values of a kit's chart: all that its objects are made of, in the form of `values.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.outposts.kube import names
from clouddeploy_runtime.outposts.kube.pod import RESTRICTED, security

from clouddeploy.errors import ConfigError
from clouddeploy.prepare import image_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.prepare.config import K8sConfig, K8sService
    from clouddeploy.prepare.kit import PreparedKit

Values = dict[str, Any]
PYTHON = "/usr/local/bin/python"
KIT_PATH = "/run/clouddeploy"
"""In memory; the kit is a folder in it."""
STARTUP_PATH = "/run/clouddeploy-startup"
PARENT_PORTS = 100
PORTS_OF_API = (443, 6443)
_MODULE = ("-P", "-m")


def made(kit: PreparedKit, config: K8sConfig) -> Values:
    """Return the values of one kit."""
    name = names.named(kit.name, names.MAX_RELEASE)
    image = image_reference.parse(config.parent.docker_image)
    python = config.parent.python_path or PYTHON
    mount = config.parent.workspace_mount_path
    folder = f"{KIT_PATH}/kit"
    own = names.owner(kit.project, kit.name)
    values: Values = {
        "name": name,
        "participant": {
            "kind": kit.kind,
            "name": kit.name,
            "of": kit.project,
            "project": own[names.PROJECT],
            "site": own[names.SITE],
        },
        "image": {
            "repository": image.repository,
            "tag": image.tag or image_reference.LATEST,
            "digest": image.digest,
            "pullPolicy": "Always"
            if image.may_change and image.tag in {"", image_reference.LATEST}
            else "IfNotPresent",
        },
        "imagePullSecrets": [{"name": secret} for secret in config.parent.image_pull_secrets],
        "serviceAccount": {"create": True, "name": "", "annotations": {}},
        "rbac": {"create": True},
        "persistence": {"workspace": _workspace(config, name, mount)},
        "workspaceConfig": staged(),
        "parentPort": config.parent.parent_port,
        "parentPorts": PARENT_PORTS,
        "resources": _limited(config.parent.resources),
        "securityContext": security(config.parent.pod_security_context),
        "containerSecurityContext": dict(RESTRICTED),
        "podAnnotations": {},
        "nodeSelector": {},
        "tolerations": [],
        "affinity": {},
        "terminationGracePeriodSeconds": 30,
        "temporarySize": "8Gi",
        "kitPath": KIT_PATH,
        "unpack": {
            "command": [python, *_MODULE, "clouddeploy_runtime.kit.mounted", STARTUP_PATH, folder],
            "mountPath": STARTUP_PATH,
            "resources": {
                "requests": {"cpu": "50m", "memory": "64Mi"},
                "limits": {"memory": "256Mi"},
            },
        },
        "command": [python, *_MODULE, "clouddeploy_runtime"],
        "args": [kit.kind, folder, "--workspace", mount],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - in the pod
        "probes": _probes(python, mount),
        "networkPolicy": _network_policy(kit, is_enabled=config.network_policy),
        "podDisruptionBudget": {"enabled": True},
    }
    if kit.is_server:
        values |= {
            "fedLearnPort": kit.fed_learn_port,
            "adminPort": kit.admin_port,
            "serviceName": config.server_service_name,
            "service": _service(config.service),
        }
    return values


def staged(
    *,
    namespace: str = "",
    local: str = "",
    startup: str = "",
    local_items: Mapping[str, str] | None = None,
    startup_items: Mapping[str, str] | None = None,
    digest: str = "",
) -> Values:
    """Return what the values say of the kit's files in a cluster.

    Args:
        namespace: where they are; empty, as all others: they are not there.
        local: the ConfigMap of `local/`.
        startup: the Secret of `startup/`.
        local_items: key of the ConfigMap → path of the file.
        startup_items: the same of the Secret.
        digest: of all files: another one starts the pod anew.
    """
    return {
        "namespace": namespace,
        "digest": digest,
        "local": {"configMapName": local, "items": _items(local_items)},
        "startup": {"secretName": startup, "items": _items(startup_items)},
    }


def _items(files: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "path": path} for key, path in sorted((files or {}).items())]


def is_shared(config: K8sConfig) -> bool:
    """Whether the configuration names a claim: it is there, and other sites may use it too."""
    return "workspace_pvc" in config.parent.model_fields_set


def claim(config: K8sConfig, name: str) -> str:
    """Return the name of the claim of the workspace."""
    return config.parent.workspace_pvc if is_shared(config) else names.named(f"{name}-workspace")


def _workspace(config: K8sConfig, name: str, mount: str) -> Values:
    return {
        "create": not is_shared(config),
        "claimName": claim(config, name),
        "size": config.storage.size,
        "storageClassName": config.storage.storage_class or "",
        "accessModes": [config.storage.access_mode],
        "mountPath": mount,
        "subPath": name,
    }


def _limited(resources: Mapping[str, Any]) -> Values:
    """Give the memory that is asked for as limit, where there is none: a node must not run out because of one site."""
    requests, limits = dict(resources.get("requests") or {}), dict(resources.get("limits") or {})
    if "memory" in requests:
        limits.setdefault("memory", requests["memory"])
    return {**resources, "requests": requests, "limits": limits}


def _probes(python: str, workspace: str) -> Values:
    def probe(*options: str, **times: int) -> Values:
        words = [python, *_MODULE, "clouddeploy_runtime.liveness", workspace, *options]
        return {"exec": {"command": words}, "timeoutSeconds": 10, **times}

    return {
        "startup": probe(periodSeconds=5, failureThreshold=60),
        "liveness": probe(periodSeconds=30, failureThreshold=3),
        "readiness": probe("--ready", periodSeconds=10, failureThreshold=2),
    }


def _network_policy(kit: PreparedKit, *, is_enabled: bool) -> Values:
    names_service = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    reached = sorted({*PORTS_OF_API, *(() if kit.is_server else (kit.fed_learn_port,))})
    return {
        "enabled": is_enabled,
        "from": [],
        "restrictEgress": True,
        # Names, the cluster's own API, whose address no policy can know, and of a client the server.
        "egress": [{"ports": names_service}, {"ports": [{"port": port, "protocol": "TCP"} for port in reached]}],
        "jobEgress": [],
    }


def _service(config: K8sService) -> Values:
    """Return how the server is reached.

    Source:
        kubernetes-sigs.github.io/aws-load-balancer-controller, "Service annotations";
        learn.microsoft.com/azure/aks/load-balancer-standard, "Customizations via Kubernetes annotations";
        cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters.
    """
    if config.type == "ClusterIP" and (config.cloud or config.address or config.source_ranges):
        raise ConfigError(
            "service names a load balancer's cloud, address or source_ranges",
            why="its type is ClusterIP, which nobody outside of the cluster reaches",
            hint="Say `type: LoadBalancer`.",
        )
    if config.address and not config.cloud:
        raise ConfigError(
            "service.address is of no cloud", why="each wants it in another way", hint="Say `cloud: aws | azure | gcp`."
        )
    annotations: dict[str, str] = {}
    address = balancer = ""
    if config.cloud == "aws":
        prefix = "service.beta.kubernetes.io/aws-load-balancer-"
        annotations = {
            f"{prefix}nlb-target-type": "ip",
            f"{prefix}scheme": "internet-facing",
        }
        balancer = "service.k8s.aws/nlb"
        if config.address:
            annotations[f"{prefix}eip-allocations"] = config.address
    elif config.cloud == "azure":
        prefix = "service.beta.kubernetes.io/azure-"
        if config.address:
            annotations[f"{prefix}pip-name"] = config.address
        if config.resource_group:
            annotations[f"{prefix}load-balancer-resource-group"] = config.resource_group
    elif config.cloud == "gcp":
        address = config.address or ""
        annotations["cloud.google.com/l4-rbs"] = "enabled"
    return {
        "type": config.type,
        "annotations": {**annotations, **config.annotations},
        "externalTrafficPolicy": "Local",
        "loadBalancerIP": address,
        "loadBalancerClass": balancer,
        "loadBalancerSourceRanges": list(config.source_ranges),
    }
