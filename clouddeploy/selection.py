"""Which machine size and image a site gets: named, needed, or the provider's small default; then pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Need

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.resources import Offer, Price

    from clouddeploy.config import SiteConfig

ARCHITECTURE = "x86_64"
"""Of what is chosen for a site; another one has to be named, with its image."""
MAX_SIBLINGS = 5
"""After so many refusals the region is full, and each further try costs minutes."""


@dataclass(frozen=True)
class Choice:
    """The machine that a site gets."""

    size: str
    """Empty: not known yet (a plan without the network), or machines have no sizes here."""
    image: str = ""
    """The pinned image; empty: the newest one, resolved when the network may be asked."""
    siblings: tuple[str, ...] = ()
    """Sizes that will do when there is no capacity, the cheapest first."""
    price: Price | None = None
    why: str = ""
    """For the reader of a plan: `named`, `cheapest of 12 with 1 GPU`, `pinned`."""

    def as_pin(self, wanted: str, place: str) -> dict[str, str]:
        """Returns what the state keeps, so that a repeated request is the same request."""
        return {"wanted": wanted, "place": place, "size": self.size, "image": self.image}


def wanted_size(site: SiteConfig, capacity: Need | None) -> str:
    """Returns what is asked for, as comparable text; empty for the provider's default."""
    if site.size:
        return site.size
    need = site.need or capacity
    return need_text(need) if need else ""


def need_text(need: Need) -> str:
    """Returns a need for people: `1 GPU of 16 GiB, 4 vCPUs`."""
    parts = []
    if need.gpus:
        memory = f" of {need.gpu_memory_gib:g} GiB" if need.gpu_memory_gib else ""
        parts.append(f"{need.gpus} GPU{'s' if need.gpus > 1 else ''}{memory}")
    if need.vcpus:
        parts.append(f"{need.vcpus} vCPUs")
    if need.memory_gib:
        parts.append(f"{need.memory_gib:g} GiB of memory")
    return ", ".join(parts)


def pinned(
    site: SiteConfig,
    *,
    capacity: Need | None,
    pins: Mapping[str, Mapping[str, str]],
    offers: Callable[[Need], Sequence[Offer]] | None,
    place: str,
) -> Choice | None:
    """Returns the choice that an earlier run made for the same wish in the same place, or None."""
    pin = pins.get(site.name, {})
    if (pin.get("wanted"), pin.get("place")) != (wanted_size(site, capacity), place) or not pin.get("size"):
        return None
    if site.image and pin.get("image") != site.image:
        return None
    siblings = _siblings(pin["size"], offers) if site.siblings and offers else ()
    return Choice(pin["size"], image=pin.get("image", ""), siblings=siblings, why="pinned")


def choose(
    site: SiteConfig,
    *,
    capacity: Need | None,
    default_size: str,
    offers: Callable[[Need], Sequence[Offer]] | None,
    place: str,
) -> Choice:
    """Returns the size for a site.

    Args:
        site: what the deploy file says.
        capacity: what the project file says that the site offers to jobs; a need when the deploy file names none.
        default_size: the provider's size for a small site; empty where machines have no sizes.
        offers: asks the provider; None: it must not be asked, so only what is named is known.
        place: for messages.

    Raises:
        ConfigError: nothing that is sold there satisfies the need.
    """
    if not default_size:
        return Choice("")
    need = None if site.size else site.need or capacity
    if need is None:
        size = site.size or default_size
        siblings = _siblings(size, offers) if site.siblings and offers else ()
        return Choice(size, siblings=siblings, why="named" if site.size else "default")
    if offers is None:
        return Choice("", why=f"the cheapest with {need_text(need)}, chosen at apply")
    fitting = [offer for offer in offers(need) if offer.architecture == ARCHITECTURE and offer.satisfies(need)]
    if not fitting:
        raise ConfigError(
            f"{site.name}: no machine size in {place} has {need_text(need)}",
            why="asked of the provider just now",
            hint="ask for less, name a size, or choose another region",
        )
    first = fitting[0]
    others = tuple(offer.size for offer in fitting[1 : MAX_SIBLINGS + 1]) if site.siblings else ()
    why = f"cheapest of {len(fitting)} with {need_text(need)}"
    return Choice(first.size, siblings=others, price=first.price, why=why)


def _siblings(size: str, offers: Callable[[Need], Sequence[Offer]]) -> tuple[str, ...]:
    """Returns the sizes with at least what the named one has, cheapest first."""
    sold = offers(Need())
    named = next((offer for offer in sold if offer.size == size), None)
    if named is None:
        return ()
    need = Need(named.gpus, named.gpu_memory_gib, named.vcpus, named.memory_gib)
    others = [one for one in sold if one.architecture == named.architecture and one.satisfies(need) and one != named]
    return tuple(one.size for one in others[:MAX_SIBLINGS])
