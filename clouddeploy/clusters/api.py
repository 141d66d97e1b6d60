"""A namespace of a cluster with the labels of a deployment on what it applies, and with the errors of a provider."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from clouddeploy_providers.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    InvalidRequest,
    NotFound,
    ProviderError,
    QuotaError,
    Throttled,
    Transient,
)
from clouddeploy_providers.waiters import retrying
from clouddeploy_runtime.outposts.kube import names

from clouddeploy.prepare import cluster as clusters
from clouddeploy.prepare.cluster import Cluster, ClusterRefused, ClusterUnreachable, Identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.clusters.wishes import Target

DEPLOYMENT = "clouddeploy/deployment"
"""The label of everything that a deployment has made in a cluster."""
KINDS = (
    "Deployment",
    "PodDisruptionBudget",
    "Service",
    "NetworkPolicy",
    "RoleBinding",
    "Role",
    "ServiceAccount",
    "PersistentVolumeClaim",
    "Secret",
    "ConfigMap",
)
"""What a site consists of, in the order in which it goes."""
GROUPS = {
    "Deployment": "apps",
    "NetworkPolicy": "networking.k8s.io",
    "PodDisruptionBudget": "policy",
    "Role": "rbac.authorization.k8s.io",
    "RoleBinding": "rbac.authorization.k8s.io",
}
"""Of the API; what is not here is in the first one, which has no name."""
RESOURCES = {"NetworkPolicy": "networkpolicies"}
"""Where a resource is not its kind with an `s`."""
PARENT_RIGHTS = (
    ("get", "pods"),
    ("list", "pods"),
    ("delete", "pods"),
    ("create", "pods"),
    ("get", "pods/log"),
    ("list", "events"),
)
"""To look at a site and to end its jobs; and what its own Role gives on, which nobody may who does not have it."""
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    400: InvalidRequest,
    401: AuthenticationError,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
    429: Throttled,
}
_QUOTA = "exceeded quota"
RETRY_S = 20.0
"""An API server that is upgraded is away for about as long."""
_SERVER_ERROR = 500


class Right(NamedTuple):
    """Something that an account may do in a namespace."""

    verb: str
    resource: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" ({self.group})" if self.group else "")


def needed_rights() -> list[Right]:
    """Return what whoever deploys has to be allowed; a server-side apply takes `create` and `patch`."""
    found = [
        Right(verb, RESOURCES.get(kind, f"{kind.lower()}s"), GROUPS.get(kind, ""))
        for kind in KINDS
        for verb in ("get", "list", "create", "patch", "delete")
    ]
    return [*found, *(Right(verb, resource) for verb, resource in PARENT_RIGHTS)]


class Api(Cluster):
    """One namespace, as one deployment sees it.

    Args:
        api: a `kubernetes.client.ApiClient`.
        namespace: where all is.
        labels: on everything that it applies.
    """

    def __init__(self, api: Any, namespace: str, labels: Mapping[str, str]) -> None:
        super().__init__(api, namespace)
        self._labels = dict(labels)
        self._never = threading.Event()

    def apply(self, manifest: Mapping[str, Any], *, is_trial: bool = False) -> dict[str, Any]:
        """Make an object as it is said, with our labels. Raises as `send`."""
        metadata = manifest["metadata"]
        labels = {**metadata.get("labels", {}), **self._labels}
        return super().apply({**manifest, "metadata": {**metadata, "labels": labels}}, is_trial=is_trial)

    def send(self, method: str, path: str, what: Identity, **given: Any) -> bytes | None:
        """Return what the server answers; None: there is no such thing.

        Raises:
            ProviderError: of the class that says whether repeating makes sense.
            ClusterUnreachable: it does not answer.
        """
        return retrying(lambda: self._send_once(method, path, what, **given), cancel=self._never, timeout_s=RETRY_S)

    def _send_once(self, method: str, path: str, what: Identity, **given: Any) -> bytes | None:
        import urllib3.exceptions  # noqa: PLC0415 - with the client, which is slow to import

        try:
            return super().send(method, path, what, **given)
        except ClusterRefused as error:
            raise _ours(error, self.namespace) from error
        except ClusterUnreachable as error:
            if not isinstance(error.__cause__, urllib3.exceptions.ProtocolError):
                raise
            # The line broke in the middle. Everything that is sent here may be sent twice.
            raise Transient(error.what, why=error.why) from error

    def namespace_object(self) -> dict[str, Any] | None:
        """Return the namespace itself; None: there is none."""
        data = self.send("GET", f"/api/v1/namespaces/{self.namespace}", Identity("Namespace", self.namespace))
        return None if data is None else _object(data)

    def make_namespace(self) -> None:
        """Make the namespace, with our labels; one that somebody else has made meanwhile stays theirs."""
        labels = {**self._labels, names.MANAGED_BY: names.PART_OF}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        with contextlib.suppress(Conflict):
            self.send("POST", "/api/v1/namespaces", Identity("Namespace", self.namespace), body=body)

    def delete_namespace(self) -> None:
        """Delete the namespace with everything in it."""
        self.send("DELETE", f"/api/v1/namespaces/{self.namespace}", Identity("Namespace", self.namespace))

    def events(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Return what the cluster says about an object, the newest last; nothing where that may not be read."""
        query = [("fieldSelector", f"involvedObject.kind={kind},involvedObject.name={name}")]
        path = f"/api/v1/namespaces/{self.namespace}/events"
        try:
            data = self.send("GET", path, Identity("Event", ""), query=query)
        except ProviderError:
            return []
        found: list[dict[str, Any]] = _object(data).get("items", []) if data else []
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def log(self, pod: str, *, lines: int, is_previous: bool = False) -> str | None:
        """Return the last lines that a pod has printed; None: there is no such pod.

        Args:
            pod: its name.
            lines: so many.
            is_previous: of the process before, which has ended.
        """
        query = [("tailLines", str(lines)), *([("previous", "true")] if is_previous else [])]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        data = self.send("GET", path, Identity("Pod", pod), query=query)
        return None if data is None else data.decode(errors="replace")

    def may(self, right: Right) -> bool:
        """Tell whether this account has a right, in this namespace or for the namespace itself."""
        resource, _, sub = right.resource.partition("/")
        asked = {"verb": right.verb, "group": right.group, "resource": resource}
        asked |= {"namespace": self.namespace} if resource != "namespaces" else {}
        asked |= {"subresource": sub} if sub else {}
        kind = "SelfSubjectAccessReview"
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {"resourceAttributes": asked}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        data = self.send("POST", path, Identity(kind, ""), body=body)
        return data is None or bool((_object(data).get("status") or {}).get("allowed", True))


def connect(target: Target, deployment: str) -> Api:
    """Return a namespace of a kubeconfig's context; nothing is asked of it.

    Raises:
        ClusterUnreachable: there is no such file or context, or the client is not installed.
    """
    found = clusters.connect(namespace=target.namespace, context=target.context, kubeconfig=target.kubeconfig)
    return Api(found.client, target.namespace, {DEPLOYMENT: deployment} if deployment else {})


def _object(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(data)
    return content


def _ours(error: ClusterRefused, namespace: str) -> ProviderError:
    kind = _BY_STATUS.get(error.status) or (Transient if error.status >= _SERVER_ERROR else ProviderError)
    hint = ""
    if kind is AccessDenied:
        hint = f"ask for this right in the namespace {namespace}; docs/kubernetes.md lists all that it takes"
        if _QUOTA in error.why:
            kind, hint = QuotaError, f"kubectl --namespace {namespace} describe resourcequota"
    elif kind is AuthenticationError:
        hint = "log in to the cluster again, as the context's cloud says (aws eks, az aks, gcloud container)"
    return kind(error.what, why=error.why, hint=hint)
