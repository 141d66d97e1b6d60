"""Whether a cluster has what an earlier `prepare` wrote: its names are in the values of the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy.prepare.errors import OutputStaged
from clouddeploy.yaml_file import loaded

if TYPE_CHECKING:
    from pathlib import Path

VALUES = "helm_chart/values.yaml"
SECTION = "workspaceConfig"


def names(output: Path) -> dict[str, str]:
    """Return what is staged of an output: `namespace`, `local` and `startup`, as far as they are named.

    Raises:
        OutputStaged: the values cannot be read, so nobody knows.
    """
    path = output / VALUES
    try:
        document = loaded(path.read_bytes())
        section: Any = document.get(SECTION) or {}
        found = {
            "namespace": section.get("namespace"),
            "local": (section.get("local") or {}).get("configMapName"),
            "startup": (section.get("startup") or {}).get("secretName"),
        }
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as exc:
        raise OutputStaged(
            f"{path} cannot be read",
            why=f"it says whether a cluster has this kit, and: {exc}",
            hint="correct it, or name another folder with --output",
        ) from exc
    return {key: str(value) for key, value in found.items() if value}


def refuse(output: Path) -> None:
    """Refuse to write over what a cluster has.

    Raises:
        OutputStaged: it has.
    """
    found = names(output)
    if found.keys() & {"local", "startup"}:
        raise OutputStaged(
            f"{output} is staged",
            why=f"the namespace {found.get('namespace', '?')} has its files, and would not be known any more",
            hint=f"clouddeploy prepare k8s unstage {output}, then prepare again",
        )
