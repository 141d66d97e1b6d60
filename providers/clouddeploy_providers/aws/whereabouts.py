"""Where in a network machines can be, and from what image: the check before a run learns it, and the run uses it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws import images, network, sizes
from clouddeploy_providers.once import Once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Subnets = list[tuple[str, str]]
"""Ids, each with its zone."""


class Whereabouts:
    """What EC2 says of network, subnets, sizes and images; each thing is asked once, by whichever thread is first.

    Args:
        ec2: the client for questions.
        settings: of the site: `vpc_id`, `subnet_id`.
    """

    def __init__(self, ec2: Any, settings: Mapping[str, str]) -> None:
        self._ec2 = ec2
        self._settings = settings
        self._once = Once()

    def vpc(self) -> str:
        """Returns the network to live in."""
        return self._once.get("vpc", partial(network.network_of, self._ec2, self._settings))

    def subnets(self) -> Subnets:
        """Returns the subnets of the network, or the one that is named."""
        return self._once.get("subnets", lambda: network.subnets_of(self._ec2, self.vpc(), self._settings))

    def public_subnets(self) -> Subnets:
        """Returns those of them that can be reached from outside."""
        return self._once.get("public", lambda: network.public_subnets(self._ec2, self.vpc(), self.subnets()))

    def offering(self, size: str, zones: Sequence[str]) -> Subnets:
        """Returns the subnets to try, in zones that offer the size.

        Of a whole network only what can be reached, if there is any; a subnet that somebody named is what he wants.

        Args:
            size: a name.
            zones: those wanted, in order; none: all.
        """

        def ask() -> Subnets:
            subnets = self.subnets() if self._settings.get("subnet_id") else self.public_subnets() or self.subnets()
            return sizes.zones_offering(self._ec2, size, network.in_zones(subnets, zones))

        return self._once.get((size, *zones), ask)

    def image(self, image: str) -> Mapping[str, Any]:
        """Returns what EC2 says of an image."""
        return self._once.get(image, partial(images.described, self._ec2, image))
