"""`prepare k8s`: the files of a prepared kit go into a cluster, and out of it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import printable

from clouddeploy.cli.main import CommandGroup, command_options

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session

_DIR = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_CONTEXT = click.option("--context", default="", help="Of the kubeconfig; default: its current one.")
_KUBECONFIG = click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: as kubectl finds it.")
_NAMESPACE = click.option("--namespace", help="Default: the one the kit was prepared for, or is staged in.")


@click.group(cls=CommandGroup)
def k8s() -> None:
    """Put the files of a kit that is prepared for Kubernetes into a cluster, or take them out of it."""


@k8s.command()
@_DIR
@_NAMESPACE
@_CONTEXT
@_KUBECONFIG
@click.option("--local-configmap", metavar="NAME", help="Of the ConfigMap with local/; default: nvflare-local-<site>.")
@click.option("--startup-secret", metavar="NAME", help="Of the Secret with startup/; default: nvflare-startup-<site>.")
@click.option(
    "--kubectl", type=click.Choice(["kubectl", "oc"]), help="Do nothing, and print the commands of this tool."
)
@command_options
def stage(
    session: Session,
    *,
    folder: Path,
    namespace: str | None,
    context: str,
    kubeconfig: Path | None,
    local_configmap: str | None,
    startup_secret: str | None,
    kubectl: str | None,
) -> None:
    """Make a ConfigMap of local/ and a Secret of startup/; their names go into the chart's values before."""
    from clouddeploy.prepare import cluster, staging  # noqa: PLC0415 - --help needs no cluster

    output = staging.read(folder)
    place = namespace or staging.namespace_of(output)
    commands: list[str] = []
    if kubectl is not None:
        made, commands = staging.print_only(
            output, namespace=place, kubectl=kubectl, local=local_configmap, startup=startup_secret
        )
    else:
        there = cluster.connect(namespace=place, context=context, kubeconfig=kubeconfig)
        made = staging.stage(output, there, local=local_configmap, startup=startup_secret)
    document = {**made.document(output, kubectl=kubectl or "kubectl"), "commands": commands}
    begin = "run these, then Helm:" if commands else f"staged {output.root} in the namespace {made.namespace}"
    lines = [begin, *(f"  {command}" for command in commands)]
    lines += [f"  {key.replace('_', ' ')}: {document[key]}" for key in ("helm_command", "cleanup_command")]
    lines += [f"  warning: {one}" for one in made.warnings]
    session.output.result(document, "\n".join(printable(line) for line in lines))


@k8s.command()
@_DIR
@_CONTEXT
@_KUBECONFIG
@command_options
def unstage(session: Session, *, folder: Path, context: str, kubeconfig: Path | None) -> None:
    """Remove the ConfigMap and the Secret that `stage` has made, and nothing else."""
    from clouddeploy.prepare import cluster, staging  # noqa: PLC0415 - --help needs no cluster

    output = staging.read(folder)
    there = cluster.connect(namespace=staging.namespace_of(output), context=context, kubeconfig=kubeconfig)
    gone = staging.unstage(output, there)
    if gone is None:
        session.output.result({"removed": []}, "nothing was staged")
        return
    removed = [f"configmap/{gone.local}", f"secret/{gone.startup}"]
    text = f"removed {' and '.join(removed)} from the namespace {gone.namespace}"
    session.output.result({"namespace": gone.namespace, "removed": removed}, printable(text))
