"""What carries out one run of a deployment: in a process of its own, which tells its parent what happens.

A rehearsal changes namespaces and variables of its process, and an apply may take an hour and much memory: neither is
to be in the process that answers browsers. When that one ends, the pipe does too, and the run stops after what is in
flight; the same call resumes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import wheelhouse
from clouddeploy.dashboard import deploy_paths
from clouddeploy.deployment import Deployment
from clouddeploy.secrets import Secret

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from clouddeploy.plan import Plan
    from clouddeploy.scheduler import Event

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        verb: plan, rehearse, apply or destroy.
        file: the deploy file.
        passphrase: of the certificate authority.
        roots: folders that the deploy file is held to; None: to none.
    """

    verb: str
    file: str
    passphrase: str
    roots: list[str] | None = None


def main(pipe: Connection) -> None:
    """Runs in the new process: reads the order, tells lines, and at last how it ended."""
    order = Order(**json.loads(pipe.recv_bytes()))
    cancel = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: cancel.set())
    threading.Thread(target=_listen, args=(pipe, cancel), daemon=True).start()
    worker = _Worker(order, pipe, cancel)
    try:
        worker.tell(end={"error": None, **worker.run(), **worker.summary()})
    except ClouddeployError as error:
        told = {"code": error.error_code, "message": str(error), "hint": error.hint}
        worker.tell(end={"error": told, **worker.summary()})
    except Exception as error:  # the process's edge: the page says it, the log has it
        log.exception("a defect in %s", order.verb)
        told = {"code": "DEFECT", "message": f"a defect ({type(error).__name__})", "hint": "see the dashboard's log"}
        worker.tell(end={"error": told})


def _listen(pipe: Connection, cancel: threading.Event) -> None:
    """Waits for the word to stop. That the pipe ends is one too: nobody would see the rest."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()
    cancel.set()


class _Worker:
    def __init__(self, order: Order, pipe: Connection, cancel: threading.Event) -> None:
        self._order = order
        self._pipe = pipe
        self._cancel = cancel
        self._file = Path(order.file)
        self._is_checked = False

    def tell(self, **what: Any) -> None:
        try:
            self._pipe.send_bytes(json.dumps(what).encode())
        except OSError:
            self._cancel.set()  # nobody listens any more

    def run(self) -> dict[str, Any]:
        """Does it; returns what it came to.

        Raises:
            ClouddeployError: among others ConfigError, when the deploy file names what it must not. That was seen when
                it was sent in; but links, and what the operator allows, may have changed since.
        """
        if self._order.roots is not None:
            deploy_paths.check(self._file, tuple(map(Path, self._order.roots)))
        self._is_checked = True
        if self._order.verb == "rehearse":
            return self._rehearse()
        deployment = Deployment(self._file, cancel=self._cancel)
        if self._order.verb == "plan":
            return _planned(deployment.plan())
        if self._order.verb == "destroy":
            destroyed = deployment.destroy(on_event=self._on_event)
            return {"text": f"{len(destroyed.deleted)} deleted, nothing left."}
        applied = deployment.apply(Secret(self._order.passphrase), on_event=self._on_event)
        for warning in applied.warnings:
            self.tell(line=f"Warning: {warning}")
        return {"text": f"{len(applied.ready_after_s)} site(s) are ready."}

    def _rehearse(self) -> dict[str, Any]:
        from clouddeploy import rehearse  # noqa: PLC0415 - an extra

        with tempfile.TemporaryDirectory(prefix="clouddeploy-rehearsal-", ignore_cleanup_errors=True) as directory:
            done = rehearse.rehearse(
                self._file,
                directory=Path(directory),
                cache=wheelhouse.default_cache(),
                job=None,
                as_root=os.geteuid() == 0,
                cancel=self._cancel,
                on_event=self._on_event,
                on_phase=lambda line: self.tell(line=f"== {line}"),
            )
        job = f" Job {done.job.name}: {done.job.status}." if done.job is not None else ""
        return {"text": f"{done.created} resources created, {len(done.left)} left, {done.seconds:.1f} s.{job}"}

    def summary(self) -> dict[str, Any]:
        """Returns what there is after the run, as far as it can be found out."""
        if self._order.verb == "rehearse" or not self._is_checked:
            return {}
        try:
            deployment = Deployment(self._file)
            owned = [one for one in deployment.recorded().resources.values() if not one.ref.is_adopted]
            prices = [one.price.usd_per_hour for one in deployment.costs() if one.price is not None]
        except ClouddeployError as error:
            log.info("what there is of %s is not known: %s", self._file, error)
            return {}
        return {"resources": len(owned), "usd_per_hour": round(sum(prices), 4)}

    def _on_event(self, event: Event) -> None:
        if event.phase == "start":
            return
        seconds = f" {event.seconds:6.2f} s" if event.phase in {"done", "again", "failed"} else ""
        why = f"  {event.error}" if event.error is not None else ""
        self.tell(line=f"{event.site:<12} {event.title:<28} {event.phase}{seconds}{why}")


def _planned(plan: Plan) -> dict[str, Any]:
    changes = [
        {
            "action": change.action,
            "node": change.node,
            "name": change.name,
            "place": change.place,
            "size": change.size,
            "reason": change.reason,
            "usd_per_hour": change.price.usd_per_hour if change.price is not None else None,
        }
        for change in plan.changes
    ]
    return {
        "text": f"{len(plan.pending)} change(s), {len(plan.changes) - len(plan.pending)} as wanted.",
        "changes": changes,
        "planned_usd_per_hour": round(plan.usd_per_hour, 4),
        "notes": [f"Warning: {one}" for one in plan.warnings] + [f"Problem: {one}" for one in plan.problems],
    }
