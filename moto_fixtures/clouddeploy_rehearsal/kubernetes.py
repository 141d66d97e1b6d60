"""A Kubernetes API server for tests, over HTTP on 127.0.0.1: it keeps objects, and runs the pods of jobs as processes.

What it answers has the form of a real server's. A pod is a process of this machine in a mount namespace of its own; of
its mounts it has those below the folder of the test, where the test puts the launcher's `job_mount_path`.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clouddeploy_rehearsal import mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[a-z0-9.]+))/(?P<version>v[0-9a-z]+)"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?/(?P<kind>[a-z]+)(?:/(?P<name>[A-Za-z0-9.-]+))?(?:/(?P<sub>[a-z]+))?"
)
_STOP_S = 5.0
_CREATED, _OK, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _INVALID = 201, 200, 403, 404, 409, 422
_KINDS = {
    "pods": "Pod",
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "events": "Event",
    "services": "Service",
    "serviceaccounts": "ServiceAccount",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "deployments": "Deployment",
    "roles": "Role",
    "rolebindings": "RoleBinding",
    "networkpolicies": "NetworkPolicy",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "namespaces": "Namespace",
    "selfsubjectaccessreviews": "SelfSubjectAccessReview",
}
Key = tuple[str, str, str]
"""Namespace, resource, name."""


class Refused(Exception):
    """An answer that is no success.

    Args:
        code: of HTTP.
        reason: the server's own word.
        message: for people.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@dataclass
class Faults:
    """What goes wrong, for as long as it is set.

    Attributes:
        missing_images: images that no registry has.
        unschedulable: what the scheduler says to each new pod; empty: it finds a node.
        forbidden: `(verb, resource)` that the account may not do.
    """

    missing_images: set[str] = field(default_factory=set)
    unschedulable: str = ""
    forbidden: set[tuple[str, str]] = field(default_factory=set)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # clients ask many things at once


