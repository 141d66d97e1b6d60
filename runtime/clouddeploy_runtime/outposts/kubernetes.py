"""Jobs as pods of a Kubernetes cluster.

The parent and its jobs' pods share the site's workspace, a claim; of it a pod sees its job's folders alone. The line's
credential is a Secret that belongs to the pod and goes with it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import study_runtime
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts.kube import names, pod, status
from clouddeploy_runtime.outposts.kube import settings as arguments
from clouddeploy_runtime.outposts.kube.pod import JobPod
from clouddeploy_runtime.outposts.post import CREDENTIAL, Launch, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.kube.cluster import Cluster
    from clouddeploy_runtime.outposts.post import Errand

log = logging.getLogger(__name__)

HOST_VARIABLE = "CLOUDDEPLOY_POD_IP"
"""Of a parent in a pod: its address, from the downward API."""
NEEDED = ("kubernetes", "yaml")
_GRACE_S = 3
_MARGIN_S = 5.0
"""The reason why a pod does not start is known here; near's own limit, which knows none, comes after it."""
_TEMPLATE_KEYS = frozenset({"apiVersion", "kind", "metadata", "spec"})


class KubernetesPost:
    """One job's pod.

    Args:
        errand: what is to run there.
        cluster: where.
    """

    def __init__(self, errand: Errand, cluster: Cluster) -> None:
        settings = _settings(errand.settings)
        study = study_runtime.of(Path(errand.local), errand.study)
        unique = f"{names.named(errand.site, 30)}-{errand.job_id[:8]}-{secrets.token_hex(4)}"
        self._errand = errand
        self._cluster = cluster
        self._settings = settings
        self._pod = JobPod(
            name=names.named(f"job-{unique}"),
            errand=errand,
            settings=settings,
            wishes=arguments.wishes(errand.wishes),
            study=study,
            template=_template(study.pod_template),
        )
        self._opened: float | None = None
        self._is_made = False
        self.way = _way(settings)
        self.folder = Path(tempfile.mkdtemp(prefix="clouddeploy-line-"))

    @property
    def name(self) -> str:
        """Of the pod."""
        return self._pod.name

    def open(self) -> Launch:
        """Start the pod; its Secret comes second, so that it is the pod's from its first moment on."""
        manifest = self._pod.manifest()
        same = {names.JOB: self._pod.labels[names.JOB], names.ROLE: self._errand.role}
        _remove(self._cluster, {**_owned(self._settings, self._errand.site), **same}, grace_s=0)
        self._is_made = True
        uid = self._cluster.create_pod(manifest)
        self._cluster.create_secret(self._pod.secret((self.folder / CREDENTIAL).read_bytes(), uid))
        self._opened = time.monotonic()
        log.info("The job runs in the pod %s of the namespace %s", self.name, self._cluster.namespace)
        errand, own = self._errand, self._pod
        return Launch(
            job_id=errand.job_id,
            role=errand.role,
            site=errand.site,
            sites=errand.sites,
            app_dir=own.inside("app"),
            run_dir=own.inside("run"),
            data_dir=own.data_dir(),
            environment={**errand.environment, **own.study.env},
            forwarded=tuple(own.study.secret_env),
            code=own.code(),
            readable=tuple(secret.mount_path for secret in own.study.secret_mounts.values()),
            writable=own.writable(),
            is_confined=errand.is_confined,
        )

    def problem(self) -> str:
        """Return why the pod does not run, in the cluster's words; empty while it may."""
        try:
            found = self._cluster.pod(self.name)
        except RuntimeFault as exc:  # it may answer again; the line tells whether the job goes on
            log.warning("%s", exc)
            return ""
        if found is None:
            return f"somebody has deleted its pod {self.name}"
        why = status.ended(found)
        if why:
            printed = self._cluster.log(self.name)
            return f"{why} ({self.name})" + (f"; it printed: {printed}" if printed else "")
        waited = 0.0 if self._opened is None else time.monotonic() - self._opened
        if (found.get("status") or {}).get("phase") == "Pending" and waited > self._settings.pending_timeout:
            reason = status.hindrance(found, self._cluster.events(self.name)) or "the cluster does not say why"
            return f"its pod {self.name} has been pending for {self._settings.pending_timeout:g} s: {reason}"
        return ""

    def stop(self) -> None:
        """Ask the pod to end."""
        if self._is_made:
            self._delete()

    def close(self) -> None:
        """Remove the pod, and with it its Secret."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._is_made:
            self._delete()
            self._is_made = False

    def _delete(self) -> None:
        try:
            self._cluster.delete_pod(self.name, grace_s=_GRACE_S)
        except RuntimeFault as exc:
            log.warning("%s; the next start of this site removes it", exc)


def check(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with the ones that were left out."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise BadLauncher(
                "Jobs cannot be started in Kubernetes",
                why=f"{name} is not installed",
                hint="pip install 'clouddeploy-runtime[kubernetes]'",
            )
    checked = arguments.read(settings)
    return {name: value for name, value in msgspec.to_builtins(checked).items() if name not in _SET_BY_THE_SITE}


_SET_BY_THE_SITE = frozenset({"project", "participant"})


def post(errand: Errand) -> KubernetesPost:
    """Return the place of one job."""
    from clouddeploy_runtime.outposts.kube.cluster import Cluster  # noqa: PLC0415 - 50 MB that parents do not need

    return KubernetesPost(errand, Cluster(_settings(errand.settings)))


def sweep(settings: Mapping[str, Any], site: str) -> None:
    """Remove the pods that earlier jobs of this site have left, and no others."""
    from clouddeploy_runtime.outposts.kube.cluster import Cluster  # noqa: PLC0415 - see `post`

    own = _settings(settings)
    for name in _remove(Cluster(own), _owned(own, site), grace_s=0):
        log.info("The pod %s, which an earlier process of this site has left, is removed", name)


def _remove(cluster: Cluster, labels: dict[str, str], *, grace_s: int) -> list[str]:
    found = cluster.pods(labels)
    for name in found:
        cluster.delete_pod(name, grace_s=grace_s)
    return found


def _owned(settings: arguments.Settings, site: str) -> dict[str, str]:
    own = names.owner(settings.project, settings.participant or site)
    return {**own, names.COMPONENT: names.JOB_COMPONENT, names.MANAGED_BY: names.PART_OF}


def _settings(given: Mapping[str, Any]) -> arguments.Settings:
    return arguments.read(given)


def _way(settings: arguments.Settings) -> Way:
    host = settings.parent_host or os.environ.get(HOST_VARIABLE, "")
    if not host:
        raise BadLauncher(
            "Pods of jobs would not find this site",
            why=f"neither parent_host of k8s_launcher nor the variable {HOST_VARIABLE} says where it is",
            hint="Use the chart of `clouddeploy prepare`, or name the address in local/resources.json.",
        )
    return Way(
        host,
        bind="::" if ":" in host else "",
        ports=tuple(range(settings.parent_port, settings.parent_port + settings.parent_ports)),
        pending_s=settings.pending_timeout + _MARGIN_S,
        poll_s=settings.poll_interval,
    )


def _template(path: Path | None) -> Mapping[str, Any]:
    """Read the site's template of pods; YAML or JSON."""
    if path is None:
        return {}
    import yaml  # noqa: PLC0415 - only here

    try:
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as exc:
        raise _bad_template(path, str(exc)) from exc
    if not isinstance(document, dict) or not set(document) <= _TEMPLATE_KEYS:
        raise _bad_template(path, f"it is no pod: it may have {', '.join(sorted(_TEMPLATE_KEYS))}")
    if not all(isinstance(document.get(key, {}), dict) for key in ("metadata", "spec")):
        raise _bad_template(path, "its metadata and its spec are mappings")
    containers = document.get("spec", {}).get("containers", [])
    named = all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in containers)
    if not isinstance(containers, list) or not named:
        raise _bad_template(path, f"its containers need names; the job's is {pod.CONTAINER!r}")
    return document


def _bad_template(path: Path, why: str) -> study_runtime.BadStudyRuntime:
    return study_runtime.BadStudyRuntime(
        f"The template of pods {path} cannot be used", why=why, hint="docs/kubernetes.md explains it."
    )
