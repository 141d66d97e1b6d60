"""A prepared kit in a cluster: its files as ConfigMap and Secret, and what is made of its chart, without Helm.

The names of both are written into the chart's values before anything is made, so whatever happens in between, it is
known what is to be removed. Only what carries the site's own labels is changed or deleted.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.outposts.kube import names as labels_of

from clouddeploy.prepare import chart_values, kit_files, kubernetes, staged
from clouddeploy.prepare.cluster import Identity
from clouddeploy.prepare.errors import InvalidArguments, OutputStaged, PrepareError
from clouddeploy.prepare.manifests import Objects, Release, local_name, startup_name
from clouddeploy.yaml_file import loaded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy.prepare.cluster import Cluster

_SECTION = re.compile(rf"^{staged.SECTION}:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_KEPT = "PersistentVolumeClaim"
_READY_S = 300.0


@dataclass(frozen=True)
class Output:
    """What `clouddeploy prepare` has made for Kubernetes.

    Attributes:
        root: the folder.
        values: of its chart.
        chart: `Chart.yaml`.
    """

    root: Path
    values: Mapping[str, Any]
    chart: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the release, and of most objects."""
        return str(self.values["name"])

    @property
    def labels(self) -> dict[str, str]:
        """What carries them is this site's."""
        who = self.values["participant"]
        return kit_files.labels(str(who["of"]), str(who["name"]))

    def objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return all objects of the chart."""
        release = Release(self.name, namespace, str(self.chart["name"]), str(self.chart["appVersion"]))
        return Objects(self.values, release).all()


@dataclass(frozen=True)
class Staged:
    """What a cluster has of a kit.

    Attributes:
        namespace: where.
        local: the ConfigMap of `local/`.
        startup: the Secret of `startup/`.
        warnings: for people.
    """

    namespace: str
    local: str
    startup: str
    warnings: tuple[str, ...] = ()

    def document(self, output: Output, *, kubectl: str = "kubectl") -> dict[str, Any]:
        """Return it as JSON, with the commands to go on and to go back."""
        chart = str(output.root / kubernetes.CHART)
        helm = ["helm", "upgrade", "--install", output.name, chart, "--namespace", self.namespace, "--wait"]
        cleanup = [
            kubectl,
            "--namespace",
            self.namespace,
            "delete",
            f"configmap/{self.local}",
            f"secret/{self.startup}",
        ]
        return {
            "namespace": self.namespace,
            "local_configmap": self.local,
            "startup_secret": self.startup,
            "helm_command": shlex.join(helm),
            "cleanup_command": shlex.join(cleanup),
            "warnings": list(self.warnings),
        }


def read(root: Path) -> Output:
    """Return what is prepared in a folder.

    Raises:
        InvalidArguments: nothing for Kubernetes is.
    """
    try:
        documents = [loaded((root / kubernetes.CHART / name).read_bytes()) for name in ("values.yaml", "Chart.yaml")]
    except (OSError, yaml.YAMLError) as exc:
        raise _nothing(root, str(exc)) from exc
    values, chart = documents
    try:
        str(values["participant"]["of"] + values["participant"]["name"] + values["name"] + chart["appVersion"])
        values[staged.SECTION]["local"]["items"], values[staged.SECTION]["startup"]["items"]
    except (LookupError, TypeError) as exc:
        raise _nothing(root, f"the chart lacks {exc}") from exc
    return Output(root.resolve(), values, chart)


def stage(output: Output, cluster: Cluster, *, local: str | None = None, startup: str | None = None) -> Staged:
    """Give a cluster the files of a kit; again, it gives it those that have changed.

    Args:
        output: the prepared kit.
        cluster: with the namespace.
        local: name of the ConfigMap; None: the usual one, or that of before.
        startup: name of the Secret; likewise.

    Raises:
        OutputStaged: another namespace, or objects of other names, have them.
        PrepareError: the names are somebody else's there, or the files do not fit.
        DeployError: the cluster refuses.
    """
    names = _names(output, cluster.namespace, local, startup)
    objects = _files(output, names)
    for one in objects:
        _own(output, cluster, Identity(one["kind"], one["metadata"]["name"]))
    record(output, names)
    for one in objects:
        cluster.apply(one)
    return names


def print_only(
    output: Output, *, namespace: str, kubectl: str, local: str | None = None, startup: str | None = None
) -> tuple[Staged, list[str]]:
    """Write the names into the chart's values, and return the commands that do the rest; nothing is asked of a cluster.

    Raises:
        PrepareError: as `stage`.
    """
    names = _names(output, namespace, local, startup)
    _files(output, names)
    record(output, names)
    own = ",".join(f"{key}={value}" for key, value in sorted(output.labels.items()))
    commands = []
    for kind, name, folder, files in (
        ("configmap", names.local, "local", kit_files.local(output.root)),
        ("secret generic", names.startup, "startup", kit_files.startup(output.root)),
    ):
        sources = [f"--from-file={key}={output.root / folder / path}" for key, path in files.items()]
        inside = [kubectl, "--namespace", namespace]
        commands.append(shlex.join([*inside, "create", *kind.split(), name, *sources]))
        commands.append(shlex.join([*inside, "label", kind.split()[0], name, *own.split(",")]))
    return names, commands


def unstage(output: Output, cluster: Cluster) -> Staged | None:
    """Remove what `stage` has made, and nothing else; returns it, or None where nothing was.

    Raises:
        OutputStaged: it is in another namespace than the cluster's.
        PrepareError: an object of that name is somebody else's.
        DeployError: the cluster refuses; the names stay in the values, so that it can be done again.
    """
    found = _recorded(output)
    if found is None:
        return None
    if found.namespace != cluster.namespace:
        raise _elsewhere(output, found)
    for what in (Identity("Secret", found.startup), Identity("ConfigMap", found.local)):
        _own(output, cluster, what)
        cluster.delete(what)
    record(output, None)
    return found


def install(output: Output, cluster: Cluster, *, is_trial: bool = False) -> list[Identity]:
    """Make all objects of a staged kit, or correct those that are there.

    Args:
        output: as it is after `stage`: read it again.
        cluster: with the namespace.
        is_trial: the cluster says whether it would take them, and nothing is made.

    Returns:
        What was made.

    Raises:
        PrepareError: an object of that name is somebody else's.
        DeployError: the cluster refuses.
    """
    made = []
    for manifest in output.objects(cluster.namespace):
        what = Identity(manifest["kind"], manifest["metadata"]["name"])
        _own(output, cluster, what)
        cluster.apply(manifest, is_trial=is_trial)
        made.append(what)
    return made


def is_ready(output: Output, cluster: Cluster) -> bool:
    """Tell whether the site's pod is ready: the server serves, the client is registered."""
    found = cluster.get(Identity("Deployment", output.name))
    status = {} if found is None else found.get("status") or {}
    is_seen = found is not None and status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    return is_seen and status.get("readyReplicas", 0) >= 1 and not status.get("unavailableReplicas")


