"""Runs of deployments: one at a time for each, in a process of its own; what it tells is kept for the page."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from clouddeploy_provision.ca_records import write_atomic

from clouddeploy.dashboard.errors import Conflict, Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy.dashboard.deploy_paths import Bounds
    from clouddeploy.secrets import Secret

log = logging.getLogger(__name__)
_MAX_LINES = 2000
_KEPT = ".runs"
VERBS = ("plan", "rehearse", "apply", "destroy")
CONFIRMED = frozenset({"apply", "destroy"})
"""What spends money or ends something."""
RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass(frozen=True)
class Run:
    """One run, as far as it is.

    Attributes:
        name: the deployment's.
        verb: what it does.
        by: who started it.
        began: when; ISO 8601.
        state: running, done or failed.
        revision: another one with each change.
        lines: what happened, the oldest first.
        result: what it came to, once it has ended: `text`, `error`, `changes` of a plan, `resources`, `usd_per_hour`.
        is_cancelled: whether somebody told it to stop.
    """

    name: str
    verb: str
    by: str
    began: str
    state: str = RUNNING
    revision: int = 0
    lines: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    is_cancelled: bool = False


class Pipe(Protocol):
    """One end of what joins this process and the run's."""

    def send_bytes(self, buf: bytes, /) -> None:
        """Sends one message."""

    def recv_bytes(self, /) -> bytes:
        """Returns the next message; an EOFError says that there will be none."""

    def close(self) -> None:
        """Ends it; the other side notices."""


def spawned() -> Pipe:
    """Starts a process that waits for an order; returns the pipe to it.

    Not a fork: this process has threads, whose locks a copy would inherit locked.
    """
    from clouddeploy.dashboard import deploy_worker  # noqa: PLC0415 - slow to load, and only here

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=deploy_worker.main, args=(theirs,), name="deployment").start()
    theirs.close()  # else the end of the process would not end the pipe
    return ours


class Runs:
    """Starts them and keeps the last of each deployment; safe for several threads.

    Args:
        launch: starts a process; a test gives its own.
        bounds: where the files are that a deploy file may name; None: anywhere.
    """

    def __init__(self, launch: Callable[[], Pipe] = spawned, *, bounds: Bounds | None = None) -> None:
        self._launch = launch
        self.bounds = bounds
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._pipes: dict[str, Pipe] = {}

    def start(
        self,
        run: Run,
        *,
        file: Path,
        passphrase: Secret,
        ended: Callable[[Run], None] = lambda _run: None,
    ) -> None:
        """Starts a run.

        Args:
            run: which.
            file: the deploy file.
            passphrase: of the certificate authority; goes through the pipe, where nobody else sees it.
            ended: called in a thread when it has ended.

        Raises:
            Conflict: another one of the same deployment runs.
            Invalid: there is no such verb.
        """
        if run.verb not in VERBS:
            raise Invalid("nothing was started", why=f"it says neither of {', '.join(VERBS)}")
        with self._lock:
            if run.name in self._pipes:
                raise Conflict(
                    f"{run.verb} was not started",
                    why=f"{self._runs[run.name].verb} of {run.name} runs",
                    hint="wait for it",
                )
            pipe = self._launch()
            self._pipes[run.name], self._runs[run.name] = pipe, run
        roots = self.bounds.of(file) if self.bounds is not None else None
        order = {
            "verb": run.verb,
            "file": str(file),
            "passphrase": passphrase.reveal(),
            "roots": None if roots is None else [str(one) for one in roots],
        }
        threading.Thread(target=self._follow, args=(run.name, pipe, order, file, ended), daemon=True).start()

    def cancel(self, name: str) -> None:
        """Tells a run to stop after what is in flight, as Ctrl-C does; the same call resumes it.

        Raises:
            Conflict: none runs.
        """
        with self._lock:
            pipe = self._pipes.get(name)
            if pipe is None:
                raise Conflict("nothing was stopped", why=f"nothing of {name} runs")
            self._change(name, is_cancelled=True)
            pipe.send_bytes(b"cancel")

    def is_busy(self, name: str) -> bool:
        """Tells whether one runs."""
        return name in self._pipes

    def last(self, name: str, *, file: Path) -> Run | None:
        """Returns the run of a deployment that runs, or the last one; one of an earlier process too."""
        found = self._runs.get(name)
        return found if found is not None else _kept(file, name)

    def close(self) -> None:
        """Tells every run to stop after what is in flight; they end by themselves.

        The pipes stay open: what is read in one thread must not be closed in another.
        """
        for name in list(self._pipes):
            with contextlib.suppress(Conflict, OSError):  # it has just ended
                self.cancel(name)

    def _follow(
        self, name: str, pipe: Pipe, order: Mapping[str, Any], file: Path, ended: Callable[[Run], None]
    ) -> None:
        result: Mapping[str, Any] = {
            "error": {"code": "ENDED", "message": "the run ended without a word", "hint": "see the dashboard's log"}
        }
        try:
            pipe.send_bytes(json.dumps(order).encode())
            while True:
                told = _understood(pipe.recv_bytes())
                if isinstance(told.get("end"), dict):
                    result = told["end"]
                    break
                if "line" in told:
                    with self._lock:
                        self._change(name, lines=(*self._runs[name].lines, str(told["line"]))[-_MAX_LINES:])
        except (EOFError, OSError) as error:
            log.warning("%s of %s ended without a word (%s)", order["verb"], name, type(error).__name__)
        state = FAILED if result.get("error") else DONE
        with self._lock:
            del self._pipes[name]
            run = self._change(name, state=state, result=result)
        pipe.close()
        try:
            _keep(file, run)
        except OSError as error:
            log.warning("what came of %s of %s is not kept: %s", run.verb, name, error)
        ended(run)

    def _change(self, name: str, **changes: Any) -> Run:
        before = self._runs[name]
        self._runs[name] = replace(before, **changes, revision=before.revision + 1)
        return self._runs[name]


def _understood(message: bytes) -> dict[str, Any]:
    """Returns what a run told; nothing, when it is torn: one line that is lost must not lose the rest of the run."""
    try:
        told = json.loads(message)
    except ValueError:
        told = None
    if isinstance(told, dict):
        return told
    log.warning("%d bytes that a run told are not understood", len(message))
    return {}


def _keep(file: Path, run: Run) -> None:
    folder = file.parent / _KEPT
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(folder / f"{run.name}.json", json.dumps(asdict(run)).encode())


def _kept(file: Path, name: str) -> Run | None:
    try:
        found = json.loads((file.parent / _KEPT / f"{name}.json").read_bytes())
        return Run(**{**found, "lines": tuple(found["lines"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
