"""The image to start from: Canonical's Ubuntu 24.04, the newest version, pinned once resolved."""

from __future__ import annotations

from typing import Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.errors import NotFound

PUBLISHER, OFFER, SKU = "Canonical", "ubuntu-24_04-lts", "server"


def newest(compute: Any, location: str) -> str:
    """Returns `publisher:offer:sku:version` of the newest image."""
    with translated(f"the Ubuntu images in {location} cannot be listed"):
        versions = [str(one.name) for one in compute.virtual_machine_images.list(location, PUBLISHER, OFFER, SKU)]
    if not versions:
        raise NotFound(f"there is no Ubuntu 24.04 image in {location}", hint="name one in the deploy file: image")
    latest = max(versions, key=lambda version: [int(part) for part in version.split(".")])
    return f"{PUBLISHER}:{OFFER}:{SKU}:{latest}"
