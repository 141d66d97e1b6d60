"""A job folder's `meta.json`, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.jobs.archive import invalid, is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ALL_SITES = "@ALL"
SERVER = "server"


@dataclass(frozen=True)
class JobSpec:
    """A job folder's `meta.json`, checked."""

    name: str
    deploy_map: Mapping[str, tuple[str, ...]]
    """Folder of the job → the sites that run it."""
    min_clients: int

    def app_for(self, site: str) -> str | None:
        """Return the folder that a site runs; its own name wins over `@ALL`; None when it takes no part."""
        for app, sites in self.deploy_map.items():
            if site in sites:
                return app
        return next((app for app, sites in self.deploy_map.items() if ALL_SITES in sites), None)

    @property
    def named_sites(self) -> frozenset[str]:
        """The clients that the deploy map names one by one."""
        return frozenset(site for sites in self.deploy_map.values() for site in sites) - {ALL_SITES, SERVER}


def parse_meta(document: Any) -> JobSpec:
    """Parse `meta.json`.

    Raises:
        InvalidJob: names the key and what it should be.
    """
    if not isinstance(document, dict):
        raise invalid("meta.json is not an object")
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise invalid('meta.json: "name" must be text')
    raw = document.get("deploy_map")
    if not isinstance(raw, dict) or not raw:
        raise invalid('meta.json: "deploy_map" must name at least one app')
    deploy_map: dict[str, tuple[str, ...]] = {}
    for app, sites in raw.items():
        if not is_plain(app) or not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
            raise invalid(f'meta.json: deploy_map "{app}" must be a folder name with a list of sites')
        deploy_map[app] = tuple(sites)
    min_clients = document.get("min_clients", 1)
    if not isinstance(min_clients, int) or isinstance(min_clients, bool) or min_clients < 1:
        raise invalid('meta.json: "min_clients" must be a whole number from 1')
    spec = JobSpec(name=name, deploy_map=deploy_map, min_clients=min_clients)
    if spec.app_for(SERVER) is None:
        raise invalid('meta.json: the deploy_map has no app for "server"')
    return spec


def load(folder: Path) -> JobSpec:
    """Read and check a job folder.

    Raises:
        InvalidJob: meta.json is missing or wrong, or an app of the deploy map has no folder.
    """
    try:
        document = json.loads((folder / "meta.json").read_bytes())
    except OSError as exc:
        raise invalid(f"{folder / 'meta.json'}: {exc.strerror}") from exc
    except ValueError as exc:
        raise invalid(f"meta.json is not JSON: {exc}") from exc
    spec = parse_meta(document)
    for app in spec.deploy_map:
        if not (folder / app).is_dir():
            raise invalid(f'the deploy_map names the app "{app}", but there is no such folder')
    return spec
