"""`startup/aws_start.sh` and `azure_start.sh`: the reference's names for `start.sh --cloud aws` and `--cloud azure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.kit import Kind

from clouddeploy_provision.kit_builder import fill
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_provision.kit_tree import SCRIPT, File
from clouddeploy_provision.spec import Builder

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.spec import Context


class _CloudBuilder(Builder):
    cloud = ""

    def build(self, project: Project, ctx: Context) -> None:
        """Add the script to the kits of server and clients."""
        script = fill(File(packaged("cloud_start.sh"), SCRIPT), {"@cloud@": self.cloud})
        for one in project.participants:
            if one.kind in {Kind.SERVER, Kind.CLIENT}:
                ctx.add_file(one, f"startup/{self.cloud}_start.sh", script.content, SCRIPT)


class AwsBuilder(_CloudBuilder):
    """Adds `startup/aws_start.sh`."""

    cloud = "aws"


class AzureBuilder(_CloudBuilder):
    """Adds `startup/azure_start.sh`."""

    cloud = "azure"
