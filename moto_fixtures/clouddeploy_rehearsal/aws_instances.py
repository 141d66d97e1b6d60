"""What moto's instances say about themselves, in a form that hosts understand."""

from __future__ import annotations

from typing import Any


def set_state(instance: Any, state: tuple[str, int]) -> None:
    """Puts an instance into a state."""
    instance._state.name, instance._state.code = state  # noqa: SLF001


def keep_elastic(instance: Any) -> None:
    """Leaves an instance that stops or starts its Elastic IP, which moto would take for one of EC2's own."""
    for address in instance.ec2_backend.addresses:
        if address.instance is instance and address.eni is not None:
            address.eni.public_ip = address.public_ip


def switched_off(instance: Any) -> None:
    """Does what the request for the instance said about its switching itself off."""
    if instance.instance_initiated_shutdown_behavior == "terminate":
        instance.terminate()
    else:
        instance.stop()


def living(backend: Any) -> list[Any]:
    """Returns the instances of a region that are not terminated."""
    everything = [one for each in backend.reservations.values() for one in each.instances]
    return [one for one in everything if one._state.name != "terminated"]  # noqa: SLF001


def zone_of(backend: Any, given: dict[str, Any]) -> str:
    """Returns the zone of the subnet that a machine is wanted in; empty: it names none."""
    interfaces = given.get("nics") or [{}]
    subnet = given.get("subnet_id") or interfaces[0].get("SubnetId")
    return str(backend.get_subnet(subnet).availability_zone) if subnet else ""


def addresses_of(instance: Any) -> list[str]:
    """Returns private and public address; the last is where the instance's own traffic comes from."""
    return [address for address in (instance.private_ip, instance.public_ip) if address]


def groups_of(instance: Any) -> list[Any]:
    """Returns an instance's security groups."""
    return list(instance.security_groups) or [group for nic in instance.nics.values() for group in nic.group_set]


def rules_of(instance: Any) -> list[tuple[int, int, str]]:
    """Returns what its groups let in, as first and last TCP port and source; nothing while it is stopped.

    A stopped machine keeps its disk, so its host stays, and nobody gets in.
    """
    if instance._state.name == "stopped":  # noqa: SLF001
        return []
    found = []
    for group in groups_of(instance):
        for rule in group.ingress_rules:
            block = rule.ip_range.get("CidrIp") if isinstance(rule.ip_range, dict) else rule.ip_range
            if block and str(rule.ip_protocol) == "tcp":
                found.append((int(rule.from_port), int(rule.to_port), str(block)))
            elif block and str(rule.ip_protocol) == "-1":
                found.append((0, 65535, str(block)))
    return found
