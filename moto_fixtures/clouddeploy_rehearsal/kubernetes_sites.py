"""The API server of `kubernetes` for whole deployments: namespaces, rights, pods of Deployments, load balancers.

A Deployment's pod is no process here: it is ready, unless a fault says why not.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal import kubernetes

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_rehearsal.kubernetes import Key

_OK, _CREATED, _FORBIDDEN, _NOT_FOUND = 200, 201, 403, 404
_WRITES = frozenset({"POST", "PATCH"})
BALANCER_ADDRESS = "198.51.100.77"
"""Of a load balancer for which none was reserved."""


@dataclass
class SiteFaults(kubernetes.Faults):
    """What goes wrong, for as long as it is set.

    Attributes:
        quota: what a full quota of the namespace says to each new pod; empty: it is not full.
        claims: what is said of each claim, which stays pending; empty: they get their volumes.
        crash: what each pod prints before it ends, again and again; empty: they run.
        is_slow: pods never become ready, and nothing is said.
    """

    quota: str = ""
    claims: str = ""
    crash: str = ""
    is_slow: bool = False


@dataclass
class Call:
    """One request, for who wants to be called at it."""

    verb: str
    resource: str
    name: str
    namespace: str = field(default="")


class SiteCluster(kubernetes.Cluster):
    """The server; see `kubernetes.Cluster`.

    Args:
        folder: for the kubeconfig.
        namespaces: those that are there at first.
        validate: raises `ValueError` for an object that a real server would refuse.
        on_call: called before each request is carried out, in its thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        namespaces: tuple[str, ...] = (),
        validate: Callable[[Mapping[str, Any]], None] | None = None,
        on_call: Callable[[Call], None] = lambda _call: None,
    ) -> None:
        super().__init__(folder, validate=validate)
        self.faults: SiteFaults = SiteFaults()
        self.on_call = on_call
        self.log: list[Call] = []
        for name in namespaces:
            key: Key = ("", "namespaces", name)
            self._objects[key] = {"kind": "Namespace", "metadata": {"name": name, "uid": name}}

    def names(self, namespace: str) -> set[tuple[str, str]]:
        """Return kind and name of everything in a namespace, but for events."""
        with self._lock:
            return {key[1:] for key in self._objects if key[0] == namespace and key[1] != "events"}

    @property
    def namespaces(self) -> set[str]:
        """Those that are there."""
        with self._lock:
            return {key[2] for key in self._objects if key[1] == "namespaces"}

    def change(self, namespace: str, resource: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change an object as somebody else would."""
        with self._lock:
            found = self._objects[namespace, resource, name]
            before = json.dumps(found.get("spec"))
            change(found)
            if json.dumps(found.get("spec")) != before:
                found["metadata"]["generation"] += 1

    def remove(self, namespace: str, resource: str, name: str) -> None:
        """Delete an object as somebody else would."""
        with self._lock:
            self._deleted((namespace, resource, name))

    def _answered(self, method: str, match: re.Match[str], query: dict[str, str], given: Any) -> tuple[int, Any]:
        namespace, resource, name = match["namespace"] or "", match["kind"], match["name"] or ""
        if not name and isinstance(given, dict):
            name = given.get("metadata", {}).get("name", "")
        call = Call(method.lower(), resource, name, namespace)
        self.log.append(call)
        self.on_call(call)
        if resource == "selfsubjectaccessreviews":
            return _CREATED, {**given, "status": {"allowed": self._may(given["spec"]["resourceAttributes"])}}
        if method in _WRITES and namespace and namespace not in self.namespaces:
            raise kubernetes.Refused(_NOT_FOUND, "NotFound", f'namespaces "{namespace}" not found')
        for key, one in list(self._objects.items()):
            if key[1] == "deployments":
                self._settle(key, one)
            elif key[1] == "persistentvolumeclaims":
                self._bind(one)
        return super()._answered(method, match, query, given)

    def _may(self, asked: Mapping[str, str]) -> bool:
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return (asked["verb"], resource) not in self.faults.forbidden

    def _kept(self, key: Key, given: dict[str, Any]) -> dict[str, Any]:
        before = self._objects.get(key)
        made = super()._kept(key, given)
        if before is not None and key[1] == "deployments":
            is_same = json.dumps(before["spec"], sort_keys=True) == json.dumps(made["spec"], sort_keys=True)
            made["metadata"]["generation"] = before["metadata"]["generation"] + (0 if is_same else 1)
        if key[1] == "services" and made["spec"].get("type") == "LoadBalancer":
            ingress = [{"ip": made["spec"].get("loadBalancerIP") or BALANCER_ADDRESS}]
            made["status"] = {"loadBalancer": {"ingress": ingress}}
        return made

    def _deleted(self, key: Key) -> dict[str, Any]:
        gone = super()._deleted(key)
        if key[1] == "namespaces":
            for other in [one for one in self._objects if one[0] == key[2]]:
                del self._objects[other]
        return gone

    def _log(self, name: str) -> str:
        return self.faults.crash or f"{name} is up\n"

    def _settle(self, key: Key, made: dict[str, Any]) -> None:
        """Do what the controller of Deployments, the scheduler and the kubelet do."""
        namespace, _, name = key
        generation, wanted = made["metadata"]["generation"], made["spec"].get("replicas", 1)
        pod_key: Key = (namespace, "pods", f"{name}-{generation}")
        for other in [one for one in self._objects if one[:2] == pod_key[:2] and one != pod_key]:
            owners = self._objects[other]["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == made["metadata"]["uid"] for owner in owners):
                del self._objects[other]
        status: dict[str, Any] = {"observedGeneration": generation}
        if not wanted or self.faults.quota:
            self._objects.pop(pod_key, None)
        if wanted and self.faults.quota:
            condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
            status["conditions"] = [{**condition, "message": self.faults.quota}]
        elif wanted:
            is_ready = self._pod(pod_key, made)
            status |= {"replicas": 1, "updatedReplicas": 1}
            status |= {"readyReplicas": 1, "availableReplicas": 1} if is_ready else {"unavailableReplicas": 1}
        made["status"] = status

    def _pod(self, key: Key, deployment: dict[str, Any]) -> bool:
        """Make the pod of a Deployment as it is now; returns whether it is ready."""
        template = deployment["spec"]["template"]
        if key not in self._objects:
            owner = {"kind": "Deployment", "uid": deployment["metadata"]["uid"]}
            metadata = {
                "name": key[2],
                "namespace": key[0],
                "uid": f"{owner['uid']}-{key[2]}",
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
                "creationTimestamp": f"{time.time():.3f}",
            }
            self._objects[key] = {"kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        pod = self._objects[key]
        image = template["spec"]["containers"][0]["image"]
        volumes = template["spec"]["volumes"]
        needed = [("secrets", one["secret"]["secretName"]) for one in volumes if "secret" in one]
        needed += [("configmaps", one["configMap"]["name"]) for one in volumes if "configMap" in one]
        missing = [f"{kind} {name}" for kind, name in needed if (key[0], kind, name) not in self._objects]
        waiting: dict[str, Any] | None = None
        pod["status"] = {"phase": "Pending"}
        if image in self.faults.missing_images:
            waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
            self._say(pod, "Failed", f'Failed to pull image "{image}": manifest unknown')
            self._say(pod, "Failed", "Error: ImagePullBackOff")
        elif missing:
            waiting = {"reason": "CreateContainerConfigError", "message": f"{missing[0]} not found"}
        elif self.faults.claims or self.faults.unschedulable:
            message = self.faults.unschedulable or "pod has unbound immediate PersistentVolumeClaims"
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            pod["status"]["conditions"] = [{**condition, "message": message}]
            return False
        elif self.faults.crash:
            ended = {"terminated": {"exitCode": 4, "reason": "Error"}}
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
            pod["status"]["containerStatuses"] = [
                {"name": "site", "state": state, "lastState": ended, "restartCount": 3}
            ]
            return False
        elif not self.faults.is_slow:
            pod["status"] = {"phase": "Running"}
            return True
        pod["status"]["containerStatuses"] = [{"name": "site", "state": {"waiting": waiting} if waiting else {}}]
        return False

    def _bind(self, claim: dict[str, Any]) -> None:
        claim["status"] = {"phase": "Pending" if self.faults.claims else "Bound"}
        if self.faults.claims:
            self._say(claim, "ProvisioningFailed", self.faults.claims, kind="PersistentVolumeClaim")

    def _say(self, about: dict[str, Any], reason: str, message: str, *, kind: str = "Pod") -> None:
        """Note an event, once."""
        name = about["metadata"]["name"]
        namespace = about["metadata"]["namespace"]
        key: Key = (namespace, "events", f"{name}.{reason}.{len(message)}")
        self._objects[key] = {
            "metadata": {"name": key[2], "namespace": namespace},
            "involvedObject": {"kind": kind, "name": name},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }
