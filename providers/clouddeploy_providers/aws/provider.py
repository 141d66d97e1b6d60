"""AwsProvider: clients, checks, and dispatch to the modules beside it.

Needs these permissions and no others: sts:GetCallerIdentity, ssm:GetParameter, ec2:DescribeVpcs, DescribeSubnets,
DescribeImages, DescribeAddresses, DescribeSecurityGroups, DescribeInstances, DescribeInstanceTypes, AllocateAddress,
AssociateAddress, ReleaseAddress, CreateSecurityGroup, AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress,
DeleteSecurityGroup, RunInstances, TerminateInstances, CreateTags (at creation).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
from botocore.config import Config

from clouddeploy_providers.aws import images, instances, network
from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import Check, Kind, ResourceRef
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

DEFAULT_SIZE = "t3.small"
TIMEOUT_S = 20


class AwsProvider:
    """EC2 in one account and region; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "aws"
    setting_names: ClassVar[frozenset[str]] = frozenset({"region", "vpc_id", "subnet_id"})
    creates_nothing: ClassVar[bool] = False

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
        # Clients are shared by threads, sessions must not be (boto/boto3#1592); so all are made here.
        # Retries are the engine's: it knows the deadline, and which refusals must not be repeated.
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
        url = {"endpoint_url": endpoints.aws.url} if endpoints.aws is not None else {}
        with translated("AWS cannot be used"):
            session = boto3.Session(**given)
            self._ec2, self._ssm, self._sts = (
                session.client(name, config=config, **url) for name in ("ec2", "ssm", "sts")
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
            network.network_of(self._ec2, self._settings)
        except InvalidRequest as error:
            checks.append(Check("network", ok=False, problem=str(error), hint=error.hint))
        for size in sorted({spec.size or DEFAULT_SIZE for spec in wanted}):
            try:
                with translated(f"the size {size} is not offered in {self._settings['region']}"):
                    self._ec2.describe_instance_types(InstanceTypes=[size])
            except InvalidRequest as error:
                checks.append(Check("size", ok=False, problem=str(error), hint="correct `size`"))
        return checks

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin."""
        return spec.image or images.newest(self._ssm, self._ec2, spec.size or DEFAULT_SIZE)

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource."""
        return retrying(partial(self._create, resource, cancel), cancel=cancel)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a security group's rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        retrying(partial(network.set_rules, self._ec2, ref, resource.rules), cancel=cancel)
        return ref

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as EC2 sees it now."""
        if ref.kind is Kind.MACHINE:
            instance = instances.read(self._ec2, ref.id)
            return self._reachable(instances.ref_of(instance)) if instance else None
        return next((one for one in self._networking("", ref.name) if one.id == ref.id), None)

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource."""
        work = {
            Kind.MACHINE: partial(instances.terminate, self._ec2, ref, cancel),
            Kind.FIREWALL: partial(network.delete_firewall, self._ec2, ref, cancel),
            Kind.ADDRESS: partial(network.release_address, self._ec2, ref),
        }
        retrying(work[ref.kind], cancel=cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns what carries the deployment's tag."""
        alive = {"Name": "instance-state-name", "Values": list(instances.ALIVE)}
        with translated(f"the resources of {deployment} cannot be listed"):
            pages = self._ec2.get_paginator("describe_instances").paginate(
                Filters=[*network.by_deployment(deployment), alive]
            )
            found = [one for page in pages for each in page["Reservations"] for one in each["Instances"]]
        return [*self._networking(deployment, ""), *(self._reachable(instances.ref_of(one)) for one in found)]

    def _create(self, resource: Resource, cancel: Event) -> ResourceRef:
        if resource.kind is Kind.ADDRESS:
            return network.create_address(self._ec2, resource)
        vpc = network.network_of(self._ec2, self._settings)
        if resource.kind is Kind.FIREWALL:
            return network.create_firewall(self._ec2, resource, vpc=vpc)
        if resource.machine is None:
            raise InvalidRequest(f"AWS has no {resource.kind}")
        image = self.resolve_image(resource.machine)
        return self._reachable(
            instances.create(
                self._ec2,
                resource,
                image=image,
                root=images.root_device(self._ec2, image),
                subnets=network.subnets_of(self._ec2, vpc, self._settings),
                size=resource.machine.size or DEFAULT_SIZE,
                cancel=cancel,
            )
        )

    def _reachable(self, ref: ResourceRef) -> ResourceRef:
        return ResourceRef(ref.kind, ref.name, ref.id, {**ref.outputs, "ssh_port": self._ssh_port})

    def _networking(self, deployment: str, name: str) -> list[ResourceRef]:
        filters = network.by_deployment(deployment) if deployment else [{"Name": "tag:Name", "Values": [name]}]
        with translated("addresses and security groups cannot be listed"):
            addresses = self._ec2.describe_addresses(Filters=filters)["Addresses"]
            groups = self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return [
            *(network.address_ref(one, network.tag_value(one, "Name")) for one in addresses),
            *(
                ResourceRef(Kind.FIREWALL, str(g["GroupName"]), str(g["GroupId"]), {"vpc": str(g["VpcId"])})
                for g in groups
            ),
        ]


_: type[ComputeProvider] = AwsProvider
