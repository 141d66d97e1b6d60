"""AwsProvider: clients, and dispatch to the modules beside it.

It needs the permissions that `permissions.ACTIONS` lists, and no others; docs/permissions.md has them as a policy. No
action on IAM, and none on key pairs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from clouddeploy_providers.aws import adopted, firewalls, images, instances, leftovers, network, sizes
from clouddeploy_providers.aws.accounts import Account
from clouddeploy_providers.aws.clients import Clients
from clouddeploy_providers.aws.preflight import Preflight
from clouddeploy_providers.aws.prices import Prices
from clouddeploy_providers.aws.quotas import Quotas
from clouddeploy_providers.aws.tagging import prove_ours
from clouddeploy_providers.aws.whereabouts import Whereabouts
from clouddeploy_providers.errors import InvalidRequest, NotFound
from clouddeploy_providers.reach import JUMP, REACHED
from clouddeploy_providers.resources import Check, Kind
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import (
        Demand,
        Found,
        MachineSpec,
        Need,
        Offer,
        Price,
        Resource,
        ResourceRef,
    )

OWN_DOMAINS = (
    ".amazonaws.com",
    ".api.aws",
    ".amazonaws.com.cn",
    ".api.amazonwebservices.com.cn",
    ".amazonaws.eu",
    ".api.amazonwebservices.eu",
)
"""Where AWS itself answers in its public partitions."""
LAG_S = 30.0
"""Reports speak of some seconds (boto/boto3#2556); this is what a run after a kill waits at most."""


class AwsProvider:
    """EC2 in one account and region; see `ComputeProvider` for the verbs.

    Without an endpoint of ours, all that boto3 knows works: profiles, `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`, and the
    regions of every partition.
    """

    name: ClassVar[str] = "aws"
    setting_names: ClassVar[frozenset[str]] = frozenset(
        {"region", "profile", "vpc_id", "subnet_id", "machine_id", *REACHED, *JUMP}
    )
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True
    default_size: ClassVar[str] = "t3.small"

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        if not settings.get("region"):
            raise InvalidRequest("an AWS site lacks its region", hint="add it in the deploy file: region: us-west-2")
        self._machine_id = settings.get("machine_id", "")
        if self._machine_id:
            adopted.require_settings(settings)
        self._settings = settings
        self._ssh_port = str(endpoints.ssh_port)
        self._lag_s = endpoints.aws.lag_s if endpoints.aws else LAG_S
        self._instead = endpoints.hosts.get(self._machine_id)
        self._prices = Prices(settings["region"])
        self._clients = Clients(settings, endpoints.aws)
        self._may_try_changes = endpoints.aws is not None

    @cached_property
    def _account(self) -> Account:
        return Account(self._clients.sts)

    @cached_property
    def _where(self) -> Whereabouts:
        return Whereabouts(self._clients.reads, self._settings)

    @cached_property
    def _watch(self) -> instances.Watch:
        return instances.Watch(self._clients.reads)

    @property
    def place(self) -> str:
        """The region and the network that is named; for a machine that exists, the machine."""
        region = f"aws {self._settings['region']}"
        if self._machine_id:
            return f"{region} {self._machine_id}"
        named = (("vpc", "vpc_id"), ("subnet", "subnet_id"))
        return ", ".join([region, *(f"{word} {self._settings[key]}" for word, key in named if self._settings.get(key))])

    @property
    def quota_scope(self) -> str:
        """The profile, which decides the account, and the region; a machine that exists draws on nobody's quota."""
        if self._machine_id:
            return self.place
        return " ".join(filter(None, ("aws", self._settings.get("profile"), self._settings["region"])))

    @property
    def lag_s(self) -> float:
        """EC2 shows what is new within seconds, and seldom only within half a minute."""
        return self._lag_s

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """A static address for the server, a group and an instance for all; nothing around an adopted machine."""
        if self._machine_id:
            return (Kind.MACHINE,)
        return (Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE) if is_server else (Kind.FIREWALL, Kind.MACHINE)

    def check(self, demand: Demand) -> list[Check]:
        """Reports network, sizes, images, quotas and permissions; credentials that are refused raise."""
        self._account.ask()
        if self._machine_id:
            there = adopted.read(self._clients.reads, adopted.ref_of(self._settings, ""), instead=self._instead)
            return adopted.check(there, self._machine_id)
        if not (demand.machines or demand.addresses or demand.charged or demand.charged_addresses):
            return []
        self._where = Whereabouts(self._clients.reads, self._settings)
        return Preflight(
            self._clients.reads,
            where=self._where,
            quotas=Quotas(self._clients.quotas, self._clients.reads, self._settings["region"]),
            settings=self._settings,
            default_size=self.default_size,
            image_of=self.resolve_image,
            may_try_changes=self._may_try_changes or is_own_endpoint(self._clients.changes.meta.endpoint_url),
        ).findings(demand)

    def offers(self, need: Need) -> list[Offer]:
        """Returns the sizes of the region that satisfy the need."""
        self._prices.refresh(self._clients.pricing)
        return sizes.offers(self._clients.reads, need, self._prices)

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:
        """Returns what a resource costs per hour; an adopted machine is paid for by whoever made it."""
        if self._machine_id:
            return None
        size = (spec.size if spec else None) or self.default_size
        return self._prices.of(kind, size=size, disk_gib=spec.disk_gib if spec else 0)

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin; none for a machine that has one already."""
        if self._machine_id:
            return ""
        size = spec.size or self.default_size
        return spec.image or images.newest(
            self._clients.ssm, self._clients.reads, size, partition=self._clients.partition
        )

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource."""
        if self._instead is None:
            # Asked before, so that nothing is made that could not be recorded with its account.
            retrying(self._account.number, cancel=cancel)
        return self._marked(self._adopt(resource) if self._machine_id else self._create(resource, cancel))

    def _create(self, resource: Resource, cancel: Event) -> ResourceRef:
        if resource.kind is Kind.ADDRESS:
            return retrying(partial(network.create_address, self._clients.changes, resource), cancel=cancel)
        if resource.kind is Kind.FIREWALL:
            vpc = retrying(self._where.vpc, cancel=cancel)
            return firewalls.create(self._clients.changes, resource, vpc=vpc, cancel=cancel)
        if resource.machine is None:
            raise InvalidRequest(f"AWS has no {resource.kind}")
        spec = resource.machine
        size = spec.size or self.default_size
        subnets = retrying(partial(self._where.offering, size, spec.zones), cancel=cancel)
        image = retrying(partial(self._image, spec), cancel=cancel)
        return self._reachable(
            instances.create(
                self._clients.changes,
                resource,
                image=str(image["ImageId"]),
                root=str(image["RootDeviceName"]),
                subnets=subnets,
                size=size,
                watch=self._watch,
                cancel=cancel,
            )
        )

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a security group's rules; starts an instance that is stopped, whose address may be another then."""
        _refuse_adopted(ref, "change")
        self._account.require(ref, "change")
        return self._marked(self._update(ref, resource, cancel))

    def _update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        if ref.kind is Kind.FIREWALL:
            return firewalls.update(self._clients.changes, ref, resource.rules, cancel)
        if ref.kind is not Kind.MACHINE or leftovers.is_leftover(ref):
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        there = instances.read(self._clients.reads, ref.id)
        if there is None:
            raise NotFound(f"{ref.name} does not exist any more", hint="apply again; it is made anew")
        prove_ours(there, ref.name, verb="change")
        running = instances.started(self._clients.changes, ref.id, ref.name, watch=self._watch, cancel=cancel)
        return self._reachable(instances.ref_of(running, ref.name))

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as EC2 sees it now."""
        if self._instead is None:
            self._account.require(ref, "read")
        there = self._read(ref)
        return self._marked(there) if there else None

    def _read(self, ref: ResourceRef) -> ResourceRef | None:
        if ref.is_adopted:
            return adopted.read(self._clients.reads, ref, instead=self._instead)
        if ref.kind is Kind.ADDRESS:
            return network.read_address(self._clients.reads, ref)
        if ref.kind is Kind.FIREWALL:
            return firewalls.read(self._clients.reads, ref)
        if leftovers.is_leftover(ref):
            return leftovers.read(self._clients.reads, ref)
        instance = instances.read(self._clients.reads, ref.id)
        return self._reachable(instances.ref_of(instance)) if instance else None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource, after looking whether it carries our tag."""
        _refuse_adopted(ref, "delete")
        self._account.require(ref, "delete")
        deletions = {
            Kind.MACHINE: leftovers.delete
            if leftovers.is_leftover(ref)
            else partial(instances.terminate, watch=self._watch),
            Kind.FIREWALL: firewalls.delete,
            Kind.ADDRESS: network.release_address,
        }
        deletions[ref.kind](self._clients.changes, ref, cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns what carries the deployment's tag; disks and interfaces only when they have lost their machine."""
        return [found.ref for found in self._search(deployment)]

    def find_all(self) -> list[Found]:
        """Returns what carries any deployment's tag, in this region."""
        return self._search(None)

    def _search(self, deployment: str | None) -> list[Found]:
        machines = instances.find(self._clients.reads, deployment)
        everything = [
            *network.find_addresses(self._clients.reads, deployment),
            *firewalls.find(self._clients.reads, deployment),
            *(replace(found, ref=self._reachable(found.ref)) for found in machines),
            *leftovers.find(self._clients.reads, deployment),
        ]
        return [replace(found, ref=self._marked(found.ref)) for found in everything]

    def _adopt(self, resource: Resource) -> ResourceRef:
        if resource.kind is not Kind.MACHINE:
            raise InvalidRequest(f"{self._machine_id} exists, so there is no {resource.kind} to make for it")
        ref = adopted.read(self._clients.reads, adopted.ref_of(self._settings, resource.name), instead=self._instead)
        if ref is None:
            raise InvalidRequest(
                f"there is no instance {self._machine_id} in {self._settings['region']}",
                why="it is unknown or terminated",
                hint="correct `machine_id`",
            )
        return ref

    def _image(self, spec: MachineSpec) -> Mapping[str, Any]:
        return self._where.image(self.resolve_image(spec))

    def _marked(self, ref: ResourceRef) -> ResourceRef:
        """Returns the reference with its account; a host that stands in for a machine is in none."""
        return self._account.marked(ref) if self._instead is None else ref

    def _reachable(self, ref: ResourceRef) -> ResourceRef:
        return replace(ref, outputs={**ref.outputs, "ssh_port": self._ssh_port})


def is_own_endpoint(url: str) -> bool:
    """Tells whether AWS answers at an address, and not somebody who speaks like it."""
    return (urlsplit(url).hostname or "").endswith(OWN_DOMAINS)


def _refuse_adopted(ref: ResourceRef, verb: str) -> None:
    if ref.is_adopted:
        raise InvalidRequest(
            f"{ref.name} is not ours to {verb}",
            why=f"{ref.id} was there before the deployment",
            hint="do it yourself in the AWS console",
        )


_: type[ComputeProvider] = AwsProvider
