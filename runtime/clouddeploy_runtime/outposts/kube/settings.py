"""The arguments of `k8s_launcher` in `local/resources.json`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from clouddeploy_runtime.launchers.base import BadLauncher

if TYPE_CHECKING:
    from collections.abc import Mapping

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Absolute = Annotated[str, msgspec.Meta(pattern=r"^/")]
_PLACE = re.compile(r"\$\.?([A-Za-z_]+)")


def _modest() -> dict[str, dict[str, str]]:
    """No limit: a job that does not say what it takes would be killed for what nobody has told it."""
    return {"requests": {"cpu": "1", "memory": "2Gi"}}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where jobs' pods run, and what they are like.

    Attributes:
        image: of jobs, unless the study or the job names another.
        workspace_pvc: the claim of the site's workspace, which is the parent's and the job's pods'.
        workspace_mount_path: where the parent has it.
        workspace_sub_path: the folder of the claim that is mounted there.
        namespace: of the pods; empty: that of the parent's own pod, or of the kubeconfig's context.
        config_file_path: a kubeconfig; None: the parent's own account in the cluster.
        context: of the kubeconfig; empty: its current one.
        default_python_path: in the image.
        pending_timeout: so long a pod may take until its process calls, in seconds.
        parent_host: the parent as a pod sees it; empty: the address of its own pod.
        parent_port: the first of the ports at which the parent waits for pods.
        parent_ports: how many there are: of so many jobs the pods may start at one time.
        job_pod_security_context: of the pods.
        image_pull_secrets: names of Secrets.
        resources: of jobs, unless they say themselves what they take.
        ephemeral_storage: of the pod's own disk.
        same_node: whether a pod has to be where its parent is: a claim may be one node's only.
        service_account: of the pods; empty: the namespace's default, and no token of it is in the pod.
        job_mount_path: where a pod has the job's folders.
        poll_interval: how often the cluster is asked about a pod, in seconds.
        project: of the kit; set by the site.
        participant: likewise.
    """

    image: Text
    workspace_pvc: Text
    workspace_mount_path: Absolute = "/var/tmp/nvflare/workspace"  # noqa: S108 - a path in a container
    workspace_sub_path: str = ""
    namespace: str = ""
    config_file_path: str | None = None
    context: str = ""
    default_python_path: Absolute = "/usr/local/bin/python"
    pending_timeout: Seconds = 120.0
    parent_host: str = ""
    parent_port: Port = 8102
    parent_ports: Count = 100
    job_pod_security_context: dict[str, Any] = {}
    image_pull_secrets: list[Text] = []
    resources: dict[str, dict[str, str]] = msgspec.field(default_factory=_modest)
    ephemeral_storage: Text = "1Gi"
    same_node: bool = True
    service_account: str = ""
    job_mount_path: Absolute = "/clouddeploy"
    poll_interval: Seconds = 1.0
    project: str = ""
    participant: str = ""


def read(given: Mapping[str, Any]) -> Settings:
    """Return the arguments, checked.

    Raises:
        BadLauncher: names the wrong key, the unknown or the missing one.
    """
    try:
        # Numbers without a fraction are whole numbers in JSON, and seconds may be any number.
        settings = msgspec.convert(dict(given), Settings)
    except msgspec.ValidationError as exc:
        place = _PLACE.search(str(exc))
        what = f'"{place[1]}" of k8s_launcher is wrong' if place else "the arguments of k8s_launcher are wrong"
        raise BadLauncher(
            what, why=str(exc), hint="Correct local/resources.json; docs/kubernetes.md explains it."
        ) from exc
    if settings.parent_port + settings.parent_ports > 1 << 16:
        raise BadLauncher(
            '"parent_port" of k8s_launcher is wrong',
            why=f"{settings.parent_ports} ports from {settings.parent_port} on are more than there are",
            hint="Correct local/resources.json.",
        )
    return settings


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a job's `launcher_spec` may say for `k8s`; `image` and `python_path` need the right byoc, see `jobs`."""

    image: str = ""
    python_path: str = ""
    cpu: str = ""
    memory: str = ""
    ephemeral_storage: str = ""


def wishes(given: Mapping[str, Any]) -> Wishes:
    """Return a job's wishes, checked.

    Raises:
        BadLauncher: names the one that is not known, or is no text.
    """
    try:
        return msgspec.convert(dict(given), Wishes)
    except msgspec.ValidationError as exc:
        known = ", ".join(Wishes.__struct_fields__)
        raise BadLauncher(
            "launcher_spec of the job cannot be used", why=f"k8s: {exc}", hint=f"It may name {known}."
        ) from exc