class Cluster:
    """The server; use it in a `with` statement, which ends it and all that it runs.

    Args:
        folder: for what pods have on their own.
        claims: name of a claim → the folder that it is.
        validate: raises `ValueError` for an object that a real server would refuse.
    """

    def __init__(
        self,
        folder: Path,
        *,
        claims: Mapping[str, Path] | None = None,
        validate: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.folder = folder
        self.claims = dict(claims or {})
        self.faults = Faults()
        self.calls: set[tuple[str, str]] = set()
        self._validate = validate
        self._objects: dict[Key, dict[str, Any]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._version = 0
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all pods, then the server."""
        for name in list(self._processes):
            self._end(name)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubeconfig(self, *, namespace: str = "default") -> Path:
        """Write a kubeconfig with one context, `rehearsal`, and return its path."""
        path = self.folder / f"kubeconfig-{namespace}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "rehearsal",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "only-for-tests"}}],
            "contexts": [{"name": "rehearsal", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def objects(self, resource: str, namespace: str = "default") -> dict[str, dict[str, Any]]:
        """Return all objects of a kind by name, as they are now."""
        with self._lock:
            found = {key: one for key, one in self._objects.items() if key[:2] == (namespace, resource)}
            return {key[2]: json.loads(json.dumps(one)) for key, one in found.items()}

    def kill(self, name: str, *, reason: str = "Error", namespace: str = "default") -> None:
        """End a pod as its node does: `OOMKilled`, `Evicted` (the object stays, failed), or by a signal."""
        with self._lock:
            pod = self._objects[namespace, "pods", name]
            if reason == "Evicted":
                pod["status"] = {
                    "phase": "Failed",
                    "reason": reason,
                    "message": "The node was low on resource: memory.",
                }
            else:
                ending = {"exitCode": 137, "reason": reason}
                pod["status"] = _status("Failed", {"terminated": ending})
        self._processes[name].kill()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """Return code and content for one request."""
        url = urllib.parse.urlsplit(target)
        match = _PATH.fullmatch(url.path)
        if match is None or match["kind"] not in _KINDS:
            return _OK if url.path in {"/readyz", "/version"} else _NOT_FOUND, {"kind": "Status", "message": url.path}
        query = dict(urllib.parse.parse_qsl(url.query))
        given = json.loads(body) if body else {}
        try:
            with self._lock:
                return self._answered(method, match, query, given)
        except Refused as exc:
            status = {
                "kind": "Status",
                "status": "Failure",
                "reason": exc.reason,
                "message": str(exc),
                "code": exc.code,
            }
            return exc.code, status

    def _answered(self, method: str, match: re.Match[str], query: dict[str, str], given: Any) -> tuple[int, Any]:
        namespace, resource, name = match["namespace"] or "", match["kind"], match["name"]
        verb = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}.get(
            method, "get" if name else "list"
        )
        full = f"{resource}/{match['sub']}" if match["sub"] else resource
        self.calls.add((verb, full))
        if (verb, full) in self.faults.forbidden:
            message = (
                f'{full} is forbidden: User "rehearsal" cannot {verb} resource "{full}" in the namespace "{namespace}"'
            )
            raise Refused(_FORBIDDEN, "Forbidden", message)
        if verb == "list":
            return _OK, self._listed(namespace, resource, query)
        if verb == "create":
            return _CREATED, self._created(namespace, resource, given)
        key = (namespace, resource, name)
        if verb == "patch" and query.get("fieldManager"):
            return _OK, self._applied(key, given)
        if key not in self._objects:
            raise Refused(_NOT_FOUND, "NotFound", f'{resource} "{name}" not found')
        if match["sub"] == "log":
            return _OK, self._log(name)
        if verb == "delete":
            return _OK, self._deleted(key)
        return _OK, self._objects[key]

    def _created(self, namespace: str, resource: str, given: dict[str, Any]) -> dict[str, Any]:
        key = (namespace, resource, given["metadata"]["name"])
        if key in self._objects:
            raise Refused(_CONFLICT, "AlreadyExists", f'{resource} "{key[2]}" already exists')
        return self._kept(key, given)

    def _applied(self, key: Key, given: dict[str, Any]) -> dict[str, Any]:
        """Apply as a server does, but for the merging of what several clients own: here one owns all."""
        return self._kept(key, given)

    def _kept(self, key: Key, given: dict[str, Any]) -> dict[str, Any]:
        if self._validate is not None:
            try:
                self._validate(given)
            except ValueError as exc:
                raise Refused(_INVALID, "Invalid", str(exc)) from exc
        self._version += 1
        earlier = self._objects.get(key, {}).get("metadata", {})
        made: dict[str, Any] = json.loads(json.dumps(given))
        made["metadata"] |= {
            "namespace": key[0],
            "uid": earlier.get("uid") or str(uuid.uuid4()),
            "resourceVersion": str(self._version),
            "creationTimestamp": _now(),
            "generation": 1,
        }
        if key[1] == "secrets":
            made.setdefault("data", {})
        if key[1] == "deployments":
            replicas = made["spec"].get("replicas", 1)
            made["status"] = {
                "observedGeneration": 1,
                "replicas": replicas,
                "readyReplicas": replicas,
                "availableReplicas": replicas,
            }
        self._objects[key] = made
        if key[1] == "pods":
            made["status"] = {"phase": "Pending"}
            self._start(key, made)
        return made

    def _listed(self, namespace: str, resource: str, query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(one.split("=", 1) for one in query.get("labelSelector", "").split(",") if one)
        fields = dict(one.split("=", 1) for one in query.get("fieldSelector", "").split(",") if one)
        items = [
            one
            for key, one in self._objects.items()
            if key[:2] == (namespace, resource)
            and wanted.items() <= one["metadata"].get("labels", {}).items()
            and all(_field(one, path) == value for path, value in fields.items())
        ]
        return {"kind": f"{_KINDS[resource]}List", "apiVersion": "v1", "metadata": {}, "items": items}

    def _deleted(self, key: Key) -> dict[str, Any]:
        gone = self._objects.pop(key)
        if key[1] == "pods":
            self._end(key[2])
        uid = gone["metadata"]["uid"]
        for other, one in list(self._objects.items()):  # what the garbage collector of a cluster does
            if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", [])):
                del self._objects[other]
        return gone

    def _log(self, name: str) -> str:
        path = self.folder / name / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-5:]) if path.exists() else ""

    def _event(self, pod: dict[str, Any], reason: str, message: str) -> None:
        about = {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        name = f"{about['name']}.{uuid.uuid4().hex[:12]}"
        namespace = pod["metadata"]["namespace"]
        self._objects[namespace, "events", name] = {
            "metadata": {"name": name, "namespace": namespace, "uid": str(uuid.uuid4())},
            "involvedObject": about,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": _now(),
        }

    def _start(self, key: Key, pod: dict[str, Any]) -> None:
        """Do what scheduler and kubelet do."""
        image = pod["spec"]["containers"][0]["image"]
        if self.faults.unschedulable:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            pod["status"]["conditions"] = [{**condition, "message": self.faults.unschedulable}]
            self._event(pod, "FailedScheduling", self.faults.unschedulable)
        elif image in self.faults.missing_images:
            message = f'Back-off pulling image "{image}"'
            pod["status"] = _status("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": message}})
            self._event(pod, "Failed", f'Failed to pull image "{image}": not found')
        else:
            threading.Thread(target=self._run, args=(key,), daemon=True).start()

    def _run(self, key: Key) -> None:
        """Wait for the pod's Secret, then run its process to its end."""
        namespace, _, name = key
        done = threading.Event()
        while not done.wait(0.02):
            with self._lock:
                if key not in self._objects:
                    return
                pod = self._objects[key]
                needed = [one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one]
                if all((namespace, "secrets", secret) in self._objects for secret in needed):
                    process = self._started(pod, namespace)
                    self._processes[name] = process
                    pod["status"] = _status("Running", {"running": {"startedAt": _now()}})
                    break
        code = process.wait()
        with self._lock:
            if pod["status"]["phase"] == "Running":
                ending = {"exitCode": code if code >= 0 else 128 - code, "reason": "Error" if code else "Completed"}
                pod["status"] = _status("Failed" if code else "Succeeded", {"terminated": ending})

    def _started(self, pod: dict[str, Any], namespace: str) -> subprocess.Popen[bytes]:
        own = self.folder / pod["metadata"]["name"]
        own.mkdir(parents=True)
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        container = pod["spec"]["containers"][0]
        bound = []
        for mount in container["volumeMounts"]:
            source = self._source(volumes[mount["name"]], own, namespace) / mount.get("subPath", "")
            target = Path(mount["mountPath"])
            if self.folder.parent in target.parents:  # what is the machine's own stays: /tmp is what it is
                target.mkdir(parents=True, exist_ok=True)
                bound.append((str(source), str(target), mount.get("readOnly", False)))
        (own / "mounts.json").write_text(json.dumps(bound), encoding="utf-8")
        environment = {one["name"]: self._value(one, namespace) for one in container["env"]}
        with (own / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", mounts.__name__, own / "mounts.json", sys.executable, *container["command"][1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ.get("PATH", os.defpath), **environment, "TMPDIR": str(own)},
                start_new_session=True,
            )

    def _value(self, variable: dict[str, Any], namespace: str) -> str:
        key = variable.get("valueFrom", {}).get("secretKeyRef")
        if key is None:
            return str(variable["value"])
        return str(self._objects[namespace, "secrets", key["name"]]["stringData"][key["key"]])

    def _source(self, volume: dict[str, Any], own: Path, namespace: str) -> Path:
        if "persistentVolumeClaim" in volume:
            return Path(self.claims[volume["persistentVolumeClaim"]["claimName"]])
        folder = own / str(volume["name"])
        folder.mkdir(exist_ok=True)
        if "secret" in volume:
            secret = self._objects[namespace, "secrets", volume["secret"]["secretName"]]
            for name, text in secret.get("stringData", {}).items():
                (folder / name).write_text(text, encoding="utf-8")
                (folder / name).chmod(0o400)
        return folder

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_S)


def _status(phase: str, state: dict[str, Any]) -> dict[str, Any]:
    return {"phase": phase, "containerStatuses": [{"name": "job", "state": state}]}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _field(found: Mapping[str, Any], path: str) -> Any:
    for part in path.split("."):
        found = found.get(part, {})
    return found


def _handler(cluster: Cluster) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer is two writes, and the second would wait for 40 ms

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, content = cluster.answer(self.command, self.path, body)
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815 - http.server's names

        def handle(self) -> None:
            """Take requests until the client is gone, however it went."""
            with contextlib.suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
