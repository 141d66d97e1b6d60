"""AwsProvider: clients, checks, and dispatch to the modules beside it.

Needs these permissions and no others:
    sts:GetCallerIdentity (needs no grant)
    ssm:GetParameter on arn:aws:ssm:*::parameter/aws/service/canonical/* (else the image comes from DescribeImages)
    ec2:DescribeVpcs, DescribeSubnets, DescribeImages, DescribeInstanceTypes, DescribeInstanceTypeOfferings,
        DescribeAddresses, DescribeSecurityGroups, DescribeSecurityGroupRules, DescribeInstances
    ec2:AllocateAddress, AssociateAddress, ReleaseAddress
    ec2:CreateSecurityGroup, AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress, DeleteSecurityGroup
    ec2:RunInstances, TerminateInstances
    ec2:CreateTags, with the condition ec2:CreateAction in AllocateAddress, CreateSecurityGroup, RunInstances
AssociateAddress, ReleaseAddress, the changes of security groups and TerminateInstances may be limited to resources with
the tag `clouddeploy:deployment`. No action on IAM, and none on key pairs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import boto3
from botocore.config import Config

from clouddeploy_providers.aws import images, instances, network
from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import Check, Kind
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource, ResourceRef

DEFAULT_SIZE = "t3.small"
TIMEOUTS_S: Final = {"connect_timeout": 20, "read_timeout": 60}
"""AWS answers in a second; RunInstances and a slow line may take some."""
READS = 4


class AwsProvider:
    """EC2 in one account and region; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "aws"
    setting_names: ClassVar[frozenset[str]] = frozenset({"region", "vpc_id", "subnet_id"})
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        if not settings.get("region"):
            raise InvalidRequest("an AWS site lacks its region", hint="add it in the deploy file: region: us-west-2")
        self._settings = settings
        self._ssh_port = str(endpoints.ssh_port)
        given: dict[str, Any] = {"region_name": settings["region"]}
        if endpoints.aws is not None:
            given |= {
                "aws_access_key_id": endpoints.aws.access_key_id,
                "aws_secret_access_key": endpoints.aws.secret_access_key,
            }
        url = {"endpoint_url": endpoints.aws.url} if endpoints.aws is not None else {}
        # Changes are repeated by us, who know the deadline and what must not be repeated (botocore would ask four times
        # where there is no capacity); questions have nobody else to repeat them.
        once, standard = (
            Config(retries={"mode": "standard", "total_max_attempts": attempts}, **TIMEOUTS_S)
            for attempts in (1, READS)
        )
        with translated("AWS cannot be used"):
            # Clients are shared by threads, sessions must not be (boto/boto3#1592); so all are made here.
            session = boto3.Session(**given)
            self._ec2 = session.client("ec2", config=once, **url)
            self._reads, self._ssm, self._sts = (
                session.client(name, config=standard, **url) for name in ("ec2", "ssm", "sts")
            )

    @property
    def place(self) -> str:
        """The region."""
        return f"aws {self._settings['region']}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """A static address for the server; a security group and an instance for all."""
        return (Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE) if is_server else (Kind.FIREWALL, Kind.MACHINE)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports the network and the sizes; credentials that are refused raise."""
        with translated("AWS does not accept the credentials"):
            self._sts.get_caller_identity()
        checks = []
        try:
            network.network_of(self._reads, self._settings)
        except InvalidRequest as error:
            checks.append(Check("network", ok=False, problem=str(error), hint=error.hint))
        for size in sorted({spec.size or DEFAULT_SIZE for spec in wanted}):
            try:
                with translated(f"the size {size} is not offered in {self._settings['region']}"):
                    self._reads.describe_instance_types(InstanceTypes=[size])
            except InvalidRequest as error:
                checks.append(Check("size", ok=False, problem=str(error), hint="correct `size`"))
        return checks

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin."""
        return spec.image or images.newest(self._ssm, self._reads, spec.size or DEFAULT_SIZE)

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource."""
        if resource.kind is Kind.ADDRESS:
            return retrying(partial(network.create_address, self._ec2, resource), cancel=cancel)
        vpc = retrying(partial(network.network_of, self._reads, self._settings), cancel=cancel)
        if resource.kind is Kind.FIREWALL:
            return network.create_firewall(self._ec2, resource, vpc=vpc, cancel=cancel)
        if resource.machine is None:
            raise InvalidRequest(f"AWS has no {resource.kind}")
        image, root, subnets = retrying(partial(self._whereabouts, resource.machine, vpc), cancel=cancel)
        return self._reachable(
            instances.create(
                self._ec2,
                resource,
                image=image,
                root=root,
                subnets=subnets,
                size=resource.machine.size or DEFAULT_SIZE,
                cancel=cancel,
            )
        )

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a security group's rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        network.set_rules(self._ec2, ref, resource.rules, cancel)
        return ref

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as EC2 sees it now."""
        if ref.kind is Kind.MACHINE:
            instance = instances.read(self._reads, ref.id)
            return self._reachable(instances.ref_of(instance)) if instance else None
        look = network.find_addresses if ref.kind is Kind.ADDRESS else network.find_firewalls
        return next(iter(look(self._reads, id=ref.id)), None)

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource."""
        deletions = {
            Kind.MACHINE: instances.terminate,
            Kind.FIREWALL: network.delete_firewall,
            Kind.ADDRESS: network.release_address,
        }
        deletions[ref.kind](self._ec2, ref, cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns what carries the deployment's tag."""
        return [
            *network.find_addresses(self._reads, deployment=deployment),
            *network.find_firewalls(self._reads, deployment=deployment),
            *(self._reachable(ref) for ref in instances.find(self._reads, deployment)),
        ]

    def _whereabouts(self, spec: MachineSpec, vpc: str) -> tuple[str, str, list[tuple[str, str]]]:
        """Returns the image, its root device, and the subnets whose zones offer the size."""
        subnets = network.subnets_of(self._reads, vpc, self._settings)
        offering = instances.zones_offering(self._reads, spec.size or DEFAULT_SIZE, subnets)
        image = self.resolve_image(spec)
        return image, images.root_device(self._reads, image), offering

    def _reachable(self, ref: ResourceRef) -> ResourceRef:
        return replace(ref, outputs={**ref.outputs, "ssh_port": self._ssh_port})


_: type[ComputeProvider] = AwsProvider
