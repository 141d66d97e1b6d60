"""The body of a virtual machine. Pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.azure.images import reference
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.naming import tags

if TYPE_CHECKING:
    from clouddeploy_providers.resources import Resource

DEFAULT_SIZE = "Standard_B2s"
HOST_NAME_MAX = 63


def machine(
    resource: Resource, location: str, *, interface: str, image: str, is_trusted_launch: bool
) -> dict[str, Any]:
    """Returns the body: one key, no password, disk and interface that leave with it, secure boot where the image can.

    Args:
        resource: the machine wanted.
        location: Azure's name of the region.
        interface: ARM id of its network interface.
        image: `publisher:offer:sku:version`, pinned, or an ARM id.
        is_trusted_launch: whether the image allows secure boot.
    """
    spec = resource.machine
    if spec is None:
        raise InvalidRequest(f"{resource.name} lacks its machine")
    secure = {"uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True}, "securityType": "TrustedLaunch"}
    key = {"path": f"/home/{spec.user}/.ssh/authorized_keys", "keyData": spec.public_key}
    return {
        "location": location,
        "tags": {**tags(resource.owner, name=resource.name, kind=resource.kind), "clouddeploy:user": spec.user},
        "properties": {
            "hardwareProfile": {"vmSize": spec.size or DEFAULT_SIZE},
            "storageProfile": {
                "imageReference": reference(image),
                "osDisk": {
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
