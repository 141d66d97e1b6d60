"""A Kubernetes cluster as the operator's side sees it: objects are applied, looked at and deleted, one at a time.

EKS, AKS and GKE are contexts of a kubeconfig like any other; their plug-ins for credentials are the client's business.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MANAGER = "clouddeploy"
"""Whose fields they are: kubernetes.io/docs/reference/using-api/server-side-apply."""
_TIMES_S = (10.0, 30.0)
_APPLY = "application/apply-patch+yaml"
_NOT_FOUND = 404


class ClusterRefused(DeployError):
    """The API server does not do what it was asked for."""

    error_code = "CLUSTER_REFUSED"
    status: int = 0
    """HTTP's; 0: not known."""


class ClusterUnreachable(DeployError):
    """The cluster is not there, or there is no way to log in."""

    exit_code = ExitCode.CONNECTION
    error_code = "CLUSTER_UNREACHABLE"


class NotReady(DeployError):
    """What was installed has not come up in time."""

    exit_code = ExitCode.TIMEOUT
    error_code = "CLUSTER_NOT_READY"


class Identity(NamedTuple):
    """What names an object in a namespace."""

    kind: str
    name: str


_PLACES = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Pod": ("/api/v1", "pods"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
}


class Cluster:
    """One namespace.

    Args:
        api: a `kubernetes.client.ApiClient`; see `connect`.
        namespace: where all is.
    """

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self.namespace = namespace

    @property
    def client(self) -> Any:
        """The `kubernetes.client.ApiClient`."""
        return self._api

    def get(self, what: Identity) -> dict[str, Any] | None:
        """Return an object; None: there is none.

        Raises:
            ClusterRefused: with the server's reason.
            ClusterUnreachable: it does not answer; so do the other calls.
        """
        return self._ask("GET", what)

    def apply(self, manifest: Mapping[str, Any], *, is_trial: bool = False) -> dict[str, Any]:
        """Make an object as it is said, whether it is there or not. Raises as `get`.

        Args:
            manifest: the object.
            is_trial: the server says what it would do, and does nothing.
        """
        what = Identity(manifest["kind"], manifest["metadata"]["name"])
        query = [("fieldManager", MANAGER), ("force", "true")]
        if is_trial:
            query.append(("dryRun", "All"))
        return self._ask("PATCH", what, body=dict(manifest), query=query, form=_APPLY) or {}

    def delete(self, what: Identity) -> bool:
        """Delete an object; returns whether there was one. Raises as `get`."""
        return self._ask("DELETE", what, query=[("propagationPolicy", "Background")]) is not None

    def all(self, kind: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return all objects of a kind with these labels. Raises as `get`."""
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        found = self._ask("GET", Identity(kind, ""), query=[("labelSelector", selector)]) or {}
        items: list[dict[str, Any]] = found.get("items", [])
        return items

    def wait_until(
        self,
        is_so: Callable[[], bool],
        what: str,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        poll_s: float = 2.0,
    ) -> None:
        """Return once something is so.

        Raises:
            NotReady: it has not been in time.
        """
        deadline = clock() + timeout_s
        while not is_so():
            if clock() > deadline:
                raise NotReady(
                    f"{what} is not ready",
                    why=f"it has not become so within {timeout_s:g} s",
                    hint=f"kubectl --namespace {self.namespace} describe pods, and logs, say why",
                )
            pause(poll_s)

    def _ask(
        self,
        method: str,
        what: Identity,
        *,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        form: str = "application/json",
    ) -> dict[str, Any] | None:
        base, resource = _PLACES[what.kind]
        path = f"{base}/namespaces/{self.namespace}/{resource}" + (f"/{what.name}" if what.name else "")
        data = self.send(method, path, what, body=body, query=query, form=form)
        if data is None:
            return None
        content: dict[str, Any] = json.loads(data)
        return content

    def send(
        self,
        method: str,
        path: str,
        what: Identity,
        *,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        form: str = "application/json",
    ) -> bytes | None:
        """Return what the server answers; None: there is no such thing. Raises as `get`.

        Args:
            method: of HTTP.
            path: of the API.
            what: for messages.
            body: becomes JSON.
            query: of the address.
            form: of the body.
        """
        import urllib3.exceptions  # noqa: PLC0415 - this and the client are slow to import
        from kubernetes.client import ApiException  # noqa: PLC0415

        headers = {"Accept": "application/json", "Content-Type": form}
        self._api.update_params_for_auth(headers, query or [], ["BearerToken"])
        try:
            answer = self._api.rest_client.request(
                method,
                f"{self._api.configuration.host}{path}",
                query_params=query,
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=_TIMES_S,
            )
        except ApiException as exc:
            _refuse(method, what, exc.status, exc.body or exc.reason)
            return None
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise ClusterUnreachable(
                f"The cluster at {self._api.configuration.host} does not answer",
                why=str(exc),
                hint="kubectl cluster-info asks the same; look at the context, and at the way there",
            ) from exc
        if answer.status >= 300:  # noqa: PLR2004 - HTTP's success
            _refuse(method, what, answer.status, answer.data)
            return None
        data: bytes = answer.data
        return data


def _refuse(method: str, what: Identity, code: int, body: Any) -> None:
    """Raise for every reason not to answer but one: that there is no such thing."""
    if code == _NOT_FOUND and method != "PATCH":
        return
    try:
        why = str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        why = f"HTTP {code}"
    refused = ClusterRefused(
        f"The cluster refuses {method} of {what.kind} {what.name or '…'}",
        why=why,
        hint="kubectl auth can-i --list shows what this account may do there",
    )
    refused.status = code
    raise refused


def connect(*, namespace: str, context: str = "", kubeconfig: Path | None = None) -> Cluster:
    """Return a cluster of a kubeconfig.

    Args:
        namespace: where all is; has to be there.
        context: of the kubeconfig; empty: the current one.
        kubeconfig: the file; None: as kubectl finds it.

    Raises:
        ClusterUnreachable: there is no such file or context, or the client is not installed.
    """
    try:
        import kubernetes.client  # noqa: PLC0415 - slow
        import kubernetes.config  # noqa: PLC0415
    except ImportError as exc:
        raise ClusterUnreachable(
            "Clusters cannot be reached",
            why=f"{exc.name} is not installed",
            hint="pip install 'clouddeploy[kubernetes]'",
        ) from exc
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_kube_config(
            None if kubeconfig is None else str(kubeconfig),
            context=context or None,
            client_configuration=configuration,
        )
    except (kubernetes.config.ConfigException, OSError) as exc:
        raise ClusterUnreachable(
            "The kubeconfig cannot be used", why=str(exc), hint="kubectl config get-contexts lists what there is."
        ) from exc
    configuration.retries = 1
    return Cluster(kubernetes.client.ApiClient(configuration), namespace)
