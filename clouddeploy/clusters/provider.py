"""Kubernetes: a namespace is the place, a site's objects in it are its machine, known by a ConfigMap that names it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from clouddeploy_providers.errors import AccessDenied, Conflict, InvalidRequest, NotFound, ProviderError
from clouddeploy_providers.resources import Check, Found, Kind, Owner, ResourceRef
from clouddeploy_providers.waiters import wait_for
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.outposts.kube import names

from clouddeploy.clusters import api as apis
from clouddeploy.clusters.api import DEPLOYMENT, KINDS, Api, Right
from clouddeploy.clusters.wishes import SETTINGS, egress_of, reach_of, target_of
from clouddeploy.prepare.cluster import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Demand, MachineSpec, Need, Offer, Price, Resource

log = logging.getLogger(__name__)

MARK = "clouddeploy/is"
"""Label of the ConfigMap that stands for a site: it is there before anything else of it, and goes last."""
OF_SITE = {MARK: "site"}
NAMES = ("project", "site")
"""In it: both as people write them, which no label may hold."""
INSTALLED_NAME, INSTALLED_IMAGE = "name", "image"
"""In it once the site was started: the name of its Deployment, and its image."""
GONE_S = 300.0
"""For pods to end and volumes to be released; a pod has half a minute to end by itself."""
POLL_S = 1.0
AT_ONCE = 8
"""Questions about rights."""
KEPT_IN_EVERY_NAMESPACE = frozenset({("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")})


class KubernetesProvider:
    """Gives every site a place in a namespace; see `ComputeProvider` for the verbs.

    The settings are in `clouddeploy.clusters.wishes`. A namespace that is not there is made, and goes with the last of
    the deployment's sites in it, if nothing of anybody else is there by then.
    """

    name: ClassVar[str] = "kubernetes"
    setting_names: ClassVar[frozenset[str]] = SETTINGS
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True
    default_size: ClassVar[str] = ""

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        if endpoints.aws is not None or endpoints.azure is not None:
            raise InvalidRequest(
                "a site in Kubernetes cannot be rehearsed",
                why="a rehearsal has clouds and machines of its own, no cluster",
            )
        self._target = target_of(settings)
        self._reach = reach_of(settings)
        self._egress = egress_of(settings)
        self._connected: dict[str, Api] = {}
        self._lock = Lock()

    @property
    def place(self) -> str:
        """Context and namespace."""
        return f"kubernetes {self._target.context}, {self._target.namespace}"

    @property
    def lag_s(self) -> float:
        """None: an API server lists what it has taken."""
        return 0.0

    @property
    def quota_scope(self) -> str:
        """The place itself."""
        return self.place

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """Only the machine, which stands for the site's objects."""
        return (Kind.MACHINE,)

    def check(self, demand: Demand) -> list[Check]:
        """Reports every right that is missing, and a namespace that nobody here may make."""
        there = self._api(demand.deployment)
        wanted = apis.needed_rights()
        if self._is_missing(there):
            wanted.append(Right("create", "namespaces"))
        with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="rights") as pool:
            denied = [right for right, may in zip(wanted, pool.map(there.may, wanted), strict=True) if not may]
        found = self._taken(there, demand)
        if not denied:
            return [*found, Check("permissions", ok=True)]
        problem = f"in the namespace {self._target.namespace} this account may not: {'; '.join(map(str, denied))}"
        hint = "docs/kubernetes.md has a Role with all of it"
        return [*found, Check("permissions", ok=False, problem=problem, hint=hint)]

    def offers(self, need: Need) -> list[Offer]:  # noqa: ARG002 - a cluster has the machines that it has
        """There are no sizes."""
        return []

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:  # noqa: ARG002 - a part of a cluster has no price
        """It is not known here what it costs."""
        return None

    def resolve_image(self, spec: MachineSpec) -> str:  # noqa: ARG002 - of machines
        """There is no image of a machine."""
        return ""

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - nothing to wait for
        """Marks the place of a site in its namespace, which is made if it is not there."""
        owner = resource.owner
        there = self._api(owner.deployment)
        if self._is_missing(there):
            there.make_namespace()
        if there.get(Identity("ConfigMap", resource.name)) is None:
            there.apply(marker(resource.name, owner))
        return self._ref(resource.name, owner)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:  # noqa: ARG002 - what was changed is put right when the site is started
        """Returns how the site is reached by the settings as they are now; the rest is done when it is installed."""
        if ref.kind is not Kind.MACHINE or ref.is_adopted:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        if self._api(resource.owner.deployment).get(Identity("ConfigMap", ref.name)) is None:
            raise NotFound(f"the place of {ref.name} does not exist", hint="apply again")
        return self._ref(ref.name, resource.owner)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the site; `power` says how its Deployment differs from what was started."""
        there = self._api(ref.outputs.get("deployment", ""))
        found = there.get(Identity("ConfigMap", ref.name))
        owner = _owner(found)
        if found is None or owner is None:
            return None
        made = self._ref(ref.name, owner)
        return ResourceRef(made.kind, made.name, made.id, {**made.outputs, "power": _power(there, found)})

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes the site with all its objects, its workspace and its jobs, and returns once they are gone."""
        if ref.is_adopted:
            raise InvalidRequest(f"{ref.name} is not ours to delete", hint="delete it yourself")
        there = self._api(ref.outputs.get("deployment", ""))
        found = there.get(Identity("ConfigMap", ref.name))
        owner = _owner(found)
        if found is not None and owner is not None:
            there = self._api(owner.deployment)
            for one in _objects(there, owner, ref.name):
                there.delete(one)
            wait_for(
                lambda: next(_objects(there, owner, ref.name), None) is None,
                timeout_s=GONE_S,
                interval_s=POLL_S,
                cancel=cancel,
                what=f"everything of {owner.site} to go from the namespace {self._target.namespace}",
            )
            there.delete(Identity("ConfigMap", ref.name))
        self._leave(there, ref.outputs.get("deployment", ""), cancel)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the deployment's sites in this namespace."""
        return [found.ref for found in self._found({DEPLOYMENT: deployment})]

    def find_all(self) -> list[Found]:
        """Returns all sites in this namespace that some deployment has made."""
        return self._found({})

    def _taken(self, there: Api, demand: Demand) -> list[Check]:
        """Reports the sites that another deployment has in this namespace, under the names that they would get."""
        try:
            marks = there.all("ConfigMap", OF_SITE)
        except AccessDenied:
            return []  # which is found by itself
        wanted = {_stem(name) for name in demand.names}
        hint = "name another namespace, or destroy that deployment"
        return [
            Check("site", ok=False, problem=f"{_said(owner, there.namespace)}", hint=hint)
            for owner, name in ((_owner(one), one["metadata"]["name"]) for one in marks)
            if owner is not None and owner.deployment != demand.deployment and _stem(name) in wanted
        ]

    def _found(self, labels: Mapping[str, str]) -> list[Found]:
        marks = self._api("").all("ConfigMap", {**OF_SITE, **labels})
        known = [(one["metadata"]["name"], _owner(one)) for one in marks]
        return [Found(self._ref(name, owner), owner) for name, owner in sorted(known) if owner is not None]

    def _leave(self, there: Api, deployment: str, cancel: Event) -> None:
        """Deletes the namespace where this deployment has made it, and nothing is left in it."""
        try:
            found = there.namespace_object()
        except AccessDenied:
            return  # who may not even see it has not made it
        labels = {} if found is None else found["metadata"].get("labels") or {}
        if not deployment or labels.get(DEPLOYMENT) != deployment:
            return
        left = next(_anything(there), None)
        if left is not None:
            log.info("the namespace %s stays: it has the %s %s", there.namespace, left.kind, left.name)
            return
        there.delete_namespace()
        wait_for(
            lambda: there.namespace_object() is None,
            timeout_s=GONE_S,
            interval_s=POLL_S,
            cancel=cancel,
            what=f"the namespace {there.namespace} to go",
        )

    def _is_missing(self, there: Api) -> bool:
        try:
            return there.namespace_object() is None
        except AccessDenied:
            return False  # who works in one namespace need not see that it is there

    def _api(self, deployment: str) -> Api:
        with self._lock:
            if deployment not in self._connected:
                self._connected[deployment] = apis.connect(self._target, deployment)
            return self._connected[deployment]

    def _ref(self, name: str, owner: Owner) -> ResourceRef:
        hosts = self._reach.hosts(owner.site, self._target.namespace)
        outputs = {
            "address": hosts[0] if hosts else "",
            "context": self._target.context,
            "namespace": self._target.namespace,
            "deployment": owner.deployment,
            "name": names.named(owner.site, names.MAX_RELEASE),
            "power": "running",
        }
        optional = {
            "dns_name": hosts[-1] if len(hosts) > 1 else "",
            "egress": self._egress,
            "kubeconfig": str(self._target.kubeconfig or ""),
        }
        outputs |= {key: value for key, value in optional.items() if value}
        place = f"{self._target.context}/{self._target.namespace}/{name}"
        return ResourceRef(kind=Kind.MACHINE, name=name, id=place, outputs=outputs)


