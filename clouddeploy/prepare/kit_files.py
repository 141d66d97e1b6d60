"""The files of a prepared kit as a cluster keeps them: keys of a ConfigMap and of a Secret, and what each holds."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.outposts.kube import names

from clouddeploy.prepare.errors import InvalidKit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIMIT_BYTES = 1 << 20
"""Of a ConfigMap or a Secret: the cluster's store takes no more (kubernetes.io/docs/concepts/configuration/secret)."""
WARN_BYTES = 900 << 10
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,240}")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_NOT_PLAIN = re.compile(r"[^-._a-zA-Z0-9]")


def local(root: Path) -> dict[str, str]:
    """Return key → path of the files of `local/`."""
    return _keys(root / "local")


def startup(root: Path) -> dict[str, str]:
    """Return key → path of the files of `startup/`."""
    return _keys(root / "startup")


def _keys(folder: Path) -> dict[str, str]:
    """Keys are names without slashes: a file of a folder gets one of its path and of a hash of it."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {_key(path): path for path in paths}


def _key(path: str) -> str:
    if _KEY.fullmatch(path) and not path.startswith(".."):
        return path
    return f"{_NOT_PLAIN.sub('_', path)[:200]}.{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def config_map(root: Path, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the ConfigMap of `local/`.

    Raises:
        InvalidKit: a private key is among the files, or they are too large.
    """
    folder = root / "local"
    text: dict[str, str] = {}
    binary: dict[str, str] = {}
    for key, path in local(root).items():
        data = (folder / path).read_bytes()
        if _PRIVATE_KEY.search(data):
            raise InvalidKit(
                f"local/{path} cannot be given to a cluster",
                why="it holds a private key, and whoever reads ConfigMaps would read it",
                hint="take it out of local/; a study's secrets are named in local/study_runtime.yaml",
            )
        try:
            text[key] = data.decode()
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(data).decode()
    _fits("local/", size(root, "local"))
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": dict(labels)}, "data": text}
    return {**made, "binaryData": binary} if binary else made


def secret(root: Path, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the Secret of `startup/`.

    Raises:
        InvalidKit: the files are too large.
    """
    folder = root / "startup"
    _fits("startup/", size(root, "startup"))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": dict(labels)},
        "type": "Opaque",
        "data": {key: base64.b64encode((folder / path).read_bytes()).decode() for key, path in startup(root).items()},
    }


def size(root: Path, folder: str) -> int:
    """Return the bytes of all files of one folder of a kit."""
    return sum(path.stat().st_size for path in (root / folder).rglob("*") if path.is_file())


def digest(root: Path) -> str:
    """Return a digest over all files that a cluster gets, with their names."""
    total = hashlib.sha256()
    for folder, files in (("local", local(root)), ("startup", startup(root))):
        for path in files.values():
            total.update(f"{folder}/{path}\0".encode())
            total.update(hashlib.sha256((root / folder / path).read_bytes()).digest())
    return total.hexdigest()


def labels(project: str, site: str) -> dict[str, str]:
    """Return the labels by which what is staged is known as a site's own."""
    return {names.MANAGED_BY: names.PART_OF, **names.owner(project, site)}


def _fits(what: str, found: int) -> None:
    if found > LIMIT_BYTES:
        raise InvalidKit(
            f"{what} cannot be given to a cluster",
            why=f"it has {found} bytes, and a cluster takes {LIMIT_BYTES}",
            hint="build code and data of the site's own into its image",
        )
