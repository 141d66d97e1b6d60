"""The reference's builders by their dotted paths, and what each of their arguments means here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_IMPL = "nvflare.lighter.impl"

_ACCEPTED: dict[str, frozenset[str]] = {
    f"{_IMPL}.workspace.WorkspaceBuilder": frozenset({"template_file"}),
    f"{_IMPL}.template.TemplateBuilder": frozenset({"template_file"}),
    f"{_IMPL}.static_file.StaticFileBuilder": frozenset(
        {"config_folder", "scheme", "app_validator", "download_job_url", "overseer_agent", "require_signed_jobs"}
    ),
    f"{_IMPL}.cert.CertBuilder": frozenset({"root_valid_days"}),
    f"{_IMPL}.signature.SignatureBuilder": frozenset(),
    # Every kit's start.sh understands --cloud, so these two have nothing to add.
    f"{_IMPL}.aws.AWSBuilder": frozenset(),
    f"{_IMPL}.azure.AzureBuilder": frozenset(),
}
"""Dotted path → the arguments it may have."""

_NOT_YET = {f"{_IMPL}.docker.DockerBuilder", f"{_IMPL}.he.HEBuilder", f"{_IMPL}.edge.EdgeBuilder"}

_SCHEMES = ("grpc", "http", "tcp")


def problems(path: str, args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, rule) for each thing that is wrong with one builder."""
    if path in _NOT_YET:
        yield "path", f"{path} is not yet supported"
        return
    allowed = _ACCEPTED.get(path)
    if allowed is None:
        yield "path", f"unknown builder {path}; known are {', '.join(sorted(_ACCEPTED))}"
        return
    for name in sorted(set(args) - allowed):
        yield (
            f"args.{name}",
            "unknown argument; " + (f"known are {', '.join(sorted(allowed))}" if allowed else "it has none"),
        )
    days = args.get("root_valid_days")
    if days is not None and (isinstance(days, bool) or not isinstance(days, int) or days < 1):
        yield "args.root_valid_days", "must be a whole number of days, 1 or more"
    scheme = args.get("scheme", "grpc")
    if scheme not in _SCHEMES:
        yield "args.scheme", f"must be one of {', '.join(_SCHEMES)}"
    signed = args.get("require_signed_jobs")
    if signed is not None and not isinstance(signed, bool):
        yield "args.require_signed_jobs", "must be true or false"


def argument(builders: Sequence[tuple[str, Mapping[str, Any]]], class_name: str, name: str) -> Any:
    """Return an argument of the last builder of this class, or None."""
    value = None
    for path, args in builders:
        if path.rpartition(".")[2] == class_name:
            value = args.get(name, value)
    return value
