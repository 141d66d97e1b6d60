"""The image to start from: Canonical's Ubuntu 24.04, the newest version, pinned once resolved."""

from __future__ import annotations

from typing import Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.errors import InvalidRequest, NotFound

PUBLISHER, OFFER, SKU, ARM_SKU = "Canonical", "ubuntu-24_04-lts", "server", "server-arm64"
LATEST = "latest"
TRUSTED_LAUNCH = frozenset({"TrustedLaunch", "TrustedLaunchSupported", "TrustedLaunchAndConfidentialVmSupported"})
ARCHITECTURES = {"x64": "x86_64", "Arm64": "arm64"}


def newest(compute: Any, location: str, *, publisher: str = PUBLISHER, offer: str = OFFER, sku: str = SKU) -> str:
    """Returns `publisher:offer:sku:version` of the newest version, of Ubuntu where nothing else is named."""
    with translated(f"the versions of {publisher}:{offer}:{sku} in {location} cannot be listed"):
        versions = [str(one.name) for one in compute.virtual_machine_images.list(location, publisher, offer, sku)]
    if not versions:
        raise NotFound(
            f"there is no image {publisher}:{offer}:{sku} in {location}", hint="name another in the deploy file: image"
        )
    latest = max(versions, key=lambda version: [int(part) for part in version.split(".") if part.isdecimal()])
    return f"{publisher}:{offer}:{sku}:{latest}"


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


def pinned(compute: Any, location: str, image: str) -> str:
    """Returns the image with a version in place of `latest`, which would mean another one tomorrow."""
    named = reference(image)
    if named.get("version") != LATEST:
        return image
    return newest(compute, location, publisher=named["publisher"], offer=named["offer"], sku=named["sku"])


def properties(compute: Any, location: str, image: str) -> Any:
    """Returns what Azure says about an image of a publisher: architecture, generation, features.

    Raises:
        InvalidRequest: there is none of this name and version here.
    """
    named = reference(image)
    try:
        with translated(f"the image {image} cannot be read"):
            return compute.virtual_machine_images.get(
                location, named["publisher"], named["offer"], named["sku"], named["version"]
            ).properties
    except NotFound as error:
        raise InvalidRequest(f"there is no image {image} in {location}", hint="correct `image`") from error


def allows_trusted_launch(compute: Any, location: str, image: str) -> bool:
    """Whether machines of this image may boot securely: of the default one it is known, of others Azure is asked.

    Your own images (by ARM id) get it only where they were made for it, which their id does not tell, so they do not.
    """
    named = reference(image)
    if "id" in named:
        return False
    if (named["publisher"], named["offer"], named["sku"]) == (PUBLISHER, OFFER, SKU):
        return True
    features = properties(compute, location, image).features
    return any(str(one.name) == "SecurityType" and str(one.value) in TRUSTED_LAUNCH for one in features or [])
