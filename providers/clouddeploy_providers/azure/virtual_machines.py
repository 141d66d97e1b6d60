"""The body of a virtual machine. Pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.azure.images import reference
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.naming import PREFIX, tags

if TYPE_CHECKING:
    from clouddeploy_providers.resources import Resource

DEFAULT_SIZE = "Standard_B2s"
HOST_NAME_MAX = 63
DISK = "-disk"
TAG_USER = f"{PREFIX}:user"
TAG_EXPIRES = f"{PREFIX}:expires-at"


def machine(
    resource: Resource,
    location: str,
    *,
    interface: str,
    image: str,
    is_trusted_launch: bool,
    zone: str = "",
    has_gpu: bool = False,
) -> dict[str, Any]:
    """Returns the body: one key, no password, disk and interface that leave with it, secure boot where the image can.

    Its disk has a name of ours, since Azure offers no place for the tags of a disk that is born with its machine.

    Args:
        resource: the machine wanted.
        location: Azure's name of the region.
        interface: ARM id of its network interface.
        image: `publisher:offer:sku:version`, pinned, or an ARM id.
        is_trusted_launch: whether image and size allow it.
        zone: where it is to be; empty: anywhere in the location.
        has_gpu: then it boots without checking signatures, which would keep out the drivers that most images build
            (NVIDIA/open-gpu-kernel-modules#188); the rest of trusted launch stays.
    """
    spec = resource.machine
    if spec is None:
        raise InvalidRequest(f"{resource.name} lacks its machine")
    firmware = {"secureBootEnabled": not has_gpu, "vTpmEnabled": True}
    secure = {"uefiSettings": firmware, "securityType": "TrustedLaunch"}
    expiry = {TAG_EXPIRES: spec.expires_at} if spec.expires_at else {}
    key = {"path": f"/home/{spec.user}/.ssh/authorized_keys", "keyData": spec.public_key}
    return {
        "location": location,
        "tags": {**tags(resource.owner, name=resource.name, kind=resource.kind), TAG_USER: spec.user, **expiry},
        **({"zones": [zone]} if zone else {}),
        "properties": {
            "hardwareProfile": {"vmSize": spec.size or DEFAULT_SIZE},
            "storageProfile": {
                "imageReference": reference(image),
                "osDisk": {
                    "name": resource.name + DISK,
                    "createOption": "FromImage",
                    "deleteOption": "Delete",
                    "diskSizeGB": spec.disk_gib,
                    "managedDisk": {"storageAccountType": "StandardSSD_LRS"},  # encrypted at rest, always
                },
            },
            "osProfile": {
                "computerName": resource.name[:HOST_NAME_MAX],
                "adminUsername": spec.user,
                "customData": base64.b64encode(spec.user_data.encode()).decode(),
                "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
            },
            "networkProfile": {
                "networkInterfaces": [{"id": interface, "properties": {"primary": True, "deleteOption": "Delete"}}]
            },
            **({"securityProfile": secure} if is_trusted_launch else {}),
        },
    }
