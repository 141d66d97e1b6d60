"""Everything in one account and region that would make a demand fail, found out before anything is created."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws import firewalls, instances, network, permissions, sizes
from clouddeploy_providers.aws.tagging import tag_specification
from clouddeploy_providers.errors import AccessDenied, AuthenticationError, ProviderError
from clouddeploy_providers.resources import Check, Kind, Owner, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clouddeploy_providers.aws.quotas import Quotas
    from clouddeploy_providers.aws.whereabouts import Whereabouts
    from clouddeploy_providers.resources import Demand, MachineSpec, Offer

NOBODY = Owner("00000000", "preflight", "preflight")
"""Owner of the requests that are tried and not made."""


@dataclass(frozen=True)
class Fitting:
    """A machine of the demand with everything that its request needs."""

    spec: MachineSpec
    image: str
    root: str
    subnet: str


class Preflight:
    """One run of all checks; collects its findings.

    Args:
        ec2: client whose questions are repeated.
        quotas: the account's limits.
        settings: of the site.
        default_size: for machines that name none.
        image_of: returns the image that a machine would start from.
        may_try_changes: whether requests on what exists may be tried: who ignores `DryRun` would carry them out.
    """

    def __init__(
        self,
        ec2: Any,
        *,
        where: Whereabouts,
        quotas: Quotas,
        settings: Mapping[str, str],
        default_size: str,
        image_of: Callable[[MachineSpec], str],
        may_try_changes: bool,
    ) -> None:
        self._ec2 = ec2
        self._where = where
        self._quotas = quotas
        self._settings = settings
        self._default_size = default_size
        self._image_of = image_of
        self._may_try_changes = may_try_changes
        self._found: list[Check] = []
        self._vpc = ""

    def findings(self, demand: Demand) -> list[Check]:
        """Returns what is wrong, each thing once.

        Raises:
            AuthenticationError: the credentials are refused, so that nothing else can be asked.
        """
        if demand.machines or demand.addresses:
            self._check_place(demand)
        known: Mapping[str, Offer] = {}
        with self._noted("quota"):
            # Sizes that are not known have been reported, here or where they are demanded.
            known = sizes.described(self._ec2, {self._size(spec) for spec in demand.charged})
        with self._noted("quota"):
            wanted = [known[self._size(spec)] for spec in demand.charged if self._size(spec) in known]
            self._found += self._quotas.check_vcpus(wanted, demand=demand)
        with self._noted("quota"):
            self._found += self._quotas.check_addresses(demand.charged_addresses, demand=demand)
        return list(dict.fromkeys(self._found))

    def _check_place(self, demand: Demand) -> None:
        has_subnets = self._has_subnets()
        known = self._sizes(demand.machines)
        # Fifty sites that want the same are one question; they differ in their keys.
        kinds = {(self._size(spec), spec.image, spec.zones, spec.disk_gib): spec for spec in demand.machines}
        fitting = [
            one
            for spec in kinds.values()
            for one in self._fitting(spec, known.get(self._size(spec)), has_subnets=has_subnets)
        ]
        with self._noted("permissions"):
            trials = self._trials_of_birth(demand, fitting)
            if self._may_try_changes:
                trials += permissions.trials_of_owned(self._owned(demand.deployment))
            self._found += permissions.tried(self._ec2, trials)

    def _size(self, spec: MachineSpec) -> str:
        return spec.size or self._default_size

    def _has_subnets(self) -> bool:
        """Tells whether there are subnets to try; reports where none can be reached from outside."""
        with self._noted("network"):
            self._vpc = self._where.vpc()
            if self._where.public_subnets():
                return True
            names = ", ".join(subnet for subnet, _ in self._where.subnets())
            problem = f"no route to an internet gateway in {self._vpc}: {names}"
            hint = "name a public subnet in the deploy file (subnet_id), or add the route: sites are reached over SSH"
            self._found.append(Check("network", ok=False, problem=problem, hint=hint))
            return True
        return False

    def _sizes(self, machines: Sequence[MachineSpec]) -> Mapping[str, Offer]:
        wanted = sorted({self._size(spec) for spec in machines})
        known: Mapping[str, Offer] = {}
        with self._noted("size"):
            known = sizes.described(self._ec2, wanted)
            for size in wanted:
                if size not in known:
                    problem = f"the size {size} is not offered in {self._settings['region']}"
                    self._found.append(Check("size", ok=False, problem=problem, hint="correct `size`"))
        return known

    def _fitting(self, spec: MachineSpec, size: Offer | None, *, has_subnets: bool) -> list[Fitting]:
        """Returns the machine with what it needs, or nothing after reporting what it lacks."""
        chosen: Sequence[tuple[str, str]] = []
        if size is not None and has_subnets:
            with self._noted("size"):
                chosen = self._where.offering(size.size, spec.zones)
        image: Mapping[str, Any] | None = None
        with self._noted("image"):
            image = self._where.image(self._image_of(spec))
            self._found += misfits(image, spec, size)
        if not chosen or image is None:
            return []
        return [Fitting(spec, str(image["ImageId"]), str(image["RootDeviceName"]), chosen[0][0])]

    def _trials_of_birth(self, demand: Demand, fitting: Sequence[Fitting]) -> list[permissions.Trial]:
        """Returns the requests that create, as they would be made."""
        trials = []
        if demand.addresses:
            tags = [tag_specification("elastic-ip", NOBODY, name="preflight", kind=Kind.ADDRESS)]
            given = {"Domain": "vpc", "TagSpecifications": tags}
            trials.append(permissions.Trial("ec2:AllocateAddress", "allocate_address", given))
        if self._vpc:
            tags = [tag_specification("security-group", NOBODY, name="preflight", kind=Kind.FIREWALL)]
            names = {"GroupName": "clouddeploy-preflight", "Description": "clouddeploy"}
            given = {**names, "VpcId": self._vpc, "TagSpecifications": tags}
            trials.append(permissions.Trial("ec2:CreateSecurityGroup", "create_security_group", given))
        for one in fitting[:1]:
            machine = Resource(Kind.MACHINE, "preflight", NOBODY, machine=replace(one.spec, user_data=""))
            size = self._size(one.spec)
            given = instances.request(machine, image=one.image, root=one.root, subnet=one.subnet, size=size, groups=[])
            trials.append(permissions.Trial("ec2:RunInstances", "run_instances", given))
        return trials

    def _owned(self, deployment: str) -> dict[str, Any]:
        """Returns one of each thing of this deployment that is there, to try changes on; never one of others."""
        if not deployment:
            return {}
        found = [
            *instances.find(self._ec2, deployment),
            *firewalls.find(self._ec2, deployment),
            *network.find_addresses(self._ec2, deployment),
        ]
        return {one.ref.id.partition("-")[0]: one.ref for one in found}

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """Makes an error inside the block a finding, so that all are seen at once."""
        try:
            yield
        except AuthenticationError:
            raise
        except AccessDenied as error:
            self._found.append(permissions.lacking(error))
        except ProviderError as error:
            self._found.append(Check(name, ok=False, problem=str(error), hint=error.hint))


def misfits(image: Mapping[str, Any], spec: MachineSpec, size: Offer | None) -> list[Check]:
    """Returns what keeps an image from starting on this size and disk."""
    name, built_for = image["ImageId"], str(image.get("Architecture", ""))
    found = []
    if size is not None and built_for and built_for != size.architecture:
        problem = f"the image {name} is for {built_for}, the size {size.size} is {size.architecture}"
        found.append(Check("image", ok=False, problem=problem, hint="correct `image`, or leave it out"))
    root = [one for one in image.get("BlockDeviceMappings", []) if one.get("DeviceName") == image.get("RootDeviceName")]
    needed = max((int(one.get("Ebs", {}).get("VolumeSize", 0)) for one in root), default=0)
    if needed > spec.disk_gib:
        problem = f"the image {name} needs a disk of {needed} GiB, and {spec.disk_gib} are asked for"
        found.append(Check("image", ok=False, problem=problem, hint="correct `disk_gib`"))
    return found
