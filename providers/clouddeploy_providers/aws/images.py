"""The image to start from: Canonical's Ubuntu 24.04, by its public parameter, pinned once resolved.

Source:
    https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/
"""

from __future__ import annotations

from typing import Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import AccessDenied, InvalidRequest, NotFound

CANONICAL = "099720109477"
PARAMETER = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
PATTERN = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{arch}-server-*"
"""Not `-pro-`: those images carry an hourly fee."""
ARM_FAMILIES = ("a1.", "t4g.", "m6g", "m7g", "m8g", "c6g", "c7g", "c8g", "r6g", "r7g", "r8g", "g5g.", "x2gd.")


def newest(ssm: Any, ec2: Any, size: str) -> str:
    """Returns the newest image for the size's architecture; asks EC2 where SSM is not allowed."""
    arch = "arm64" if size.startswith(ARM_FAMILIES) else "amd64"
    try:
        with translated("the image parameter cannot be read"):
            return str(ssm.get_parameter(Name=PARAMETER.format(arch=arch))["Parameter"]["Value"])
    except (AccessDenied, NotFound):
        with translated("no Ubuntu 24.04 image can be found"):
            filters = [
                {"Name": "name", "Values": [PATTERN.format(arch=arch)]},
                {"Name": "state", "Values": ["available"]},
            ]
            images = ec2.describe_images(Owners=[CANONICAL], Filters=filters)["Images"]
        if not images:
            raise NotFound("no Ubuntu 24.04 image can be found", hint="name one in the deploy file: image") from None
        return str(max(images, key=lambda image: str(image["CreationDate"]))["ImageId"])


def root_device(ec2: Any, image: str) -> str:
    """Returns the name of the image's root device."""
    with translated(f"the image {image} cannot be read"):
        found = ec2.describe_images(ImageIds=[image])["Images"]
    if not found:
        raise InvalidRequest(f"there is no image {image} here", hint="correct `image`; ids differ between regions")
    return str(found[0]["RootDeviceName"])
