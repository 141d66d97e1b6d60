"""The provider boundary: eight verbs, none of which opens SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Check, Kind, MachineSpec, Resource, ResourceRef


class ComputeProvider(Protocol):
    """Creates, finds and deletes the resources of a deployment in one place (an account and region, or this machine).

    Every verb may be repeated: a second call with the same arguments finds what the first one made. Verbs are called
    from several threads at once; whatever client objects they need are made in `__init__`. Long waits poll at least
    every few seconds and end early, raising `Transient`, when `cancel` is set.

    A provider is constructed as `Provider(settings, endpoints)`, where `settings` are the keys of the site in
    `deploy.yml` that the provider itself named in `setting_names`. The constructor contacts nobody.
    """

    name: ClassVar[str]
    setting_names: ClassVar[frozenset[str]]
    """Keys of `deploy.yml` that this provider understands besides the general ones, e.g. `region`."""
    creates_nothing: ClassVar[bool]
    """Whether its machines exist already, so that they can be reached before anything is created elsewhere."""
    ends_processes: ClassVar[bool]
    """Whether deleting a machine ends what runs on it; if not, the site is uninstalled first."""

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None: ...

    @property
    def place(self) -> str:
        """Names where the resources live, for people and as identity of this provider object: `aws us-west-2`."""
        ...

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """Returns the kinds of resource that one site needs here, in creation order; MACHINE is always last."""
        ...

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports, creating nothing, whether credentials work and the sizes exist here."""
        ...

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the id of the image to pin: `spec.image` if given, else the newest default one."""
        ...

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates the resource, or finds the one with its name and owner, and waits until it is usable.

        A machine is usable when it has its address and the cloud calls it running; SSH may still be closed.

        Raises:
            ProviderError: of the class that says whether repeating makes sense.
        """
        ...

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Makes a firewall's rules equal to `resource.rules`. Other kinds are replaced, not updated: InvalidRequest."""
        ...

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as the cloud sees it now; None when it does not exist (a terminated machine)."""
        ...

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes the resource and returns once the cloud says that it is gone. An absent one is success."""
        ...

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns everything that carries the deployment's tag, in creation order of kinds."""
        ...
