"""What a parent says of its Python, its packages, and of those variables that are known to be no secrets."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import _version

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTRIBUTION = "clouddeploy-runtime"
VARIABLES = frozenset(
    {
        "CLOUDDEPLOY_BIND",
        "CLOUDDEPLOY_DATA_DIR",
        "CLOUDDEPLOY_HEARTBEAT_S",
        "CLOUDDEPLOY_SUPERVISED",
        "CLOUDDEPLOY_WORKSPACE",
        "CUDA_VISIBLE_DEVICES",
        "HOME",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "MKL_NUM_THREADS",
        "NVFL_JOB_STORE_ROOT",
        "NVFL_WORKSPACE",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "PYTHONPATH",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
"""Names of the variables that are shown. Proxies are not among them: their addresses may hold a password."""
_MAX_VALUE = 1000
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def report(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `versions` by package, `platform`, and `environment`, the variables of `VARIABLES` that are set.

    Args:
        environment: all variables; this process's when not given.
    """
    given = os.environ if environment is None else environment
    return {
        "versions": _versions(),
        "platform": platform.platform(),
        "python": sys.version,
        "executable": sys.executable,
        "environment": {name: given[name][:_MAX_VALUE] for name in sorted(VARIABLES) if name in given},
    }


def versions_in_short() -> dict[str, Any]:
    """Return the `version` of this package, and that of `python`."""
    return {"version": _version.__version__, "python": platform.python_version()}


def _versions() -> dict[str, str]:
    """Return the versions of this package and of those that it needs."""
    found = {DISTRIBUTION: _version.__version__}
    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # it runs from a folder of sources
        return found
    for requirement in wanted:
        name = _NAME.match(requirement)
        if name is not None and "extra ==" not in requirement:
            found[name[0]] = _version_of(name[0])
    return found


def _version_of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"
