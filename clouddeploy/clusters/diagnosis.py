"""Why a site's pod is not ready, in the cluster's own words; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.outposts.kube import status as states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Object = dict[str, Any]
HOPELESS = frozenset({"ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"})
"""Reasons to wait where somebody has to do something; an image that could not be pulled was tried more than once."""
RESTARTS = 2
"""A process that ended so often does not come up by itself: each time it had what it needs."""
CRASHED = "CrashLoopBackOff"


@dataclass(frozen=True)
class Seen:
    """What a cluster has of a site.

    Attributes:
        deployment: of its pod; None: there is none.
        pods: those of the deployment, the newest last.
        claim: of its workspace; None: there is none, or it is somebody else's.
        events: by the name of an object, what is said about it.
    """

    deployment: Mapping[str, Any] | None
    pods: Sequence[Mapping[str, Any]] = ()
    claim: Mapping[str, Any] | None = None
    events: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """How a site is.

    Attributes:
        is_ready: its newest pod serves or is registered, and no older one is left.
        why: what keeps it from that; empty: nothing that the cluster tells.
        is_hopeless: it will not come up by itself.
        is_quota: a quota of the namespace is reached.
        crashed: name of a pod whose process ends again and again, so that its log tells more; empty: none.
    """

    is_ready: bool
    why: str = ""
    is_hopeless: bool = False
    is_quota: bool = False
    crashed: str = ""


def judge(seen: Seen) -> Verdict:
    """Return how a site is."""
    if seen.deployment is None:
        return Verdict(is_ready=False, why="its Deployment is not there")
    if is_ready(seen.deployment):
        return Verdict(is_ready=True)
    status = seen.deployment.get("status") or {}
    refused = _condition(status, "ReplicaFailure", "True")
    if refused:
        is_quota = "exceeded quota" in refused
        return Verdict(is_ready=False, why=refused, is_hopeless=True, is_quota=is_quota)
    if not (seen.deployment.get("spec") or {}).get("replicas", 1):
        return Verdict(is_ready=False, why="it was stopped: its Deployment has no replicas")
    claim = _claim(seen)
    if not seen.pods:
        return Verdict(is_ready=False, why=claim)
    return _of_pod(seen, seen.pods[-1], claim)


def is_ready(deployment: Mapping[str, Any]) -> bool:
    """Tell whether the newest pod is ready, and no older one is counted in its place."""
    status = deployment.get("status") or {}
    is_seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    is_alone = status.get("replicas", 0) == updated and not status.get("unavailableReplicas")
    return bool(is_seen and updated >= 1 and ready >= 1 and is_alone)


def _of_pod(seen: Seen, pod: Mapping[str, Any], claim: str) -> Verdict:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason in HOPELESS:
            said = _warning(seen.events.get(name, ()), "Failed") or str(waiting.get("message") or "")
            return Verdict(is_ready=False, why=_clause(reason, said), is_hopeless=True)
        ended = (container.get("lastState") or {}).get("terminated")
        if ended or reason == CRASHED:
            is_over = reason == CRASHED and container.get("restartCount", 0) >= RESTARTS
            why = states.ended({"status": {"containerStatuses": [{"state": {"terminated": ended}}]}}) if ended else ""
            return Verdict(is_ready=False, why=why or str(reason), is_hopeless=is_over, crashed=name)
    if claim:
        return Verdict(is_ready=False, why=claim)
    why = states.hindrance({"status": status}, seen.events.get(name, ()))
    return Verdict(is_ready=False, why=why or "it is up, and neither serves nor is registered yet")


def _claim(seen: Seen) -> str:
    """Return why the claim of the workspace has no volume; empty: it has one, or waits for its pod."""
    if seen.claim is None or (seen.claim.get("status") or {}).get("phase", "Bound") != "Pending":
        return ""
    name = seen.claim["metadata"]["name"]
    said = _warning(seen.events.get(name, ()), "") or "no volume was made for it yet"
    return f"its claim {name} is pending: {said}"


def _warning(events: Sequence[Mapping[str, Any]], reason: str) -> str:
    found = [
        one
        for one in events
        if one.get("type") == "Warning" and (not reason or one.get("reason") == reason) and one.get("message")
    ]
    telling = [one for one in found if ": " in str(one["message"])] or found  # "Error: ErrImagePull" says nothing
    telling = [one for one in telling if not str(one["message"]).startswith("Error: ")] or telling
    return " ".join(str(telling[-1]["message"]).split()) if telling else ""


def _condition(status: Mapping[str, Any], kind: str, value: str) -> str:
    for one in status.get("conditions") or []:
        if one.get("type") == kind and one.get("status") == value:
            return _clause(one.get("reason") or kind, one.get("message"))
    return ""


def _clause(reason: Any, message: Any) -> str:
    text = " ".join(str(message).split()) if message else ""
    return f"{reason}: {text}" if text else str(reason)
