"""The API server, as far as a site's jobs need it: their pods, the Secrets of their lines, what is said about them.

The rights that this takes are those of the Role in the chart of `clouddeploy prepare`: nothing is watched, no Secret is
read, changed or deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes.client
import kubernetes.config
import urllib3.exceptions

from clouddeploy_runtime.errors import ConnectionFailed, ExitCode, RuntimeFault
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.kube import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clouddeploy_runtime.outposts.kube.settings import Settings

_TIMES_S = (5.0, 20.0)
"""Until it answers, and until it has said all."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NOT_FOUND, _FORBIDDEN, _UNAUTHORIZED = 404, 403, 401
_LOG_LINES = 5
_LOG_BYTES = 4096
_PAGE = 500


class ClusterRefused(RuntimeFault):
    """The API server does not do what it was asked for."""

    error_code = "CLUSTER_REFUSED"


class ClusterForbids(ClusterRefused):
    """The account that asks does not have the right."""

    exit_code = ExitCode.CONNECTION
    error_code = "CLUSTER_FORBIDS"


class Cluster:
    """One namespace of one cluster, as one account sees it.

    Args:
        settings: of the launcher: how to get there.

    Raises:
        BadLauncher: there is no account, no such kubeconfig or no such context.
    """

    def __init__(self, settings: Settings) -> None:
        configuration = kubernetes.client.Configuration()
        try:
            if settings.config_file_path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
                own = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            else:
                own = _from_file(settings, configuration)
        except (kubernetes.config.ConfigException, OSError) as exc:
            raise BadLauncher(
                "The Kubernetes cluster for jobs is not known",
                why=str(exc),
                hint="Run this site in the cluster, or name a kubeconfig: config_file_path in local/resources.json.",
            ) from exc
        configuration.retries = 1
        self.namespace = settings.namespace or own or "default"
        self._core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))

    def create_pod(self, manifest: Mapping[str, Any]) -> str:
        """Create a pod; returns its uid.

        Raises:
            ClusterRefused: with the server's reason.
            ConnectionFailed: it is not there; so do the other calls.
        """
        with _translated(f"The pod {manifest['metadata']['name']} cannot be created"):
            made = self._core.create_namespaced_pod(self.namespace, dict(manifest), **_RAW)
        return str(_content(made)["metadata"]["uid"])

    def create_secret(self, manifest: Mapping[str, Any]) -> None:
        """Create a Secret; raises as `create_pod`."""
        with _translated(f"The Secret {manifest['metadata']['name']} cannot be created"):
            self._core.create_namespaced_secret(self.namespace, dict(manifest), **_RAW)

    def pod(self, name: str) -> dict[str, Any] | None:
        """Return a pod as it is now; None: there is none. Raises as `create_pod`."""
        try:
            with _translated(f"The pod {name} cannot be read"):
                return _content(self._core.read_namespaced_pod(name, self.namespace, **_RAW))
        except _Gone:
            return None

    def pods(self, labels: dict[str, str]) -> list[str]:
        """Return the names of all pods with these labels. Raises as `create_pod`."""
        found: list[str] = []
        after = ""
        with _translated("The pods of jobs cannot be listed"):
            while True:
                page = _content(
                    self._core.list_namespaced_pod(
                        self.namespace,
                        label_selector=names.selector(labels),
                        limit=_PAGE,
                        **({"_continue": after} if after else {}),
                        **_RAW,
                    )
                )
                found += [one["metadata"]["name"] for one in page["items"]]
                after = page["metadata"].get("continue") or ""
                if not after:
                    return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the cluster says about a pod, the newest last; nothing where that may not be read."""
        try:
            with _translated(f"Events of the pod {name} cannot be listed"):
                selector = f"involvedObject.kind=Pod,involvedObject.name={name}"
                page = _content(self._core.list_namespaced_event(self.namespace, field_selector=selector, **_RAW))
        except RuntimeFault:
            return []
        found: list[dict[str, Any]] = page["items"]
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def log(self, name: str) -> str:
        """Return the last lines that a pod printed; nothing where they may not be read."""
        try:
            with _translated(f"The log of the pod {name} cannot be read"):
                answer = self._core.read_namespaced_pod_log(
                    name, self.namespace, tail_lines=_LOG_LINES, limit_bytes=_LOG_BYTES, **_RAW
                )
        except RuntimeFault:
            return ""
        data: bytes = answer.data
        return data.decode(errors="replace").strip()

    def delete_pod(self, name: str, *, grace_s: int) -> None:
        """Ask for the end of a pod, and of what belongs to it; harmless when there is none. Raises as `create_pod`."""
        with contextlib.suppress(_Gone), _translated(f"The pod {name} cannot be deleted"):
            self._core.delete_namespaced_pod(
                name, self.namespace, grace_period_seconds=grace_s, propagation_policy="Background", **_RAW
            )


_RAW: Mapping[str, Any] = {"_preload_content": False, "_request_timeout": _TIMES_S}
"""The server's own JSON: the classes of the client refuse what a newer server says."""


class _Gone(ClusterRefused):
    """There is none of that name."""


def _content(answer: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(answer.data)
    return content


def _from_file(settings: Settings, configuration: kubernetes.client.Configuration) -> str:
    path, context = settings.config_file_path, settings.context or None
    kubernetes.config.load_kube_config(path, context=context, client_configuration=configuration)
    contexts, active = kubernetes.config.list_kube_config_contexts(path)
    chosen = next((one for one in contexts if one["name"] == context), active)
    return str(chosen["context"].get("namespace") or "")


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Make the client's errors ours."""
    try:
        yield
    except kubernetes.client.ApiException as exc:
        if exc.status == _NOT_FOUND:
            raise _Gone(what, why=_message(exc)) from exc
        if exc.status in {_FORBIDDEN, _UNAUTHORIZED}:
            hint = "The Role of the site's service account is in the chart of clouddeploy prepare."
            raise ClusterForbids(what, why=_message(exc), hint=hint) from exc
        hint = "Correct k8s_launcher in local/resources.json, what the study gets, or what the job asks for."
        raise ClusterRefused(what, why=_message(exc), hint=hint) from exc
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise ConnectionFailed(
            what, why=f"the API server does not answer: {exc}", hint="Look at the network policies of the namespace."
        ) from exc


def _message(exc: kubernetes.client.ApiException) -> str:
    try:
        return str(json.loads(exc.body)["message"])
    except (ValueError, TypeError, KeyError):
        return f"{exc.status} {exc.reason}"
