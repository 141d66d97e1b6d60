"""What Resource Manager accepts in the bodies of the resource types we use; it refuses everything else.

Source:
    https://github.com/Azure/bicep-types-az (required, read-only and unknown properties, types, enumerations)
"""

from __future__ import annotations

from typing import Any

READ_ONLY = frozenset(
    {"id", "type", "etag", "provisioningState", "resourceGuid", "vmId", "ipAddress", "virtualMachine"}
)
TEXT, NUMBER, FLAG, ANY = "string", "integer", "boolean", "any"

ID = {"id!": TEXT}
TAGS: dict[str, Any] = {"*": TEXT}
RULE = {
    "name!": TEXT,
    "properties!": {
        "priority!": NUMBER,
        "direction!": ("Inbound", "Outbound"),
        "access!": ("Allow", "Deny"),
        "protocol!": ("Tcp", "Udp", "Icmp", "Esp", "Ah", "*"),
        "description": TEXT,
        "sourceAddressPrefix": TEXT,
        "sourceAddressPrefixes": [TEXT],
        "sourcePortRange": TEXT,
        "sourcePortRanges": [TEXT],
        "destinationAddressPrefix": TEXT,
        "destinationAddressPrefixes": [TEXT],
        "destinationPortRange": TEXT,
        "destinationPortRanges": [TEXT],
    },
}
SUBNET = {
    "name!": TEXT,
    "properties!": {
        "addressPrefix": TEXT,
        "addressPrefixes": [TEXT],
        "defaultOutboundAccess": FLAG,
        "networkSecurityGroup": ID,
        "natGateway": ID,
    },
}
IP_CONFIGURATION = {
    "name!": TEXT,
    "properties!": {
        "primary": FLAG,
        "privateIPAllocationMethod": ("Dynamic", "Static"),
        "privateIPAddress": TEXT,
        "privateIPAddressVersion": ("IPv4", "IPv6"),
        "subnet": ID,
        "publicIPAddress": ID,
    },
}
OS_DISK = {
    "name": TEXT,
    "createOption!": ("FromImage", "Empty", "Attach"),
    "deleteOption": ("Delete", "Detach"),
    "diskSizeGB": NUMBER,
    "caching": ("None", "ReadOnly", "ReadWrite"),
    "osType": ("Linux", "Windows"),
    "managedDisk": {"storageAccountType": ("Standard_LRS", "StandardSSD_LRS", "Premium_LRS", "PremiumV2_LRS")},
}
MACHINE = {
    "hardwareProfile!": {"vmSize!": TEXT},
    "storageProfile!": {
        "imageReference!": {"publisher!": TEXT, "offer!": TEXT, "sku!": TEXT, "version!": TEXT, "exactVersion": TEXT},
        "osDisk!": OS_DISK,
        "dataDisks": [ANY],
    },
    "osProfile!": {
        "computerName!": TEXT,
        "adminUsername!": TEXT,
        "adminPassword": TEXT,
        "customData": TEXT,
        "linuxConfiguration": {
            "disablePasswordAuthentication": FLAG,
            "provisionVMAgent": FLAG,
            "ssh": {"publicKeys": [{"path!": TEXT, "keyData!": TEXT}]},
        },
    },
    "securityProfile": {
        "securityType": ("TrustedLaunch", "ConfidentialVM", "Standard"),
        "encryptionAtHost": FLAG,
        "uefiSettings": {"secureBootEnabled": FLAG, "vTpmEnabled": FLAG},
    },
    "networkProfile!": {
        "networkInterfaces!": [{"id!": TEXT, "properties": {"primary": FLAG, "deleteOption": ("Delete", "Detach")}}]
    },
    "userData": TEXT,
}
PROPERTIES: dict[str, dict[str, Any]] = {
    "microsoft.network/publicipaddresses": {
        "publicIPAllocationMethod": ("Static", "Dynamic"),
        "publicIPAddressVersion": ("IPv4", "IPv6"),
        "idleTimeoutInMinutes": NUMBER,
        "deleteOption": ("Delete", "Detach"),
        "dnsSettings": {"domainNameLabel!": TEXT, "domainNameLabelScope": TEXT},
    },
    "microsoft.network/networksecuritygroups": {"securityRules": [RULE]},
    "microsoft.network/virtualnetworks": {"addressSpace!": {"addressPrefixes!": [TEXT]}, "subnets": [SUBNET]},
    "microsoft.network/networkinterfaces": {
        "ipConfigurations!": [IP_CONFIGURATION],
        "networkSecurityGroup": ID,
        "enableAcceleratedNetworking": FLAG,
    },
    "microsoft.compute/virtualmachines": MACHINE,
    # Born with a machine here and never by themselves; listed, read and deleted like everything else.
    "microsoft.compute/disks": {"creationData!": {"createOption!": ("Empty",)}, "diskSizeGB": NUMBER},
}
SKU = {"name": ("Basic", "Standard", "StandardV2"), "tier": ("Regional", "Global")}
PYTHON = {TEXT: str, NUMBER: int, FLAG: bool}


def problem(kind: str, body: dict[str, Any]) -> str:
    """Returns what Resource Manager would refuse in this body, or an empty text.

    Args:
        kind: the resource type in lower case; an empty text for a resource group.
        body: the request's body.
    """
    shape: dict[str, Any] = {"location!": TEXT, "tags": TAGS, "name": TEXT}
    if kind:
        shape |= {"sku": SKU, "zones": [TEXT], "properties": PROPERTIES[kind], "extendedLocation": ANY}
        if any(key.endswith("!") for key in PROPERTIES[kind]):
            shape["properties!"] = shape.pop("properties")
    return _check(body, shape, "")


def _check(value: Any, shape: Any, path: str) -> str:
    if shape == ANY:
        return ""
    if isinstance(shape, tuple):
        return "" if value in shape else f"The value '{value}' of '{path}' is not one of {', '.join(shape)}."
    if isinstance(shape, str):
        # bool is an int in Python, and JSON's true is no number.
        fits = isinstance(value, PYTHON[shape]) and (shape != NUMBER or not isinstance(value, bool))
        return "" if fits else f"The value of '{path}' must be of type {shape}."
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"The value of '{path}' must be an array."
        return next(
            (text for number, one in enumerate(value) if (text := _check(one, shape[0], f"{path}[{number}]"))), ""
        )
    return _check_object(value, shape, path)


def _check_object(value: Any, shape: dict[str, Any], path: str) -> str:
    if not isinstance(value, dict):
        return f"The value of '{path}' must be an object."
    known = {key.removesuffix("!"): part for key, part in shape.items()}
    for key in value:
        where = f"{path}.{key}".strip(".")
        if key in READ_ONLY and key not in known:
            return f"The property '{where}' is read-only."
        if key not in known and "*" not in known:
            return f"Could not find member '{key}' on object at '{path or 'the root'}'."
    missing = [key.removesuffix("!") for key in shape if key.endswith("!") and key.removesuffix("!") not in value]
    if missing:
        return f"Required parameter '{f'{path}.{missing[0]}'.strip('.')}' is missing (null)."
    parts = ((key, known.get(key, known.get("*")), one) for key, one in value.items() if one is not None)
    return next((text for key, part, one in parts if (text := _check(one, part, f"{path}.{key}".strip(".")))), "")