def wait_ready(output: Output, cluster: Cluster, *, timeout_s: float = _READY_S, poll_s: float = 2.0) -> None:
    """Return once the site's pod is ready.

    Raises:
        NotReady: it has not been in time.
        DeployError: the cluster refuses.
    """
    what = f"{output.values['participant']['kind']} {output.values['participant']['name']}"
    cluster.wait_until(lambda: is_ready(output, cluster), what, timeout_s=timeout_s, poll_s=poll_s)


def uninstall(output: Output, cluster: Cluster, *, with_workspace: bool = False) -> list[Identity]:
    """Delete all objects of a kit, and its jobs' pods; the claim of its workspace stays unless it is said.

    Returns:
        What was there.

    Raises:
        PrepareError: an object of that name is somebody else's.
        DeployError: the cluster refuses.
    """
    gone = []
    for manifest in reversed(output.objects(cluster.namespace)):
        what = Identity(manifest["kind"], manifest["metadata"]["name"])
        if what.kind == _KEPT and not with_workspace:
            continue
        _own(output, cluster, what)
        if cluster.delete(what):
            gone.append(what)
    for pod in cluster.all("Pod", output.labels):
        gone.append(Identity("Pod", pod["metadata"]["name"]))
        cluster.delete(gone[-1])
    return gone


