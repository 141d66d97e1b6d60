"""Which builders there are, what their arguments may be, and where a user's own come from."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and IMAGE.fullmatch(value) is not None


def _one_of(*allowed: str) -> Rule:
    return (lambda value: isinstance(value, str) and value in allowed), f"must be one of {', '.join(allowed)}"


_ANY: Rule = (lambda _value: True), ""
_DAYS: Rule = _is_days, "must be a whole number of days, 1 or more"
_FLAG: Rule = (lambda value: isinstance(value, bool)), "must be true or false"
_NATURAL: Rule = _is_natural, "must be a whole number, 1 or more"
_TEXT: Rule = _is_text, "must be text"
_IMAGE_NAME: Rule = _is_image, "must be the name of a container image, for example registry.example.com/fl:1.0"

_TEMPLATES = {"template_file": _ANY}
_STATIC_FILES: dict[str, Rule] = {
    "config_folder": _TEXT,
    "scheme": _one_of("grpc", "http", "tcp"),
    "app_validator": _TEXT,
    "download_job_url": _TEXT,
    "docker_image": _IMAGE_NAME,
    "overseer_agent": _ANY,  # obsolete in the reference too
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
            "poly_modulus_degree": _NATURAL,
            "coeff_mod_bit_sizes": (
                lambda value: isinstance(value, list) and bool(value) and all(map(_is_natural, value)),
                "must be a list of whole numbers",
            ),
            "scale_bits": _NATURAL,
            "scheme": _one_of("CKKS"),
        },
        "homomorphic.HEBuilder",
    ),
    Bundled("zip.ZipBuilder", {"password": _one_of("generate", "environment", "ask")}, "archive.ZipBuilder"),
)
_BY_PATH: dict[str, Bundled] = {f"{REFERENCE}.{one.reference}": one for one in BUNDLED}
_BY_PATH |= {f"{OURS}.{one.ours}": one for one in BUNDLED if one.ours}
_NOT_SUPPORTED = {
    f"{REFERENCE}.edge.EdgeBuilder": "generated trees of simulated sites are not supported",
    f"{REFERENCE}.cc.CCBuilder": "confidential computing is not supported",
}


@dataclass(frozen=True)
class Custom:
    """Where builders that are not bundled come from.

    Args:
        folder: the folder given with `-c`; None: nowhere, such a builder is refused.
    """

    folder: Path | None = None

    def load(self, path: str) -> type:
        """Import a class by its dotted path, from the folder first.

        Raises:
            BuilderFailed: there is no such module or class, or importing it fails.
        """
        module_name, _, class_name = path.rpartition(".")
        folder = str(self.folder.resolve()) if self.folder else ""
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except Exception as exc:
            hint = f"put {module_name.partition('.')[0]}.py into {self.folder} or name its folder with -c"
            if "nvflare" in str(exc):
                hint = "import Builder from clouddeploy_provision.spec, where the reference has nvflare.lighter.spec"
            raise BuilderFailed(f"{path} cannot be loaded", why=f"{type(exc).__name__}: {exc}", hint=hint) from exc
        finally:
            sys.path.remove(folder)
        if not isinstance(found, type):
            raise BuilderFailed(f"{path} cannot be loaded", why="it is not a class")
        return found


def is_custom(step: Step) -> bool:
    """Tell whether this is a user's own builder."""
    return step.path not in _BY_PATH


def problems(path: str, args: Mapping[str, Any], custom: Custom) -> Iterator[tuple[str, str]]:
    """Yield (key, rule) for each thing that is wrong with one builder."""
    if path in _NOT_SUPPORTED:
        yield "path", f"{path}: {_NOT_SUPPORTED[path]}"
        return
    bundled = _BY_PATH.get(path)
    if bundled is None:
        if custom.folder is None or _DOTTED.fullmatch(path) is None or path.startswith((REFERENCE, OURS)):
            yield (
                "path",
                f"unknown builder {path}; known are {', '.join(sorted(_BY_PATH))}, and your own with -c FOLDER",
            )
        return
    for name in sorted(set(args) - set(bundled.args)):
        known = f"known are {', '.join(sorted(bundled.args))}" if bundled.args else "it has none"
        yield f"args.{name}", f"unknown argument; {known}"
    for name, value in args.items():
        rule = bundled.args.get(name)
        if rule is not None and value not in (None, "") and not rule[0](value):
            yield f"args.{name}", rule[1]


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
    try:
        return found(**step.args)
    except Exception as exc:
        raise BuilderFailed(
            f"{step.path} cannot be made", why=f"{type(exc).__name__}: {exc}", hint="see its args"
        ) from exc
