"""On premises: machines that exist already. It creates nothing and deletes nothing."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.reach import HOST_KEY, HOST_KEY_HINT, JUMP, PORTS, check_login, jump_outputs
from clouddeploy_providers.resources import Check, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Demand, Found, MachineSpec, Need, Offer, Price, Resource

REQUIRED = ("address", "user", "host_key", "identity_file")
EGRESS_HINT = "IPv4 addresses or CIDR blocks, `203.0.113.7, 198.51.100.0/28`; leave it out if they are not known"


class OnPremProvider:
    """Adopts the machine that the deploy file names; see `ComputeProvider` for the verbs.

    The setting `egress` names the addresses from which the site's connections come, as others see them: addresses or
    CIDR blocks, separated by commas. A firewall elsewhere can then let in this site and nobody else. With `jump` the
    machine is reached from there, and `address` is the one that it has for the jump host.
    """

    name: ClassVar[str] = "onprem"
    setting_names: ClassVar[frozenset[str]] = frozenset({*REQUIRED, *JUMP, "port", "egress"})
    creates_nothing: ClassVar[bool] = True
    ends_processes: ClassVar[bool] = False
    default_size: ClassVar[str] = ""

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        missing = [key for key in REQUIRED if not settings.get(key)]
        if missing:
            raise InvalidRequest(
                f"an on-premises site lacks {', '.join(missing)}",
                why="without a host key its identity could not be checked, without the rest it could not be reached",
                hint=f"add them in the deploy file; {HOST_KEY_HINT}",
            )
        place = settings["address"]
        check_login(settings, "an on-premises site")
        if not HOST_KEY.fullmatch(settings["host_key"]):
            raise InvalidRequest(
                f"the host_key of {place} is neither a SHA256 fingerprint nor a public key", hint=HOST_KEY_HINT
            )
        port = settings.get("port", "22")
        if not (port.isascii() and port.isdecimal() and int(port) in PORTS):
            raise InvalidRequest(f"the port of {place} is {port!r}", hint="a number from 1 to 65535")
        self._jump = jump_outputs(settings, place)
        self._egress = _blocks(settings.get("egress", ""), place=place)
        self._settings = settings
        self._instead = endpoints.hosts.get(settings["address"])

    @property
    def place(self) -> str:
        """The machine's address."""
        return f"on premises, {self._settings['address']}"

    @property
    def lag_s(self) -> float:
        """None: nobody else keeps a list."""
        return 0.0

    @property
    def quota_scope(self) -> str:
        """The place itself."""
        return self.place

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """Only the machine."""
        return (Kind.MACHINE,)

    def check(self, demand: Demand) -> list[Check]:  # noqa: ARG002 - it is reached over SSH, not here
        """Has nothing to ask; the engine reaches the machine itself."""
        return []

    def offers(self, need: Need) -> list[Offer]:  # noqa: ARG002 - the machine is what it is
        """There are no sizes."""
        return []

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:  # noqa: ARG002 - nobody sells it
        """It is not known here what it costs."""
        return None

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
                **self._jump,
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
        if self._egress:
            # Who stands in for the machine dials out from its own address.
            outputs["egress"] = self._egress if self._instead is None else f"{self._instead.address}/32"
        return ResourceRef(
            kind=resource.kind, name=resource.name, id=given["address"], outputs=outputs, is_adopted=True
        )

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - its own firewall is its own
        """Refuses: nothing of ours is there."""
        raise InvalidRequest(
            f"{ref.name} is not ours to change", why="the machine was there before", hint="change it yourself"
        )

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns what is recorded; the machine does not belong to a cloud that could be asked."""
        return ref

    def delete(self, ref: ResourceRef, cancel: Event) -> None:  # noqa: ARG002 - nothing to wait for
        """Leaves the machine alone.

        Raises:
            InvalidRequest: always, but for a reference that does not say that it is adopted, as old state files have.
        """
        if ref.is_adopted:
            raise InvalidRequest(
                f"{ref.name} is not ours to delete", why="the machine was there before", hint="remove it yourself"
            )

    def find(self, deployment: str) -> list[ResourceRef]:  # noqa: ARG002 - nothing was ever created
        """Finds nothing, since nothing was created."""
        return []

    def find_all(self) -> list[Found]:
        """Finds nothing, since nothing was created."""
        return []


def _blocks(text: str, *, place: str) -> str:
    """Returns the blocks of `egress` in one spelling.

    Raises:
        InvalidRequest: one is none, or says nothing: the whole internet is what an absent `egress` means already.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            block = IPv4Network(part)  # the firewalls made here let in nothing else
        except ValueError as error:
            raise InvalidRequest(f"the egress of {place} is wrong", why=str(error), hint=EGRESS_HINT) from error
        if block.prefixlen == 0:
            raise InvalidRequest(f"the egress of {place} is of no use", why=f"{part} is everybody", hint=EGRESS_HINT)
        found.append(block)
    return ", ".join(map(str, found))


_: type[ComputeProvider] = OnPremProvider