def marker(name: str, owner: Owner, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the ConfigMap that stands for a site.

    Args:
        name: of the resource.
        owner: whose it is.
        more: what is known once it was started.
    """
    labels = {names.MANAGED_BY: names.PART_OF, **OF_SITE, **names.owner(owner.project, owner.site)}
    data = {**dict(zip(NAMES, (owner.project, owner.site), strict=True)), **(more or {})}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _owner(mark: Mapping[str, Any] | None) -> Owner | None:
    if mark is None:
        return None
    deployment = (mark["metadata"].get("labels") or {}).get(DEPLOYMENT)
    data = mark.get("data") or {}
    return Owner(deployment, *(str(data.get(key, "")) for key in NAMES)) if deployment else None


def refuse_taken(there: Api, owner: Owner) -> None:
    """Refuse a site that another deployment has in the namespace: what runs would be under the same names.

    Raises:
        Conflict: there is one.
    """
    if _others(there, owner):
        raise Conflict(_said(_others(there, owner)[0], there.namespace), hint="name another namespace")


def _others(there: Api, owner: Owner) -> list[Owner]:
    marks = there.all("ConfigMap", {**OF_SITE, **names.owner(owner.project, owner.site)})
    found = [one for one in map(_owner, marks) if one is not None]
    return [one for one in found if one.deployment != owner.deployment]


def _said(owner: Owner, namespace: str) -> str:
    return (
        f"{printable(owner.site)} of {printable(owner.project)} is in the namespace {namespace} already, "
        f"of the deployment {printable(owner.deployment)}"
    )


def _stem(name: str) -> str:
    """Return the name of a resource without its deployment (naming.resource_name)."""
    return name.rpartition("-")[0]


def _power(there: Api, mark: Mapping[str, Any]) -> str:
    data = mark.get("data") or {}
    if INSTALLED_NAME not in data:
        return "running"  # it was not started yet, and the plan says so itself
    found = there.get(Identity("Deployment", data[INSTALLED_NAME]))
    if found is None:
        return "without its Deployment, which somebody deleted"
    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    if image != data.get(INSTALLED_IMAGE, image):
        return f"changed: somebody gave it the image {image}"
    return "running" if found["spec"].get("replicas", 1) else "stopped"


def _objects(there: Api, owner: Owner, mark: str) -> Iterator[Identity]:
    """Yield what a site has in its namespace, but for its mark; jobs' pods last: its own pod would make new ones."""
    own = names.owner(owner.project, owner.site)
    for kind in KINDS:
        for one in there.all(kind, {**own, DEPLOYMENT: owner.deployment}):
            if one["metadata"]["name"] != mark:
                yield Identity(kind, one["metadata"]["name"])
    if _others(there, owner):
        return  # pods do not say of which deployment they are, and these are not ours: ours was refused
    for component in (names.JOB_COMPONENT, names.PARENT_COMPONENT):
        for one in there.all("Pod", {**own, names.COMPONENT: component}):
            yield Identity("Pod", one["metadata"]["name"])


def _anything(there: Api) -> Iterator[Identity]:
    """Yield what is in a namespace beside what the cluster itself puts into each."""
    for kind in (*KINDS, "Pod"):
        try:
            found = there.all(kind, {})
        except ProviderError as error:  # who cannot be sure that it is empty leaves it
            yield Identity(kind, f"(not known: {error.what})")
            continue
        for one in found:
            what = Identity(kind, one["metadata"]["name"])
            if what not in KEPT_IN_EVERY_NAMESPACE:
                yield what


_: type[ComputeProvider] = KubernetesProvider
