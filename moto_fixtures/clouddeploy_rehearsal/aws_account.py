"""What every AWS account has and moto's does not: a default network with a way out, and a policy that may deny."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

ANYWHERE = "0.0.0.0/0"
USER = "arn:aws:iam::123456789012:user/rehearsal"
FAMILIES = frozenset(
    "t3 t3a t4g m5 m6i m7i m7g c5 c6i c7i r5 r6i g4dn g5 g6 g6e p3 p4d p4de p5 inf2 trn1".split()  # noqa: SIM905
)
"""Families of sizes that are listed: all 1,400 sizes would take seconds, and each can be had by its name."""
JSON_SERVICES = frozenset({"pricing", "servicequotas", "ssm"})


def denial(service: str, action: str) -> signature.Refusal:
    """Returns how a service refuses what no policy allows."""
    why = f"User: {USER} is not authorized to perform: {action} because no identity-based policy allows the action"
    if service in JSON_SERVICES:
        body = json.dumps({"__type": "AccessDeniedException", "Message": why}).encode()
        return signature.Refusal("400 Bad Request", "application/x-amz-json-1.1", body)
    code = "UnauthorizedOperation" if service == "ec2" else "AccessDenied"
    return signature.refusal(service, "403 Forbidden", code, f"You are not authorized to perform this operation. {why}")


def with_way_out(describe: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a list of route tables before which a default network gets its internet gateway, once."""
    done: set[str] = set()
    lock = threading.Lock()

    def describe_route_tables(backend: Any, *arguments: Any, **rest: Any) -> Any:
        with lock:
            vpc = backend.get_default_vpc()
            if vpc is not None and vpc.id not in done:
                done.add(vpc.id)
                [table] = describe(backend, filters={"vpc-id": [vpc.id], "association.main": ["true"]})
                _lead_out(backend, vpc.id, table.id)
        return describe(backend, *arguments, **rest)

    return describe_route_tables


def listed(describe: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a list of sizes that is short enough where no size is asked for by name."""

    def describe_instance_types(backend: Any, names: Collection[str] | None = None, filters: Any = None) -> Any:
        found = describe(backend, names, filters)
        wanted: Mapping[str, Collection[str]] = filters or {}
        patterns = wanted.get("instance-type", ["*"])
        if names or not any("*" in pattern for pattern in patterns):
            return found
        return [one for one in found if str(one.name).partition(".")[0] in FAMILIES]

    return describe_instance_types


def lend_network(backend: Any, *, vpc_id: str, subnet_id: str) -> None:
    """Makes the network that a deploy file names exist under its own ids, with a way out; what is there stays.

    Args:
        backend: moto's of the region.
        vpc_id: empty: it may have any id.
        subnet_id: empty: one in each zone, with any id.
    """
    zones = [zone.name for zone in backend.describe_availability_zones()]
    known = {subnet.id: subnet for zone in backend.subnets.values() for subnet in zone.values()}
    if subnet_id in known:
        return
    vpc = backend.vpcs.get(vpc_id) or _lent_vpc(backend, vpc_id)
    there = sum(subnet.vpc_id == vpc.id for subnet in known.values())
    if subnet_id:
        with _next_id("subnets", "random_subnet_id", subnet_id):
            backend.create_subnet(vpc.id, f"10.66.{there}.0/24", availability_zone=zones[0])
    elif not there:
        for number, zone in enumerate(zones):
            backend.create_subnet(vpc.id, f"10.66.{number}.0/24", availability_zone=zone)


def _lent_vpc(backend: Any, vpc_id: str) -> Any:
    with _next_id("vpcs", "random_vpc_id", vpc_id):
        vpc = backend.create_vpc("10.66.0.0/16")
    [table] = backend.describe_route_tables(filters={"vpc-id": [vpc.id], "association.main": ["true"]})
    _lead_out(backend, vpc.id, table.id)
    return vpc


def _lead_out(backend: Any, vpc_id: str, table_id: str) -> None:
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc_id)
    backend.create_route(table_id, ANYWHERE, gateway_id=gateway.id)


@contextmanager
def _next_id(module: str, name: str, value: str) -> Iterator[None]:
    """Has moto give out this id while the block runs; an empty one: whatever it likes."""
    models = import_module(f"moto.ec2.models.{module}")
    before = getattr(models, name)
    if value:
        setattr(models, name, lambda: value)
    try:
        yield
    finally:
        setattr(models, name, before)
