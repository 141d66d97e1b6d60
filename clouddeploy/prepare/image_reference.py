"""References to container images, taken apart as registries read them."""

from __future__ import annotations

from dataclasses import dataclass

LATEST = "latest"


@dataclass(frozen=True)
class ImageReference:
    """One image.

    Attributes:
        repository: with its registry, which may have a port.
        tag: empty: none was given.
        digest: `sha256:…`; names one image for ever. Empty: none was given.
    """

    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def may_change(self) -> bool:
        """Whether it may be another image tomorrow."""
        return not self.digest


def parse(reference: str) -> ImageReference:
    """Take a reference apart.

    A colon is a tag's only behind the last slash: `registry:5000/image` has a port and no tag.
    """
    rest, _, digest = reference.partition("@")
    head, slash, last = rest.rpartition("/")
    name, _, tag = last.partition(":")
    return ImageReference(f"{head}{slash}{name}", tag, digest)
