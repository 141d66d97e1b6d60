"""The image to start from: Canonical's Ubuntu 24.04, the newest version, pinned once resolved."""

from __future__ import annotations

from typing import Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.errors import InvalidRequest, NotFound

PUBLISHER, OFFER, SKU = "Canonical", "ubuntu-24_04-lts", "server"
TRUSTED_LAUNCH = frozenset({"TrustedLaunch", "TrustedLaunchSupported", "TrustedLaunchAndConfidentialVmSupported"})


def newest(compute: Any, location: str) -> str:
    """Returns `publisher:offer:sku:version` of the newest image."""
    with translated(f"the Ubuntu images in {location} cannot be listed"):
        versions = [str(one.name) for one in compute.virtual_machine_images.list(location, PUBLISHER, OFFER, SKU)]
    if not versions:
        raise NotFound(f"there is no Ubuntu 24.04 image in {location}", hint="name one in the deploy file: image")
    latest = max(versions, key=lambda version: [int(part) for part in version.split(".")])
    return f"{PUBLISHER}:{OFFER}:{SKU}:{latest}"


def reference(image: str) -> dict[str, str]:
    """Returns the body that names the image: one of a publisher, or one of your own by its ARM id.

    Raises:
        InvalidRequest: it is neither.
    """
    if image.startswith("/"):
        return {"id": image}
    parts = image.split(":")
    if len(parts) != 4 or not all(parts):  # noqa: PLR2004 - the four of Azure's URN
        raise InvalidRequest(
            f"{image!r} names no image",
            why="an image of Azure is publisher:offer:sku:version, or the id of one of your own",
            hint=f"for example {PUBLISHER}:{OFFER}:{SKU}:latest",
        )
    return dict(zip(("publisher", "offer", "sku", "version"), parts, strict=True))


def allows_trusted_launch(compute: Any, location: str, image: str) -> bool:
    """Whether machines of this image may boot securely: of the default one it is known, of others Azure is asked.

    Your own images (by ARM id) get it only where they were made for it, which their id does not tell, so they do not.
    """
    named = reference(image)
    if "id" in named:
        return False
    publisher, offer, sku, version = named["publisher"], named["offer"], named["sku"], named["version"]
    if (publisher, offer, sku) == (PUBLISHER, OFFER, SKU):
        return True
    try:
        with translated(f"the image {image} cannot be read"):
            features = compute.virtual_machine_images.get(location, publisher, offer, sku, version).properties.features
    except NotFound as error:
        raise InvalidRequest(f"there is no image {image} in {location}", hint="correct `image`") from error
    return any(str(one.name) == "SecurityType" and str(one.value) in TRUSTED_LAUNCH for one in features or [])
