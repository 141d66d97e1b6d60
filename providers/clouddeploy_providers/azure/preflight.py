"""Everything that would make a demand fail, found before anything is created."""

from __future__ import annotations

import re
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.rest import HttpRequest

from clouddeploy_providers.azure import images, permissions
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.operations import group_of, name_of
from clouddeploy_providers.azure.virtual_machines import DEFAULT_SIZE
from clouddeploy_providers.errors import AccessDenied, AuthenticationError, InvalidRequest, ProviderError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Check
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from clouddeploy_providers.azure.adoption import Adoption
    from clouddeploy_providers.azure.clients import Clients
    from clouddeploy_providers.azure.sizes import Size, Sizes
    from clouddeploy_providers.resources import Demand, MachineSpec

Result = TypeVar("Result")

NAMESPACES = ("Microsoft.Compute", "Microsoft.Network")
PERMISSIONS_VERSION = "2022-04-01"
TOTAL_CORES, MACHINE_COUNT = "cores", "virtualMachines"
ADDRESS_QUOTAS = ("publicipaddresses", "standardskupublicipaddresses", "ipv4standardskupublicipaddresses")
LABEL = re.compile(r"[a-z][a-z0-9-]{1,61}[a-z0-9]")
"""
Source:
    https://learn.microsoft.com/rest/api/virtualnetwork/check-dns-name-availability
"""
QUOTA_PAGE = "/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas"


