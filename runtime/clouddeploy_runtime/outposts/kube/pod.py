"""The pod of a job and the Secret of its line, as the API takes them; nothing here talks to a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import study_runtime
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.kube import names
from clouddeploy_runtime.outposts.post import CREDENTIAL, FAR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.kube.settings import Settings, Wishes
    from clouddeploy_runtime.outposts.post import Errand
    from clouddeploy_runtime.study_runtime import StudyRuntime

CONTAINER = "job"
_WORKSPACE, _LINE, _TEMPORARY = "workspace", "line", "temporary"
_GRACE_S = 3
"""Between the asking and the ending of a pod: what a job has to say it says before, over its line."""
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Of a container: what the profile `restricted` of the Pod Security Standards asks for, and files that stay."""
IDENTITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Of a pod, with the user of our image; the group owns the volumes. One that a site sets to null is taken away."""


def security(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the security context of a pod: the restricted one, with what a site has set instead or taken away."""
    return {key: value for key, value in {**IDENTITY, **own}.items() if value is not None}


@dataclass(frozen=True)
class JobPod:
    """One job's pod.

    Attributes:
        name: of the pod, and of the Secret with its line.
        errand: what is to run.
        settings: the launcher's.
        wishes: the job's.
        study: what its study gets here.
        template: the site's, of pods of the study; ours has the last word, but lists are joined.
    """

    name: str
    errand: Errand
    settings: Settings
    wishes: Wishes
    study: StudyRuntime
    template: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """What it is found by."""
        return {
            **names.owner(self.settings.project, self.settings.participant or self.errand.site),
            names.MANAGED_BY: names.PART_OF,
            names.COMPONENT: names.JOB_COMPONENT,
            names.JOB: names.named(self.errand.job_id),
            names.ROLE: self.errand.role,
        }

    def inside(self, name: str) -> str:
        """Return where the pod has one of the job's folders."""
        return str(PurePosixPath(self.settings.job_mount_path, name))

    def data_dir(self) -> str | None:
        """Return where the pod has the site's data; None: it has none."""
        if self.study.datasets:
            return study_runtime.place(self.errand.study)
        return self.inside("data") if self.errand.data_dir is not None and self._has_data() else None

    def code(self) -> tuple[str, ...]:
        """Return where the pod has the site's own code for jobs: what of it lies in the workspace."""
        kept = [one for one in self.errand.code if self._below(one) is not None]
        return tuple(self.inside(f"code-{number}") for number, _ in enumerate(kept))

    def writable(self) -> tuple[str, ...]:
        """Return the data that the job may change."""
        return tuple(
            study_runtime.place(self.errand.study, name)
            for name, dataset in self.study.datasets.items()
            if dataset.is_writable
        )

    def secret(self, line: bytes, uid: str) -> dict[str, Any]:
        """Return the Secret with its line to the site; it goes with the pod of this `uid`."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": uid}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "labels": self.labels, "ownerReferences": [owner]},
            "type": "Opaque",
            "immutable": True,
            "stringData": {CREDENTIAL: line.decode()},
        }

    def manifest(self) -> dict[str, Any]:
        """Return the pod.

        Raises:
            BadLauncher: a folder of the job is not in the workspace, which is all that its pod can have.
        """
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_S,
            "securityContext": security(self.settings.job_pod_security_context),
            "containers": [self._container()],
            "volumes": self._volumes(),
        }
        if self.settings.service_account:
            spec["serviceAccountName"] = self.settings.service_account
        if self.settings.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in self.settings.image_pull_secrets]
        if self.settings.same_node:
            spec["affinity"] = self._beside_the_parent()
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": spec,
        }
        made: dict[str, Any] = merged(dict(self.template), pod)
        return made

    def _container(self) -> dict[str, Any]:
        python = self.wishes.python_path or self.settings.default_python_path
        return {
            "name": CONTAINER,
            "image": self.wishes.image or self.study.image or self.settings.image,
            "command": [python, *FAR, f"{self.inside(_LINE)}/{CREDENTIAL}"],
            "workingDir": "/tmp",  # noqa: S108 - in the pod
            "env": self._environment(),
            "resources": self._resources(),
            "securityContext": dict(RESTRICTED),
            "volumeMounts": self._mounts(),
        }

    def _environment(self) -> list[dict[str, Any]]:
        """Return the variables of the pod; those of the job without a secret come over the line."""
        variables: list[dict[str, Any]] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - in the pod
        for name, one in self.study.secret_env.items():
            key = {"name": one.source, "key": one.key or name}
            variables.append({"name": name, "valueFrom": {"secretKeyRef": key}})
        return variables

    def _resources(self) -> dict[str, dict[str, str]]:
        own = {kind: dict(self.settings.resources.get(kind, {})) for kind in ("requests", "limits")}
        cpu = self.wishes.cpu or (str(self.errand.cpus) if self.errand.cpus else "")
        memory = self.wishes.memory or (f"{round(self.errand.memory_gib * 1024)}Mi" if self.errand.memory_gib else "")
        if cpu:
            own["requests"]["cpu"] = cpu
            own["limits"].pop("cpu", None)  # one below what is asked for would be refused
        if memory:
            own["requests"]["memory"] = own["limits"]["memory"] = memory
        disk = self.wishes.ephemeral_storage or self.settings.ephemeral_storage
        own["requests"]["ephemeral-storage"] = own["limits"]["ephemeral-storage"] = disk
        if self.errand.gpus:
            own["requests"]["nvidia.com/gpu"] = own["limits"]["nvidia.com/gpu"] = str(self.errand.gpus)
        return own

    def _mounts(self) -> list[dict[str, Any]]:
        mounts: list[dict[str, Any]] = [
            {"name": _TEMPORARY, "mountPath": "/tmp"},  # noqa: S108 - in the pod
            {"name": _LINE, "mountPath": self.inside(_LINE), "readOnly": True},
            self._folder(self.errand.app_dir, "app", is_read_only=True),
            self._folder(self.errand.run_dir, "run"),
        ]
        kept = [one for one in self.errand.code if self._below(one) is not None]
        mounts += [self._folder(one, f"code-{number}", is_read_only=True) for number, one in enumerate(kept)]
        for number, (name, dataset) in enumerate(self.study.datasets.items()):
            where = study_runtime.place(self.errand.study, name)
            mounts.append({"name": f"data-{number}", "mountPath": where, "readOnly": not dataset.is_writable})
        if not self.study.datasets and self.errand.data_dir is not None and self._has_data():
            mounts.append(self._folder(self.errand.data_dir, "data", is_read_only=True))
        for number, secret in enumerate(self.study.secret_mounts.values()):
            mounts.append({"name": f"secret-{number}", "mountPath": secret.mount_path, "readOnly": True})
        return mounts

    def _folder(self, path: str, name: str, *, is_read_only: bool = False) -> dict[str, Any]:
        below = self._below(path)
        if below is None:
            raise BadLauncher(
                f"The job's folder {path} cannot be given to a pod",
                why=f"it is not below {self.settings.workspace_mount_path}, where the claim "
                f"{self.settings.workspace_pvc} is mounted",
                hint="Correct workspace_mount_path of k8s_launcher, or the place of the jobs, in local/resources.json.",
            )
        mount: dict[str, Any] = {"name": _WORKSPACE, "mountPath": self.inside(name), "subPath": below}
        return {**mount, "readOnly": True} if is_read_only else mount

    def _below(self, path: str) -> str | None:
        root = PurePosixPath(self.settings.workspace_mount_path)
        if not PurePosixPath(path).is_relative_to(root):
            return None
        return str(PurePosixPath(self.settings.workspace_sub_path) / PurePosixPath(path).relative_to(root))

    def _has_data(self) -> bool:
        return self.errand.data_dir is not None and self._below(self.errand.data_dir) is not None

    def _volumes(self) -> list[dict[str, Any]]:
        volumes: list[dict[str, Any]] = [
            {"name": _WORKSPACE, "persistentVolumeClaim": {"claimName": self.settings.workspace_pvc}},
            {"name": _LINE, "secret": {"secretName": self.name, "defaultMode": 0o400}},
            {"name": _TEMPORARY, "emptyDir": {"sizeLimit": self.settings.ephemeral_storage}},
        ]
        for number, dataset in enumerate(self.study.datasets.values()):
            claim = {"claimName": dataset.source, "readOnly": not dataset.is_writable}
            volumes.append({"name": f"data-{number}", "persistentVolumeClaim": claim})
        for number, secret in enumerate(self.study.secret_mounts.values()):
            volumes.append({"name": f"secret-{number}", "secret": {"secretName": secret.source, "defaultMode": 0o400}})
        return volumes

    def _beside_the_parent(self) -> dict[str, Any]:
        parent = {
            **names.owner(self.settings.project, self.settings.participant or self.errand.site),
            names.COMPONENT: names.PARENT_COMPONENT,
        }
        term = {"labelSelector": {"matchLabels": parent}, "topologyKey": "kubernetes.io/hostname"}
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def merged(base: Any, over: Any) -> Any:
    """Lay one manifest over another, which has the last word.

    Mappings are joined key by key, lists of things with names name by name; other lists of mappings are put together,
    and of any other two values the second one stays.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        return {
            **base,
            **{key: merged(base[key], value) if key in base else value for key, value in over.items()},
        }
    if isinstance(base, list) and isinstance(over, list) and all(isinstance(one, dict) for one in [*base, *over]):
        if not all("name" in one for one in [*base, *over]):
            return [*base, *over]
        by_name = {(one["name"], one.get("mountPath")): one for one in base}
        for one in over:
            key = (one["name"], one.get("mountPath"))
            by_name[key] = merged(by_name[key], one) if key in by_name else one
        return list(by_name.values())
    return over
