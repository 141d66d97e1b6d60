"""A container image that runs a site instead of a Python environment of ours, and what goes to the machine for that."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = {"container.sh": 0o755, "container_end.sh": 0o755, "container_check.py": 0o644}
"""What an environment is made of: what runs in the image, what ends that, what the image is checked with; and modes."""
UNIT = "container.service"


@dataclass(frozen=True)
class Image:
    """What a site's environment is made from where it runs in a container.

    Attributes:
        reference: as an engine takes it, e.g. `ghcr.io/org/train:1.2`.
        module: what runs the site, which the image's python3 must be able to import.
        version: of that, as it is here; another is worth a warning. Empty: any will do.
        packages: what the kit asks for besides, by name.
        is_newest: whether the reference is looked up anew; else a site stays with the image that it led to before.
    """

    reference: str
    module: str
    version: str = ""
    packages: tuple[str, ...] = ()
    is_newest: bool = False

    def words(self, tools: str) -> tuple[str, ...]:
        """Returns the words after `contain ROOT` of `bootstrap.sh`, with the digest of the tools there."""
        when = "newest" if self.is_newest else "kept"
        return (self.reference, tools, when, self.module, self.version, *self.packages)


def write_tools(folder: Path) -> None:
    """Writes what an environment is made of into an empty folder."""
    for name, mode in TOOLS.items():
        file = folder / name
        file.write_bytes(resources.files("clouddeploy.remote").joinpath(name).read_bytes())
        file.chmod(mode)
