"""What is done for a site in Kubernetes once its place is made: stage its prepared kit, start its pod, wait for it."""

from __future__ import annotations

import ipaddress
import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from clouddeploy_providers.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ProviderError,
    QuotaError,
    Transient,
)
from clouddeploy_providers.resources import Owner
from clouddeploy_providers.waiters import wait_for
from clouddeploy_runtime.errors import ClouddeployError, printable
from clouddeploy_runtime.outposts.kube import names
from clouddeploy_runtime.study_runtime import FILE as STUDY_RUNTIME

from clouddeploy.clusters import api as apis
from clouddeploy.clusters import diagnosis, wishes
from clouddeploy.clusters.api import DEPLOYMENT, KINDS, Api
from clouddeploy.clusters.diagnosis import Seen, Verdict
from clouddeploy.clusters.provider import INSTALLED_IMAGE, INSTALLED_NAME, MARK, marker, refuse_taken
from clouddeploy.errors import ConfigError, DeployError
from clouddeploy.prepare import kit_files, staging
from clouddeploy.prepare.cluster import ClusterUnreachable, Identity
from clouddeploy.prepare.preparing import prepare
from clouddeploy.remote.bootstrap import Release

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.config import DeployConfig, SiteConfig
    from clouddeploy.prepare.staging import Output
    from clouddeploy.remote.host import Host
    from clouddeploy.site_work import SiteWork

READY_TIMEOUT_S = 600.0
"""An image with a framework has gigabytes, and a node may have to be made for the pod first."""
POLL_S = 2.0
LOG_LINES = 15
_DIGITS = 16


class SiteDown(DeployError):
    """A site's pod does not come up, and waiting will not change that."""

    error_code = "SITE_DOWN"


class ClusterHost:
    """One site's namespace, in the place of a machine; closed by who opened it.

    Args:
        name: of the site.
        api: its namespace.
        ref: of its place.
        folder: for the prepared kit, which has its key; of what a killed run has left there nothing stays.
    """

    def __init__(self, name: str, api: Api, ref: ResourceRef, folder: Path) -> None:
        self.name = name
        self.api = api
        self.ref = ref
        self.output: Output | None = None
        """The prepared kit, once it is staged."""
        self._folder = folder

    def empty_folder(self) -> Path:
        """Return a private folder for the prepared kit; it is gone after `close`."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        return self._folder

    def close(self) -> None:
        """Remove the prepared kit; may be repeated."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.api.client.rest_client.pool_manager.clear()


