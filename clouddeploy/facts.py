"""What the engine knows of a federation, wherever it is said: in a project file, one startup kit, or a service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.resources import Need


@dataclass(frozen=True)
class Facts:
    """A federation as far as it decides about machines, firewalls and the order of things.

    Attributes:
        project: its name.
        server: the server's site; None: there is none in this deployment, since a client's kit is deployed alone.
        clients: the other sites; a service has none.
        ports: the server's, the federation's first.
        capacities: by site, what it offers to jobs, which its machine must have.
        is_signed_here: whether kits are signed here, with the passphrase of a certificate authority.
    """

    project: str
    server: str | None
    clients: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    capacities: Mapping[str, Need] = field(default_factory=dict)
    is_signed_here: bool = True
