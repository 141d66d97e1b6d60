"""Which builders there are, what their arguments may be, and where a user's own come from."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_provision.builders import reference_api
from clouddeploy_provision.errors import BuilderFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

REFERENCE = "nvflare.lighter.impl"
OURS = "clouddeploy_provision.builders"
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")
"""Name of a container image; nothing in it means anything to a shell."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.ASCII)

Rule = tuple["Callable[[Any], bool]", str]


@dataclass(frozen=True)
class Step:
    """One entry of `builders`, or the `packager`."""

    path: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def _is_days(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 36_500  # noqa: PLR2004 - 100 years


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_degree(value: Any) -> bool:
    # SEAL's: a power of two; above, its tables of secure moduli end.
    return _is_natural(value) and 1024 <= value <= 32_768 and value & (value - 1) == 0  # noqa: PLR2004


def _is_bits(value: Any) -> bool:
    return _is_natural(value) and value <= 60  # noqa: PLR2004 - SEAL's largest modulus


def _is_bit_list(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 64 and all(map(_is_bits, value))  # noqa: PLR2004 - SEAL's


def _is_templates(value: Any) -> bool:
    return all(map(_is_text, value)) if isinstance(value, list) else _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and IMAGE.fullmatch(value) is not None


def _one_of(*allowed: str) -> Rule:
    return (lambda value: isinstance(value, str) and value in allowed), f"must be one of {', '.join(allowed)}"


_ANY: Rule = (lambda _value: True), ""
_DAYS: Rule = _is_days, "must be a whole number of days, 1 or more"
_FLAG: Rule = (lambda value: isinstance(value, bool)), "must be true or false"
_TEXT: Rule = _is_text, "must be text"
_IMAGE_NAME: Rule = _is_image, "must be the name of a container image, for example registry.example.com/fl:1.0"

_TEMPLATES: dict[str, Rule] = {"template_file": (_is_templates, "must be the name of a file or a list of them")}
_STOCK = frozenset({"master_template.yml", "aws_template.yml", "azure_template.yml", "edge_template.yml"})
"""Template files that the reference ships; what they say, our kits say in files of their own."""
_STATIC_FILES: dict[str, Rule] = {
    "config_folder": _TEXT,
    "scheme": _one_of("grpc", "http", "tcp"),
    "app_validator": _TEXT,
    "download_job_url": _TEXT,
    "docker_image": _IMAGE_NAME,
    "overseer_agent": _ANY,  # obsolete in the reference too
    # Of older files; see warnings().
    "snapshot_persistor": _ANY,
    "components": _ANY,
    "enable_byoc": (lambda value: value is True, "has no effect any more; forbid own code in local/authorization.json"),
    "require_signed_jobs": _FLAG,
}


@dataclass(frozen=True)
class Bundled:
    """One bundled builder."""

    reference: str
    """Module and class below the reference's package."""
    args: Mapping[str, Rule] = field(default_factory=dict)
    ours: str = ""
    """Module and class below this package; empty: every kit has what it makes, listed or not."""


BUNDLED: tuple[Bundled, ...] = (
    Bundled("workspace.WorkspaceBuilder", _TEMPLATES),
    Bundled("template.TemplateBuilder", _TEMPLATES),
    Bundled("static_file.StaticFileBuilder", _STATIC_FILES, "docker.ImageScriptBuilder"),
    Bundled("cert.CertBuilder", {"root_valid_days": _DAYS, "key_algorithm": _one_of("ecdsa-p256", "rsa-2048")}),
    Bundled("signature.SignatureBuilder"),
    Bundled("aws.AWSBuilder", {}, "cloud_scripts.AwsBuilder"),
    Bundled("azure.AzureBuilder", {}, "cloud_scripts.AzureBuilder"),
    Bundled("docker.DockerBuilder", {"base_image": _IMAGE_NAME, "requirements_file": _TEXT}, "docker.DockerBuilder"),
    Bundled(
        "he.HEBuilder",
        {
            "poly_modulus_degree": (_is_degree, "must be a power of two, 1024 to 32768"),
            "coeff_mod_bit_sizes": (_is_bit_list, "must be a list of two or more whole numbers, each 60 at most"),
            "scale_bits": (_is_bits, "must be a whole number, 1 to 60"),
            "scheme": _one_of("CKKS"),
        },
        "homomorphic.HEBuilder",
    ),
    Bundled("zip.ZipBuilder", {"password": _one_of("generate", "environment", "ask")}, "archive.ZipBuilder"),
)
_BY_PATH: dict[str, Bundled] = {f"{REFERENCE}.{one.reference}": one for one in BUNDLED}
_BY_PATH |= {f"{OURS}.{one.ours}": one for one in BUNDLED if one.ours}
_CONFIDENTIAL = "confidential computing is not supported"
_NOT_SUPPORTED = {
    "EdgeBuilder": "generated trees of simulated sites are not supported; write the relays and clients down",
    "CCBuilder": _CONFIDENTIAL,
    "OnPremPackager": _CONFIDENTIAL,
    "HelmChartBuilder": "charts are not made with the kits",
    "DistributionBuilder": "its encryption is broken; use nvflare.lighter.impl.zip.ZipBuilder",
}
"""Builders of the reference, wherever it has them, that are known but have no counterpart here."""


@dataclass(frozen=True)
class Custom:
    """Where builders that are not bundled come from.

    Args:
        folder: the folder given with `-c`; None: nowhere, such a builder is refused.
    """

    folder: Path | None = None

    def load(self, path: str) -> type:
        """Import a class by its dotted path.

        Raises:
            BuilderFailed: there is no such module or class, or importing it fails.
        """
        module_name, _, class_name = path.rpartition(".")
        try:
            with self.importable():
                found = getattr(importlib.import_module(module_name), class_name)
        except (Exception, SystemExit) as exc:
            hint = f"put {module_name.partition('.')[0]}.py into {self.folder} or name its folder with -c"
            if "nvflare" in str(exc):
                hint = (
                    "of the reference only Builder, Packager, Project, Participant, ProvisionContext, CtxKey and"
                    " ParticipantType are here; install nvflare to use more of it"
                )
            raise BuilderFailed(f"{path} cannot be loaded", why=f"{type(exc).__name__}: {exc}", hint=hint) from exc
        if not isinstance(found, type):
            raise BuilderFailed(f"{path} cannot be loaded", why="it is not a class")
        return found

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let modules in the folder, and the reference's names, be imported for a while."""
        folder = str(self.folder.resolve()) if self.folder else ""
        # Last, as in the reference: a json.py that happens to lie there must not stand for the library's.
        sys.path.append(folder)
        importlib.invalidate_caches()
        try:
            with reference_api.importable():
                yield
        finally:
            sys.path.remove(folder)


def is_custom(step: Step) -> bool:
    """Tell whether this is a user's own builder."""
    return step.path not in _BY_PATH


def problems(path: str, args: Mapping[str, Any], custom: Custom) -> Iterator[tuple[str, str]]:
    """Yield (key, rule) for each thing that is wrong with one builder."""
    class_name = path.rpartition(".")[2]
    if path.startswith("nvflare.") and class_name in _NOT_SUPPORTED:
        yield "path", f"{class_name}: {_NOT_SUPPORTED[class_name]}"
        return
    bundled = _BY_PATH.get(path)
    if bundled is None:
        if custom.folder is None or _DOTTED.fullmatch(path) is None or path.startswith(("nvflare.", f"{OURS}.")):
            near = difflib.get_close_matches(path, sorted(_BY_PATH), n=1, cutoff=0.8)
            names = ", ".join(one.reference for one in BUNDLED)
            known = f"did you mean {near[0]}?" if near else f"known are, below {REFERENCE}: {names}"
            yield "path", f"unknown builder {path}; {known}; your own need -c FOLDER"
        return
    for name in sorted(set(args) - set(bundled.args)):
        known = f"known are {', '.join(sorted(bundled.args))}" if bundled.args else "it has none"
        yield f"args.{name}", f"unknown argument; {known}"
    for name, value in args.items():
        rule = bundled.args.get(name)
        if rule is not None and value not in (None, "") and not rule[0](value):
            yield f"args.{name}", rule[1]


def warnings(step: Step) -> Iterator[str]:
    """Say what is allowed in a builder's arguments but has no effect."""
    if step.path not in _BY_PATH:
        return
    given = step.args.get("template_file") or []
    for name in [given] if isinstance(given, str) else given:
        if name not in _STOCK:
            yield f"template_file {name} is not read; to change kits, write a builder (ctx.load_templates reads it)"
    for name in ("snapshot_persistor", "components", "enable_byoc"):
        if step.args.get(name):
            yield f"{name} of {step.class_name} is ignored, as in the reference's newer versions"
    agent = step.args.get("overseer_agent")
    if isinstance(agent, dict) and agent.get("overseer_exists"):
        yield "overseer_agent is ignored: there is one server and no overseer"


def argument(steps: Sequence[Step], class_name: str, name: str) -> Any:
    """Return an argument of the last builder of this class, or None."""
    value = None
    for step in steps:
        if step.class_name == class_name:
            value = step.args.get(name, value)
    return value


def make(step: Step, custom: Custom) -> Any:
    """Make the builder that a step names; None when every kit has what it makes anyhow.

    Raises:
        BuilderFailed: it cannot be loaded or does not take its arguments.
    """
    bundled = _BY_PATH.get(step.path)
    if bundled is not None and not bundled.ours:
        return None
    if bundled is not None:
        module, _, name = bundled.ours.rpartition(".")
        found = getattr(importlib.import_module(f"{OURS}.{module}"), name)
    else:
        found = custom.load(step.path)
    # An argument without a value means the default.
    args = {name: value for name, value in step.args.items() if bundled is None or value not in (None, "")}
    try:
        return found(**args)
    except (Exception, SystemExit) as exc:
        raise BuilderFailed(
            f"{step.path} cannot be made", why=f"{type(exc).__name__}: {exc}", hint="see its args"
        ) from exc