@dataclass(frozen=True)
class ClusterWork:
    """The work at the sites of a deploy file that run in Kubernetes; the others are somebody else's.

    Attributes:
        config: the deploy file.
        project: its name.
        server: the site of the server; None: it is not of this deployment.
        cancel: ends waits.
        room: a folder of the deployment, for kits on their way.
        ready_timeout_s: how long a site may take to serve, or to register.
        poll_s: between two looks.
    """

    config: DeployConfig
    project: str
    server: str | None
    cancel: threading.Event
    room: Path
    ready_timeout_s: float = READY_TIMEOUT_S
    poll_s: float = POLL_S

    def has(self, site: str) -> bool:
        """Tell whether a site runs in Kubernetes; one that has left the deploy file does not."""
        return any(one.name == site and wishes.is_clustered(one) for one in self.config.sites)

    def beside(self, work: SiteWork) -> SiteWork:
        """Return what is done for all sites: as `work` says, and for those in Kubernetes as this class does."""
        if not any(map(wishes.is_clustered, self.config.sites)):
            return work

        def chosen(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
            return lambda site, *given: (ours if self.has(site) else theirs)(site, *given)

        def started(site: str, host: Host, release: Release) -> None:
            self.start(site, cast("ClusterHost", host), release)

        return replace(
            work,
            open=chosen(self.open, work.open),
            install=chosen(self.install, work.install),
            start=chosen(started, work.start),
            wait_ready=chosen(self.wait_ready, work.wait_ready),
            ready_title="serve" if self.server is not None and self.has(self.server) else work.ready_title,
        )

    def open(self, site: str, ref: ResourceRef) -> ClusterHost:
        """Return a site's namespace.

        Raises:
            NotFound: the site has no place there any more.
            ClusterUnreachable: it does not answer.
        """
        target = wishes.target_of(self.config.site(site).settings)
        api = apis.connect(target, ref.outputs.get("deployment", ""))
        there = ClusterHost(site, api, ref, self.room / names.named(site))
        if there.api.get(Identity("ConfigMap", ref.name)) is None:
            raise NotFound(f"the place of {site} in {target.namespace} does not exist", hint="apply again")
        return there

    def install(self, site: str, host: ClusterHost, kit: Path | None) -> Release:
        """Stage a site's kit: a ConfigMap of `local/`, a Secret of `startup/`. What runs goes on as it is.

        Raises:
            Conflict: another deployment has the site there.
            PrepareError: the kit cannot be prepared, or the names are somebody else's there.
            ProviderError: the cluster refuses.
        """
        refuse_taken(host.api, Owner(host.ref.outputs["deployment"], self.project, site))
        if kit is None:
            raise ConfigError(f"there is no kit for {site}", hint="say `keys: central` for it")
        wanted, study = self._wanted(site)
        root = host.empty_folder() / "kit"
        prepared = prepare(kit, config=wanted, target=root)
        if study is not None:
            shutil.copyfile(study, root / "local" / STUDY_RUNTIME)
        output = staging.read(prepared.kit.output)
        staging.stage(output, host.api)
        host.output = staging.read(root)
        release = f"{wishes.digest(wanted, study)}-{kit_files.digest(root)[:_DIGITS]}"
        return Release(release, f"{host.api.namespace}/{output.name}", wanted.parent.docker_image)

    def start(self, site: str, host: ClusterHost, release: Release) -> None:
        """Make the objects of a site as they should be; its pod starts anew where something has changed for it.

        Raises:
            PrepareError: a name is somebody else's.
            ProviderError: the cluster refuses.
        """
        output = host.output
        assert output is not None  # noqa: S101 - `install` came first
        made = staging.install(output, host.api)
        own = {DEPLOYMENT: host.ref.outputs["deployment"], **names.owner(self.project, site)}
        files = output.values["workspaceConfig"]
        kept = {
            *made,
            Identity("ConfigMap", host.ref.name),
            Identity("ConfigMap", files["local"]["configMapName"]),
            Identity("Secret", files["startup"]["secretName"]),
        }
        for kind in KINDS:
            if kind == "PersistentVolumeClaim":
                continue  # an earlier workspace has results that nobody else has
            for one in host.api.all(kind, own):
                what = Identity(kind, one["metadata"]["name"])
                if what not in kept and MARK not in one["metadata"]["labels"]:
                    host.api.delete(what)
        owner = Owner(own[DEPLOYMENT], self.project, site)
        more = {INSTALLED_NAME: output.name, INSTALLED_IMAGE: release.python, "release": release.digest}
        host.api.apply(marker(host.ref.name, owner, more))

    def wait_ready(self, site: str, host: ClusterHost, release: Release, address: str) -> None:
        """Return once a site's pod serves or is registered, and a server's load balancer has the address of the kits.

        Raises:
            SiteDown: it will not come up, with the cluster's words and the end of its log.
            QuotaError: a quota of the namespace is reached.
            DeadlineExceeded: it has not come up in time; says what keeps it.
        """
        name = release.root.rpartition("/")[2]
        last = [Verdict(is_ready=False)]
        try:
            wait_for(
                partial(self._is_up, site, host.api, name, last),
                timeout_s=self.ready_timeout_s,
                interval_s=self.poll_s,
                cancel=self.cancel,
                what=f"{site} to {'serve' if site == self.server else 'register'}",
            )
        except DeadlineExceeded as error:
            tail = self._tail(host.api, last[0])
            why = printable(f"{last[0].why or error.why}{tail}")
            raise DeadlineExceeded(error.what, why=why, hint=self._look(host.api.namespace)) from error
        if site == self.server:
            self._wait_reached(site, host.api, address)

    def status(self, site: str, ref: ResourceRef) -> tuple[str, str]:
        """Return how a site is, and why it is not as it should be; `unreachable` when the cluster is."""
        try:
            target = wishes.target_of(self.config.site(site).settings)
            there = apis.connect(target, ref.outputs.get("deployment", ""))
            verdict = diagnosis.judge(self.look(there, ref.outputs["name"]))
        except ClouddeployError as error:
            return "unreachable", printable(str(error))
        healthy = "serving" if site == self.server else "registered"
        return healthy if verdict.is_ready else "not ready", printable(verdict.why)

    def outdated(self, installed: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
        """Return the sites which the deploy file wants otherwise than they are; their kits are left aside.

        Args:
            installed: by site, what the state says.
        """
        changed = []
        for site in filter(wishes.is_clustered, self.config.sites):
            known, is_ours, _ = installed.get(site.name, {}).get("release", "").partition("-")
            if is_ours and known != wishes.digest(*self._wanted(site.name)):
                changed.append(site.name)
        return tuple(changed)

    def log(self, site: str, ref: ResourceRef, *, lines: int) -> str:
        """Return the last lines that a site's pod has printed.

        Raises:
            NotFound: it has no pod.
            ProviderError: the cluster refuses.
        """
        target = wishes.target_of(self.config.site(site).settings)
        there = apis.connect(target, ref.outputs.get("deployment", ""))
        seen = self.look(there, ref.outputs["name"])
        text = there.log(seen.pods[-1]["metadata"]["name"], lines=lines) if seen.pods else None
        if text is None:
            why = diagnosis.judge(seen).why
            raise NotFound(f"{site} has no pod", why=printable(why), hint=self._look(target.namespace))
        return text

    @staticmethod
    def look(there: Api, name: str) -> Seen:
        """Return what a cluster has of a site, with what it says about all that is not ready."""
        deployment = there.get(Identity("Deployment", name))
        if deployment is None or diagnosis.is_ready(deployment):
            pods = [] if deployment is None else _pods(there, deployment)
            return Seen(deployment, pods)
        pods = _pods(there, deployment)
        spec = deployment["spec"]["template"]["spec"]
        claims = [
            one["persistentVolumeClaim"]["claimName"] for one in spec["volumes"] if "persistentVolumeClaim" in one
        ]
        claim = there.get(Identity("PersistentVolumeClaim", claims[0])) if claims else None
        said = {one: there.events("Pod", one) for one in (pod["metadata"]["name"] for pod in pods[-1:])}
        said |= {one: there.events("PersistentVolumeClaim", one) for one in claims}
        return Seen(deployment, pods, claim, said)

    def _wanted(self, site: str) -> tuple[Any, Path | None]:
        one: SiteConfig = self.config.site(site)
        return wishes.config_of(one, self.config.federation_sources), wishes.study_runtime_of(one)

    def _is_up(self, site: str, there: Api, name: str, last: list[Verdict]) -> bool:
        try:
            verdict = diagnosis.judge(self.look(there, name))
        except ClusterUnreachable as error:
            raise Transient(error.what, why=error.why, hint=error.hint) from error
        last[0] = verdict
        if verdict.is_quota:
            hint = f"kubectl --namespace {there.namespace} describe resourcequota"
            raise QuotaError(f"the pod of {site} cannot be made", why=printable(verdict.why), hint=hint)
        if verdict.is_hopeless:
            why = printable(f"{verdict.why}{self._tail(there, verdict)}")
            raise SiteDown(f"{site} does not come up", why=why, hint=self._look(there.namespace))
        return verdict.is_ready

    def _wait_reached(self, site: str, there: Api, address: str) -> None:
        """Return once a load balancer has its address, and hold it against the one that clients go to."""
        settings = self.config.site(site).settings
        if settings.get("service") != wishes.BALANCER:
            return
        what = Identity("Service", wishes.service_name(site))
        found: list[Mapping[str, Any]] = []

        def has_address() -> bool:
            status = (there.get(what) or {}).get("status") or {}
            found[:] = (status.get("loadBalancer") or {}).get("ingress") or []
            return bool(found)

        try:
            wait_for(
                has_address,
                timeout_s=self.ready_timeout_s,
                interval_s=self.poll_s,
                cancel=self.cancel,
                what=f"the load balancer of {site} to have an address",
            )
        except DeadlineExceeded as error:
            said = [one for one in there.events("Service", what.name) if one.get("type") == "Warning"]
            why = printable(str(said[-1].get("message"))) if said else error.why
            raise DeadlineExceeded(error.what, why=why, hint=self._look(there.namespace, "services")) from error
        have = [str(one["ip"]) for one in found if one.get("ip")]
        if have and _is_address(address) and address not in have:
            raise InvalidRequest(
                f"the load balancer of {site} has the address {printable(', '.join(have))}",
                why=f"the kits of all clients lead to {address}",
                hint="give it the reserved address (`cloud`, `address`), or name its own as `host`; then apply again",
            )

    @staticmethod
    def _tail(there: Api, verdict: Verdict) -> str:
        if not verdict.crashed:
            return ""
        try:
            text = there.log(verdict.crashed, lines=LOG_LINES, is_previous=True) or ""
            text = text or there.log(verdict.crashed, lines=LOG_LINES) or ""
        except ProviderError:
            return ""
        return f"; the end of its log:\n{text.strip()}" if text.strip() else ""

    @staticmethod
    def _look(namespace: str, what: str = "pods") -> str:
        return f"mend it and apply again; kubectl --namespace {namespace} describe {what} says more"


def _pods(there: Api, deployment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of a deployment, the newest last."""
    found = there.all("Pod", deployment["spec"]["selector"]["matchLabels"])
    return sorted(found, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
