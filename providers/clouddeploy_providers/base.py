"""The provider boundary: a dozen verbs, none of which opens SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import (
        Check,
        Demand,
        Found,
        Kind,
        MachineSpec,
        Need,
        Offer,
        Price,
        Resource,
        ResourceRef,
    )


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
    """Whether deleting a machine ends what runs on it; if not, the site is uninstalled first, as is always done on what
    was adopted."""
    default_size: ClassVar[str]
    """For a small site that names no size and no need; empty where machines have no sizes."""

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None: ...

    @property
    def place(self) -> str:
        """Names where the resources live, for people and as identity of this provider object: `aws us-west-2`."""
        ...

    @property
    def lag_s(self) -> float:
        """How long `find` may miss what was created a moment ago; after a kill, nobody gives up looking earlier."""
        ...

    @property
    def quota_scope(self) -> str:
        """Names whose quota the place draws on, an account and region, without asking anybody: `aws us-west-2`.

        Places of one deployment with the same scope add up.
        """
        ...

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:
        """Returns the kinds of resource that one site needs here, in creation order; MACHINE is always last."""
        ...

    def check(self, demand: Demand) -> list[Check]:
        """Reports everything that would make this demand fail, creating nothing.

        Credentials that are refused raise, since nothing else can be asked then; everything else is a finding, so that
        the user sees all of them at once.
        """
        ...

    def offers(self, need: Need) -> list[Offer]:
        """Returns the sizes sold here that satisfy the need, the cheapest first, those without a price last.

        A place without sizes returns none. Asked over the network, prices come from the snapshot when theirs cannot be
        had; the offer says which.
        """
        ...

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:
        """Returns what one resource of the kind costs per hour: for a machine with its disk and its own public address.

        Contacts nobody: the answer is that of the last `offers`, else of the snapshot that ships with the package.
        None when it is free or unknown.
        """
        ...

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the id of the image to pin: `spec.image` if given, else the newest default one."""
        ...

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates the resource, or finds the one with its name and owner, and waits until it is usable.

        A machine is usable when it has its address and the cloud calls it running; SSH may still be closed. Where the
        settings name a thing that exists (a network, a machine), that one is returned with `is_adopted`, unchanged.
        A zone without capacity is followed by the next one; `CapacityError` means that none has any.

        Raises:
            ProviderError: of the class that says whether repeating makes sense.
        """
        ...

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Makes a firewall's rules equal to `resource.rules`, and starts a machine that is stopped.

        Raises:
            InvalidRequest: of any other kind, which is replaced and not updated, or of an adopted firewall.
        """
        ...

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as the cloud sees it now; None when it does not exist (a terminated machine)."""
        ...

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes the resource and returns once the cloud says that it is gone. An absent one is success.

        Raises:
            InvalidRequest: it is adopted, so it is not ours to delete.
        """
        ...

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns everything that carries the deployment's tag, in creation order of kinds."""
        ...

    def find_all(self) -> list[Found]:
        """Returns what carries our tags in this place, of whatever deployment, in creation order of kinds."""
        ...
