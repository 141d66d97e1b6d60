"""A kit's objects in a cluster, made of the values of its chart: what Helm renders from its templates, without Helm.

The tests hold both against each other, object by object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.outposts.kube import names

if TYPE_CHECKING:
    from collections.abc import Mapping

Manifest = dict[str, Any]
SERVICE = "clouddeploy"
"""In the place of `Helm` as what manages the objects."""
_READ_BY_GROUP = 0o440


@dataclass(frozen=True)
class Release:
    """The chart, and where it goes.

    Attributes:
        name: of the release.
        namespace: where its objects are.
        chart: name of the chart.
        version: of the image.
        manager: what applies it.
    """

    name: str
    namespace: str
    chart: str
    version: str
    manager: str = SERVICE


class Objects:
    """The objects of one kit.

    Args:
        values: of its chart.
        release: where it goes.
    """

    def __init__(self, values: Mapping[str, Any], release: Release) -> None:
        self._values = values
        self._release = release

    def all(self) -> list[Manifest]:
        """Return all of them, in an order in which they can be created."""
        made = [
            self._claim(),
            self._account(),
            *self._rights(),
            *self._policies(),
            self._budget(),
            self._service(),
            self.deployment(),
        ]
        return [one for one in made if one is not None]

    @property
    def selector(self) -> dict[str, str]:
        """What the site's own pod is found by."""
        return {
            names.COMPONENT: names.PARENT_COMPONENT,
            "app.kubernetes.io/instance": self._release.name,
            **self._owner(),
        }

    def _owner(self) -> dict[str, str]:
        who = self._values["participant"]
        return {names.PROJECT: who["project"], names.SITE: who["site"]}

    def _labels(self) -> dict[str, str]:
        return {
            **self.selector,
            names.MANAGED_BY: self._release.manager,
            "app.kubernetes.io/name": self._release.chart,
            "app.kubernetes.io/version": self._release.version,
        }

    def _object(self, version: str, kind: str, name: str = "", **parts: Any) -> Manifest:
        metadata = {
            "name": name or self._values["name"],
            "namespace": self._release.namespace,
            "labels": self._labels(),
        }
        annotations = parts.pop("annotations", None)
        if annotations:
            metadata["annotations"] = dict(annotations)
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}

    def _claim(self) -> Manifest | None:
        workspace = self._values["persistence"]["workspace"]
        if not workspace["create"]:
            return None
        spec: Manifest = {
            "accessModes": workspace["accessModes"],
            "resources": {"requests": {"storage": workspace["size"]}},
        }
        if workspace["storageClassName"]:
            spec["storageClassName"] = workspace["storageClassName"]
        keep = {"helm.sh/resource-policy": "keep"}
        return self._object("v1", "PersistentVolumeClaim", workspace["claimName"], annotations=keep, spec=spec)

    def _account_name(self) -> str:
        return str(self._values["serviceAccount"]["name"] or self._values["name"])

    def _account(self) -> Manifest | None:
        account = self._values["serviceAccount"]
        if not account["create"]:
            return None
        return self._object(
            "v1",
            "ServiceAccount",
            self._account_name(),
            annotations=account["annotations"],
            automountServiceAccountToken=False,
        )

    def _rights(self) -> list[Manifest]:
        if not self._values["rbac"]["create"]:
            return []
        group = "rbac.authorization.k8s.io"
        name, namespace = self._values["name"], self._release.namespace
        subject = {"kind": "ServiceAccount", "name": self._account_name(), "namespace": namespace}
        role = {"apiGroup": group, "kind": "Role", "name": name}
        return [
            self._object(f"{group}/v1", "Role", rules=rules()),
            self._object(f"{group}/v1", "RoleBinding", roleRef=role, subjects=[subject]),
        ]

    def _policies(self) -> list[Manifest]:
        policy = self._values["networkPolicy"]
        if not policy["enabled"]:
            return []
        parent, jobs = ({"podSelector": {"matchLabels": labels}} for labels in (self.selector, self._job_labels()))
        ingress: list[Manifest] = []
        if self._values.get("fedLearnPort"):
            called: Manifest = {"ports": [{"port": self._values["fedLearnPort"], "protocol": "TCP"}]}
            ingress.append({**called, "from": policy["from"]} if policy["from"] else called)
        ingress.append({"from": [jobs], "ports": self._job_ports()})
        spec: Manifest = {**parent, "policyTypes": ["Ingress"], "ingress": ingress}
        if policy["restrictEgress"]:
            spec["policyTypes"] = ["Ingress", "Egress"]
            spec["egress"] = policy["egress"]
        of_jobs: Manifest = {
            **jobs,
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [parent], "ports": self._job_ports()}, *policy["jobEgress"]],
        }
        version = "networking.k8s.io/v1"
        return [
            self._object(version, "NetworkPolicy", spec=spec),
            self._object(version, "NetworkPolicy", f"{self._values['name']}-jobs", spec=of_jobs),
        ]

    def _job_labels(self) -> dict[str, str]:
        return {names.COMPONENT: names.JOB_COMPONENT, **self._owner()}

    def _job_ports(self) -> list[Manifest]:
        first = self._values["parentPort"]
        return [{"port": first, "endPort": first + self._values["parentPorts"] - 1, "protocol": "TCP"}]

    def _budget(self) -> Manifest | None:
        if not self._values["podDisruptionBudget"]["enabled"]:
            return None
        spec = {"minAvailable": 1, "selector": {"matchLabels": self.selector}}
        return self._object("policy/v1", "PodDisruptionBudget", spec=spec)

    def _service(self) -> Manifest | None:
        values = self._values
        if not values.get("fedLearnPort"):
            return None
        service = values["service"]
        spec: Manifest = {"type": service["type"], "selector": self.selector}
        if service["type"] == "LoadBalancer":
            keys = ("externalTrafficPolicy", "loadBalancerIP", "loadBalancerClass", "loadBalancerSourceRanges")
            spec |= {key: service[key] for key in keys if service[key]}
        ports = {"federation": values["fedLearnPort"]}
        if values["adminPort"] != values["fedLearnPort"]:
            ports["admin"] = values["adminPort"]
        spec["ports"] = [
            {"name": name, "port": port, "targetPort": "federation", "protocol": "TCP"} for name, port in ports.items()
        ]
        return self._object("v1", "Service", values["serviceName"], annotations=service["annotations"], spec=spec)

    def deployment(self) -> Manifest:
        """Return the site's own pod, as a Deployment of one."""
        values = self._values
        digest = values["workspaceConfig"]["digest"]
        template = {
            "metadata": {
                "labels": self._labels(),
                "annotations": {"clouddeploy/staged": digest, **values["podAnnotations"]},
            },
            "spec": self._pod(),
        }
        spec = {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": self.selector},
            "template": template,
        }
        return self._object("apps/v1", "Deployment", spec=spec)

    def _pod(self) -> Manifest:
        values = self._values
        optional = ("imagePullSecrets", "nodeSelector", "tolerations", "affinity")
        return {
            "serviceAccountName": self._account_name(),
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
            "securityContext": values["securityContext"],
            **{key: values[key] for key in optional if values[key]},
            "initContainers": [self._unpacking()],
            "containers": [self._container()],
            "volumes": self._volumes(),
        }

    def _image(self) -> Manifest:
        image = self._values["image"]
        pinned = f"@{image['digest']}" if image["digest"] else f":{image['tag']}"
        return {"image": f"{image['repository']}{pinned}", "imagePullPolicy": image["pullPolicy"]}

    def _unpacking(self) -> Manifest:
        values = self._values
        return {
            "name": "kit",
            **self._image(),
            "command": values["unpack"]["command"],
            "resources": values["unpack"]["resources"],
            "securityContext": values["containerSecurityContext"],
            "volumeMounts": [
                {"name": "startup", "mountPath": values["unpack"]["mountPath"], "readOnly": True},
                {"name": "kit", "mountPath": values["kitPath"]},
            ],
        }

    def _container(self) -> Manifest:
        values = self._values
        workspace = values["persistence"]["workspace"]
        address = {"name": "CLOUDDEPLOY_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        container: Manifest = {
            "name": values["participant"]["kind"],
            **self._image(),
            "command": values["command"],
            "args": values["args"],
            "env": [address, *values["env"]],
        }
        if values.get("fedLearnPort"):
            port = {"name": "federation", "containerPort": values["fedLearnPort"], "protocol": "TCP"}
            container["ports"] = [port]
        return {
            **container,
            **{f"{name}Probe": values["probes"][name] for name in ("startup", "liveness", "readiness")},
            "resources": values["resources"],
            "securityContext": values["containerSecurityContext"],
            "volumeMounts": [
                {"name": "kit", "mountPath": values["kitPath"]},
                {"name": "local", "mountPath": f"{values['kitPath']}/kit/local", "readOnly": True},
                {"name": "workspace", "mountPath": workspace["mountPath"], "subPath": workspace["subPath"]},
                {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108 - in the pod
            ],
        }

    def _volumes(self) -> list[Manifest]:
        values = self._values
        config = values["workspaceConfig"]
        local, startup = config["local"], config["startup"]
        secret: Manifest = {"secretName": startup["secretName"] or startup_name(values), "defaultMode": _READ_BY_GROUP}
        config_map: Manifest = {"name": local["configMapName"] or local_name(values)}
        for target, items in ((secret, startup["items"]), (config_map, local["items"])):
            if items:
                target["items"] = items
        claim = {"claimName": values["persistence"]["workspace"]["claimName"]}
        return [
            {"name": "startup", "secret": secret},
            {"name": "local", "configMap": config_map},
            {"name": "kit", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "workspace", "persistentVolumeClaim": claim},
            {"name": "temporary", "emptyDir": {"sizeLimit": values["temporarySize"]}},
        ]


def rules() -> list[Manifest]:
    """Return all that a site's account may do in its namespace: start and end the pods of its jobs.

    No Secret may be read, changed or deleted: that of a job belongs to its pod, and goes with it.
    """
    rights = {
        "pods": ["create", "get", "list", "delete"],
        "pods/log": ["get"],
        "events": ["list"],
        "secrets": ["create"],
    }
    return [{"apiGroups": [""], "resources": [resource], "verbs": verbs} for resource, verbs in rights.items()]


def local_name(values: Mapping[str, Any]) -> str:
    """Return the usual name of the ConfigMap of `local/`."""
    return f"nvflare-local-{values['name']}"


def startup_name(values: Mapping[str, Any]) -> str:
    """Return the usual name of the Secret of `startup/`."""
    return f"nvflare-startup-{values['name']}"