def record(output: Output, names: Staged | None) -> None:
    """Write what is staged into the chart's values, the manifests and the kustomization; the rest stays as it was.

    Raises:
        PrepareError: a file cannot be written.
    """
    section = chart_values.staged()
    if names is not None:
        section = chart_values.staged(
            namespace=names.namespace,
            local=names.local,
            startup=names.startup,
            local_items=kit_files.local(output.root),
            startup_items=kit_files.startup(output.root),
            digest=kit_files.digest(output.root),
        )
    path = output.root / kubernetes.VALUES
    namespace = names.namespace if names is not None else namespace_of(output)
    values = {**output.values, staged.SECTION: section}
    try:
        text = path.read_text(encoding="utf-8")
        block = kubernetes.dumped({staged.SECTION: section})
        changed = _SECTION.sub(lambda _: block, text, count=1)
        for name, content in kubernetes.plain(output.root, values, chart=output.chart, namespace=namespace).items():
            write_atomically(output.root / name, content.encode(), mode=0o644)
        write_atomically(path, changed.encode(), mode=0o644)
    except OSError as exc:
        hint = "make room there, or correct its owner, and do it again"
        raise PrepareError(f"{path} cannot be written", why=exc.strerror or str(exc), hint=hint) from exc


def namespace_of(output: Output) -> str:
    """Return the namespace that a kit is staged in, or else was prepared for."""
    found = _recorded(output)
    if found is not None:
        return found.namespace
    document = loaded((output.root / kubernetes.KUSTOMIZATION).read_bytes())
    return str(document["namespace"])


def _names(output: Output, namespace: str, local: str | None, startup: str | None) -> Staged:
    before = _recorded(output)
    found = Staged(
        namespace,
        local or (before.local if before else local_name(output.values)),
        startup or (before.startup if before else startup_name(output.values)),
        warnings=_warnings(output),
    )
    if before is not None and (before.namespace, before.local, before.startup) != (
        namespace,
        found.local,
        found.startup,
    ):
        raise _elsewhere(output, before)
    return found


def _recorded(output: Output) -> Staged | None:
    found = staged.names(output.root)
    if not found.keys() & {"local", "startup"}:
        return None
    return Staged(found.get("namespace", ""), found.get("local", ""), found.get("startup", ""))


def _files(output: Output, names: Staged) -> list[dict[str, Any]]:
    return [
        kit_files.config_map(output.root, names.local, output.labels),
        kit_files.secret(output.root, names.startup, output.labels),
    ]


def _warnings(output: Output) -> tuple[str, ...]:
    sizes = {folder: kit_files.size(output.root, folder) for folder in ("local", "startup")}
    return tuple(
        f"{folder}/ has {size} bytes, and a cluster takes no more than {kit_files.LIMIT_BYTES}"
        for folder, size in sizes.items()
        if size > kit_files.WARN_BYTES
    )


def _own(output: Output, cluster: Cluster, what: Identity) -> None:
    """Refuse to touch what is somebody else's."""
    found = cluster.get(what)
    labels = {} if found is None else found["metadata"].get("labels") or {}
    wanted = dict(output.labels)
    del wanted[labels_of.MANAGED_BY]  # Helm may have made it
    if found is not None and not wanted.items() <= labels.items():
        raise PrepareError(
            f"{what.kind} {what.name} of the namespace {cluster.namespace} is not changed",
            why="it is there, and it is not this site's",
            hint="name another namespace, or other names with --local-configmap and --startup-secret",
        )


def _elsewhere(output: Output, found: Staged) -> OutputStaged:
    return OutputStaged(
        f"{output.root} is staged",
        why=f"the namespace {found.namespace} has its files, as {found.local} and {found.startup}",
        hint=f"clouddeploy prepare k8s unstage {output.root}, then stage it anew",
    )


def _nothing(root: Path, why: str) -> InvalidArguments:
    return InvalidArguments(
        f"{root} is no kit prepared for Kubernetes", why=why, hint="clouddeploy prepare KIT --config FILE makes one."
    )