class Preflight:
    """The questions of one site's provider.

    Args:
        clients: the SDK's.
        sizes: of the location.
        location: Azure's name of the region.
        adoption: what the site's settings name.
        label: the DNS label of its address; empty: none.
    """

    def __init__(self, clients: Clients, sizes: Sizes, *, location: str, adoption: Adoption, label: str) -> None:
        self._clients = clients
        self._sizes = sizes
        self._location = location
        self._adoption = adoption
        self._label = label

    def findings(self, demand: Demand) -> list[Check]:
        """Returns all findings, each question asked even when another one failed.

        Raises:
            AuthenticationError: nothing can be asked with these credentials.
            InvalidRequest: there is no such subscription.
        """
        self._credentials()
        if self._adoption.machine:
            return [*self._asked("permissions", self._permissions), *self._asked("machine", self._machine)]
        questions: list[tuple[str, Callable[[], Iterable[Check]]]] = [
            ("permissions", self._permissions),
            ("registration", self._registration),
            ("group", self._group),
            ("network", self._network),
            ("size", partial(self._sizes_sold, demand.machines)),
            ("image", partial(self._images, demand.machines)),
            ("quota", partial(self._compute_quota, demand)),
            ("quota", partial(self._address_quota, demand)),
            ("label", partial(self._dns_label, demand)),
        ]
        return [check for name, question in questions for check in self._asked(name, question)]

    def _asked(self, name: str, question: Callable[[], Iterable[Check]]) -> list[Check]:
        """Returns the findings of one question; what may not be asked is a warning, since the rest may still work."""
        try:
            return _persistently(lambda: list(question())) or [Check(name, ok=True)]
        except AuthenticationError:
            raise
        except AccessDenied as error:
            return [Check(name, ok=False, problem=f"not confirmed: {error}", hint=error.hint, is_warning=True)]
        except ProviderError as error:
            return [Check(name, ok=False, problem=str(error), hint=error.hint)]

    def _credentials(self) -> None:
        def ask() -> None:
            with translated("Azure does not accept the credentials or the subscription"):
                next(iter(self._clients.resources.resource_groups.list(top=1)), None)

        try:
            _persistently(ask)
        except AccessDenied:
            return  # they are known; what they may do is asked next

    def _permissions(self) -> Iterator[Check]:
        adopted = self._adoption
        group = adopted.group or (group_of(adopted.machine) if adopted.machine else "")
        scope = f"/subscriptions/{self._clients.subscription}"
        if adopted.machine:
            needed: Sequence[str] = permissions.ADOPTED_MACHINE_ACTIONS
        elif group:
            needed = permissions.RESOURCE_ACTIONS
        else:
            needed = permissions.ACTIONS
        where = f"{scope}/resourceGroups/{group}" if group else scope
        lacking = permissions.missing(needed, self._granted(where))
        if lacking:
            yield Check(
                "permissions",
                ok=False,
                problem=f"the identity lacks {', '.join(lacking)} on {where}",
                hint="assign it the role of docs/permissions.md there; a new assignment takes up to ten minutes",
            )

    def _granted(self, scope: str) -> list[Any]:
        client, granted = self._clients.resources, []
        path = f"{self._clients.cloud.url}{scope}/providers/Microsoft.Authorization/permissions"
        request: HttpRequest | None = HttpRequest("GET", path, params={"api-version": PERMISSIONS_VERSION})
        while request is not None:
            with translated("the permissions of the identity cannot be listed"):
                response = client.send_request(request)
                response.raise_for_status()
                body = response.json()
            granted += body.get("value", [])
            # A token travels with the request, so it goes nowhere else.
            link = str(body.get("nextLink") or "")
            request = HttpRequest("GET", link) if link.startswith(f"{self._clients.cloud.url}/") else None
        return granted

    def _registration(self) -> Iterator[Check]:
        wait = f"--subscription {self._clients.subscription} --wait"
        for namespace in NAMESPACES:
            with translated(f"the registration of {namespace} cannot be read"):
                state = str(self._clients.resources.providers.get(namespace).registration_state)
            if state.lower() != "registered":
                yield Check(
                    "registration",
                    ok=False,
                    problem=f"the subscription is not registered for {namespace} ({state})",
                    hint=f"az provider register --namespace {namespace} {wait}",
                )

    def _group(self) -> Iterator[Check]:
        name = self._adoption.group
        if name:
            with translated(f"the resource group {name} cannot be read"):
                if not self._clients.resources.resource_groups.check_existence(name):
                    raise InvalidRequest(f"the resource group {name} does not exist", hint="correct `resource_group`")
        yield from ()

    def _network(self) -> Iterator[Check]:
        if not self._adoption.network:
            return
        found = self._adoption.read_network(self._clients)
        subnet = next((one for one in found.subnets or [] if str(one.name) == self._adoption.subnet), None)
        if str(found.location).lower() != self._location:
            problem = f"the network {found.name} is in {found.location} and the site in {self._location}"
            yield Check("network", ok=False, problem=problem, hint="correct `location` or `network`")
        if subnet is None:
            problem = f"the network {found.name} has no subnet {self._adoption.subnet}"
            yield Check("network", ok=False, problem=problem, hint="correct `subnet`")
        elif subnet.network_security_group is not None:
            yield Check(
                "network",
                ok=False,
                problem=f"the subnet {subnet.name} has a network security group of its own",
                hint="it has to let SSH in from here, and at the server the federation's port; ours comes on top",
                is_warning=True,
            )

    def _machine(self) -> Iterator[Check]:
        if self._adoption.instead is not None:
            return
        group, name = group_of(self._adoption.machine), name_of(self._adoption.machine)
        with translated(f"the machine {name} cannot be read"):
            self._clients.compute.virtual_machines.get(group, name)
        yield from ()

    def _sizes_sold(self, machines: Sequence[MachineSpec]) -> Iterator[Check]:
        known = self._sizes.all()
        if machines and not known:
            problem = f"Azure sells no machines in {self._location}"
            yield Check("size", ok=False, problem=problem, hint="correct `location`; `az account list-locations`")
            return
        for name, zones in sorted({(spec.size or DEFAULT_SIZE, spec.zones) for spec in machines}):
            size = known.get(name.lower())
            if size is None:
                problem, hint = (
                    f"Azure has no size {name} in {self._location}",
                    "correct `size`, or name a need instead",
                )
            elif size.is_restricted or (zones and not set(zones) & set(size.offer.zones)):
                where = f"zone {', '.join(zones)} of {self._location}" if zones else self._location
                problem = f"the subscription may not use {name} in {where}"
                hint = f"name another size, or ask for access: {self._quota_page()}"
            else:
                continue
            yield Check("size", ok=False, problem=problem, hint=hint)

    def _images(self, machines: Sequence[MachineSpec]) -> Iterator[Check]:
        known = self._sizes.known()
        for image, name in sorted({(spec.image or "", spec.size or DEFAULT_SIZE) for spec in machines}):
            try:
                problem = self._image_problem(image, known.get(name.lower()))
            except InvalidRequest as error:
                yield Check("image", ok=False, problem=str(error), hint=error.hint)
                continue
            if problem:
                yield Check("image", ok=False, problem=problem, hint="name another image or another size")

    def _image_problem(self, image: str, size: Size | None) -> str:
        """Returns why a size cannot start from an image; the default one is made for its size."""
        compute, location = self._clients.compute, self._location
        if not image:
            images.newest(compute, location)
            return ""
        if "id" in images.reference(image):
            return ""  # one of the user's own; its id does not tell of which kind it is
        found = images.properties(compute, location, images.pinned(compute, location, image))
        generation = str(getattr(found.hyper_v_generation, "value", found.hyper_v_generation) or "")
        architecture = images.ARCHITECTURES.get(str(getattr(found.architecture, "value", found.architecture)), "")
        if size is None:
            return ""
        if generation and generation not in size.generations:
            fits = ", ".join(sorted(size.generations))
            return f"{image} is of generation {generation}, and {size.offer.size} takes {fits}"
        if architecture and architecture != size.offer.architecture:
            return f"{image} is for {architecture}, and {size.offer.size} is {size.offer.architecture}"
        return ""

    def _compute_quota(self, demand: Demand) -> Iterator[Check]:
        if not demand.charged:
            return
        wanted = self._cores(spec.size or DEFAULT_SIZE for spec in demand.charged)
        machines = self._ours(self._clients.compute.virtual_machines, demand)
        counted = self._cores(_size_of(one) for one in machines)
        with translated(f"the quotas of {self._location} cannot be read"):
            usages = list(self._clients.compute.usage.list(self._location))
        # A family that is missing from the list has no limit of its own; a fresh subscription has one of zero.
        yield from self._exceeded(usages, wanted, counted)

    def _cores(self, names: Iterable[str]) -> Counter[str]:
        """Returns what machines of these sizes take of each quota, by the names of the quotas in lower case."""
        known, taken = self._sizes.all(), Counter[str]()
        for name in names:
            size = known.get(name.lower())
            if size is not None:
                taken[size.family.lower()] += size.offer.vcpus
                taken[TOTAL_CORES] += size.offer.vcpus
            taken[MACHINE_COUNT.lower()] += 1
        return taken

    def _address_quota(self, demand: Demand) -> Iterator[Check]:
        if not demand.charged_addresses:
            return
        counted = len(self._ours(self._clients.network.public_ip_addresses, demand))
        with translated(f"the address quotas of {self._location} cannot be read"):
            usages = list(self._clients.network.usages.list(self._location))
        wanted = dict.fromkeys(ADDRESS_QUOTAS, demand.charged_addresses)
        yield from self._exceeded(usages, wanted, dict.fromkeys(ADDRESS_QUOTAS, counted))

    def _ours(self, verbs: Any, demand: Demand) -> list[Any]:
        """Returns what exists already of the demand; it counts as demanded and not as used."""
        if not demand.names:
            return []
        with translated(f"what {demand.deployment} has in {self._location} cannot be listed"):
            return [
                one
                for one in verbs.list_all()
                if str(one.name) in demand.names
                and str(one.location).lower() == self._location
                and (one.tags or {}).get(TAG_DEPLOYMENT) == demand.deployment
            ]

    def _exceeded(
        self, usages: Iterable[Any], wanted: Mapping[str, int], counted: Mapping[str, int]
    ) -> Iterator[Check]:
        for usage in usages:
            key = str(usage.name.value).lower()
            needed = wanted.get(key, 0)
            used = max(0, usage.current_value - counted.get(key, 0))  # the count lags behind the list
            if needed and used + needed > usage.limit:
                name = usage.name.localized_value or usage.name.value
                yield Check(
                    "quota",
                    ok=False,
                    problem=f"{name} in {self._location}: {used} of {usage.limit} used, {needed} more needed",
                    hint=f"ask for more at {self._quota_page()}, or use another size or location",
                )

    def _dns_label(self, demand: Demand) -> Iterator[Check]:
        if not self._label:
            return
        if not LABEL.fullmatch(self._label):
            problem = f"{self._label!r} is no DNS label"
            yield Check("label", ok=False, problem=problem, hint="a to z, digits and -, 3 to 63, a letter first")
            return
        if not demand.addresses:
            return
        with translated(f"the DNS label {self._label} cannot be looked up"):
            answer = self._clients.network.check_dns_name_availability(self._location, domain_name_label=self._label)
        if not answer.available and not self._is_label_ours(demand.deployment):
            problem = f"the DNS label {self._label} is taken or reserved in {self._location}"
            yield Check("label", ok=False, problem=problem, hint="choose another dns_label")

    def _is_label_ours(self, deployment: str) -> bool:
        """Whether an address of the deployment has it, made by a run that was killed."""
        with translated("the public addresses cannot be listed"):
            return any(
                one.dns_settings is not None
                and str(one.dns_settings.domain_name_label) == self._label
                and (one.tags or {}).get(TAG_DEPLOYMENT) == deployment
                for one in self._clients.network.public_ip_addresses.list_all()
            )

    def _quota_page(self) -> str:
        return f"{self._clients.cloud.portal}{QUOTA_PAGE}"


def _size_of(machine: Any) -> str:
    size = machine.hardware_profile.vm_size
    return str(getattr(size, "value", size))  # an enum, if known


def _persistently(call: Callable[[], Result]) -> Result:
    """Returns what `call` returns, through throttling; nobody waits long for a preflight, so nobody cancels it."""
    return retrying(call, cancel=threading.Event())
