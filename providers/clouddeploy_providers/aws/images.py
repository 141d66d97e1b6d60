"""The image to start from: Canonical's Ubuntu 24.04, by its public parameter, pinned once resolved.

Source:
    https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.sizes import architecture_of
from clouddeploy_providers.errors import AccessDenied, InvalidRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

CANONICAL = {"aws": "099720109477", "aws-us-gov": "513442679011", "aws-cn": "837727238323"}
"""Canonical's account by partition: an account's number means somebody else in another one."""
PARAMETER = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
PATTERN = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{arch}-server-*"
"""Not `-pro-`: those images carry an hourly fee."""


def newest(ssm: Any, ec2: Any, size: str, *, partition: str = "aws") -> str:
    """Returns the newest image for the size's architecture; asks EC2 where SSM is not allowed or has none."""
    arch = "arm64" if architecture_of(size) == "arm64" else "amd64"
    try:
        with translated("the image parameter cannot be read"):
            return str(ssm.get_parameter(Name=PARAMETER.format(arch=arch))["Parameter"]["Value"])
    except (AccessDenied, NotFound):
        with translated("no Ubuntu 24.04 image can be found"):
            filters = [
                {"Name": "name", "Values": [PATTERN.format(arch=arch)]},
                {"Name": "state", "Values": ["available"]},
            ]
            owner = CANONICAL.get(partition)
            images = ec2.describe_images(Owners=[owner], Filters=filters)["Images"] if owner else []
        if not images:
            raise NotFound("no Ubuntu 24.04 image can be found", hint="name one in the deploy file: image") from None
        return str(max(images, key=lambda image: str(image["CreationDate"]))["ImageId"])


def described(ec2: Any, image: str) -> Mapping[str, Any]:
    """Returns what EC2 says of the image.

    Raises:
        InvalidRequest: there is none of that id here.
    """
    with translated(f"the image {image} cannot be read"):
        found = ec2.describe_images(ImageIds=[image])["Images"]
    if not found:
        raise InvalidRequest(f"there is no image {image} here", hint="correct `image`; ids differ between regions")
    return dict(found[0])
