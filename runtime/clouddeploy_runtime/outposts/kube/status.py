"""What the state of a pod, as the API server tells it, means for the job in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons to wait for that go away by no waiting."""
_SIGNALS = 128


def ended(pod: Mapping[str, Any]) -> str:
    """Return why a pod does not run any more, or never will; empty while it may."""
    status = pod.get("status") or {}
    if status.get("reason"):  # Evicted, NodeLost, DeadlineExceeded …
        return _clause(status["reason"], status.get("message"))
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        if state.get("terminated"):
            return _terminated(state["terminated"])
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return _clause(waiting["reason"], waiting.get("message"))
    over = f"its pod is {status['phase']}" if status.get("phase") in {"Failed", "Succeeded"} else ""
    deleted = "somebody has deleted its pod" if (pod.get("metadata") or {}).get("deletionTimestamp") else ""
    return _condition(status, "DisruptionTarget", "True") or over or deleted


def hindrance(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Return what keeps a pod from running so far, in the cluster's own words; empty: nothing that it tells."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return _clause(waiting["reason"], waiting.get("message"))
    unscheduled = _condition(status, "PodScheduled", "False")
    if unscheduled:
        return unscheduled
    warnings = [event for event in events if event.get("type") == "Warning"]
    return _clause(warnings[-1].get("reason"), warnings[-1].get("message")) if warnings else ""


def _condition(status: Mapping[str, Any], kind: str, value: str) -> str:
    for one in status.get("conditions") or []:
        if one.get("type") == kind and one.get("status") == value:
            return _clause(one.get("reason") or kind, one.get("message"))
    return ""


def _terminated(state: Mapping[str, Any]) -> str:
    code, reason = state.get("exitCode"), state.get("reason") or ""
    if reason == "OOMKilled":
        return "OOMKilled: its pod needed more memory than its limit"
    if code is not None and code > _SIGNALS and reason in {"", "Error"}:
        return f"its pod was ended by signal {code - _SIGNALS}"
    return _clause(f"its pod ended with {code}" + (f", {reason}" if reason else ""), state.get("message"))


def _clause(reason: Any, message: Any) -> str:
    text = " ".join(str(message).split()) if message else ""
    return f"{reason}: {text}" if text else str(reason)
