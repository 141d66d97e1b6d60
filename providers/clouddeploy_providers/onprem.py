"""On premises: machines that exist already. It creates nothing and deletes nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import Check, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

REQUIRED = ("address", "user", "host_key", "identity_file")
HOST_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}( .*)?")
HOST_KEY_HINT = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine prints `SHA256:…`"
PORTS = range(1, 65536)


class OnPremProvider:
    """Adopts the machine that the deploy file names; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "onprem"
    setting_names: ClassVar[frozenset[str]] = frozenset({*REQUIRED, "port"})
    creates_nothing: ClassVar[bool] = True
    ends_processes: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        missing = [key for key in REQUIRED if not settings.get(key)]
        if missing:
            raise InvalidRequest(
                f"an on-premises site lacks {', '.join(missing)}",
                why="without a host key its identity could not be checked, without the rest it could not be reached",
                hint=f"add them in the deploy file; {HOST_KEY_HINT}",
            )
        place = settings["address"]
        if not HOST_KEY.fullmatch(settings["host_key"]):
            raise InvalidRequest(
                f"the host_key of {place} is neither a SHA256 fingerprint nor a public key", hint=HOST_KEY_HINT
            )
        port = settings.get("port", "22")
        if not (port.isascii() and port.isdecimal() and int(port) in PORTS):
            raise InvalidRequest(f"the port of {place} is {port!r}", hint="a number from 1 to 65535")
        self._settings = settings
        self._instead = endpoints.hosts.get(settings["address"])

    @property
    def place(self) -> str:
        """The machine's address."""
        return f"on premises, {self._settings['address']}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """Only the machine."""
        return (Kind.MACHINE,)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:  # noqa: ARG002 - it is reached over SSH, not here
        """Has nothing to ask; the engine reaches the machine itself."""
        return []

    def resolve_image(self, spec: MachineSpec) -> str:  # noqa: ARG002 - the machine runs what it runs
        """There is no image."""
        return ""

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - nothing to wait for
        """Returns how to reach the machine."""
        given = self._settings
        if self._instead is None:
            outputs = {
                "address": given["address"],
                "ssh_port": given.get("port", "22"),
                "user": given["user"],
                "host_key": given["host_key"],
                "identity_file": given["identity_file"],
            }
        else:
            there = self._instead
            outputs = {
                "address": there.address,
                "ssh_port": str(there.port),
                "user": there.user,
                "host_key": there.host_key,
                "identity_file": there.identity_file,
            }
        return ResourceRef(kind=resource.kind, name=resource.name, id=given["address"], outputs=outputs)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - its own firewall is its own
        """Refuses: nothing of ours is there."""
        raise InvalidRequest(f"{ref.name} is not ours to change")

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns what is recorded; the machine does not belong to a cloud that could be asked."""
        return ref

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Leaves the machine alone."""

    def find(self, deployment: str) -> list[ResourceRef]:  # noqa: ARG002 - nothing was ever created
        """Finds nothing, since nothing was created."""
        return []


_: type[ComputeProvider] = OnPremProvider
