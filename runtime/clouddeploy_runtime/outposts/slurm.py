"""Jobs in batch jobs of a cluster: the launcher `slurm`. The nodes see this site's workspace at the same path."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import job_folders, study_runtime
from clouddeploy_runtime.errors import RuntimeFault, printable
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts import slurm_batch, slurm_settings
from clouddeploy_runtime.outposts.post import CREDENTIAL, Launch, Way, secrets
from clouddeploy_runtime.outposts.slurm_scheduler import BatchJob, Scheduler, SlurmRefused, SlurmSlow, State
from clouddeploy_runtime.outposts.slurm_settings import SlurmSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.post import Errand

log = logging.getLogger(__name__)

FOLDER = "slurm"
"""Beside the job's run folder, where the job cannot write: the credential while it counts, the batch job's words."""
HOPELESS = frozenset(
    {
        *("BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionTimeLimit", "PartitionNodeLimit"),
        *("AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit", "DependencyNeverSatisfied"),
    }
)
"""Reasons for which a batch job would wait for ever."""
_STARTS_S = 120.0
"""From the start of a batch job to its call; modules and images take their time."""
_LOOKS_S = 0.5
"""How often `near` asks; this module asks Slurm less often while the batch job waits."""
_LEAVES_S = 0.75
"""So long one that has said its last word may take to end by itself."""
_PAUSE_S = 0.25
_WORDS_BYTES = 500


class SlurmPost:
    """One job's batch job.

    Args:
        errand: what is to run.
        scheduler: where.
    """

    def __init__(self, errand: Errand, scheduler: Scheduler) -> None:
        self._errand = errand
        self._scheduler = scheduler
        self._settings = _settings(errand.settings)
        self._study = study_runtime.of(Path(errand.local), errand.study)
        self._wishes = slurm_settings.wishes(errand.wishes, self._settings)
        self._batch: BatchJob | None = None
        self._since = self._asked = 0.0
        self.folder = Path(errand.run_dir).with_name(FOLDER)
        host, bind = _host(self._settings.parent_host)
        pending_s = self._wishes.pending_timeout + _STARTS_S + self._settings.query_timeout
        self.way = Way(host, bind=bind, ports=self._settings.ports, pending_s=pending_s, poll_s=_LOOKS_S)
        self._make_folder()

    def open(self) -> Launch:
        """Submit the batch job."""
        errand = self._errand
        plan = slurm_batch.plan(
            errand,
            self._settings,
            self._study,
            self._wishes,
            folder=self.folder,
            secrets=secrets(self._study, self._errand.study),
        )
        if plan.setup:
            path = self.folder / slurm_batch.SETUP
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(plan.setup if plan.setup.endswith("\n") else f"{plan.setup}\n", encoding="utf-8")
        name, comment = slurm_batch.name_of(errand), slurm_batch.comment_of(errand.settings)
        for left in self._scheduler.commented(comment, name=name):  # of an earlier start of this job
            self._scheduler.cancel(left)
        try:
            self._batch = self._scheduler.submit(plan.options, plan.words)
        except SlurmSlow:
            # It may be there all the same: then it would start, and find nobody.
            for left in self._scheduler.commented(comment, name=name):
                self._scheduler.cancel(left)
            raise
        self._since = self._asked = time.monotonic()
        log.info("The job is the batch job %s, %s", self._batch.number, name)
        return plan.launch

    def problem(self) -> str:
        """Return why the batch job does not start, or how it ended; empty while it may run."""
        has_called = not (self.folder / CREDENTIAL).exists()
        now = time.monotonic()
        if self._batch is None or (not has_called and now - self._asked < self._settings.poll_interval):
            return ""
        self._asked = now
        try:
            state = self._scheduler.state(self._batch)
        except SlurmRefused as exc:  # a controller that restarts, or is busy: the batch job is still there
            log.warning("%s", printable(str(exc)))
            return ""
        if state.is_waiting:
            return self._waits(state, now - self._since)
        return self._ended(state) if state.has_ended else ""

    def stop(self) -> None:
        """Ask it to end."""
        if self._batch is not None:
            self._scheduler.cancel(self._batch)

    def close(self) -> None:
        """End it, unless it has ended by itself, and remove the job's folder."""
        try:
            if self._batch is not None and not self._has_left(self._batch):
                self._scheduler.cancel(self._batch)
            self._batch = None
        except RuntimeFault as exc:
            log.warning("The batch job may still be there: %s", printable(str(exc)))
        finally:
            job_folders.remove(self.folder)

    def _make_folder(self) -> None:
        run = Path(self._errand.run_dir)
        shared = self._settings.workspace_path
        if shared and not run.is_relative_to(Path(shared).resolve()):
            raise BadLauncher(
                f"The nodes do not see {run}",
                why=f"workspace_path of slurm_launcher is {shared}",
                hint="Start the site with start_slurm.sh of the prepared kit.",
            )
        if not job_folders.remove(self.folder):
            raise BadLauncher(
                f"{self.folder} cannot be removed",
                why="an earlier start of this job has left it",
                hint="Remove it, or correct its owner.",
            )
        try:
            self.folder.mkdir(mode=0o700)
        except OSError as exc:
            raise BadLauncher(
                f"{self.folder} cannot be made",
                why=exc.strerror or str(exc),
                hint="Make room on the shared file system, or correct the owner of the site's workspace.",
            ) from exc

    def _waits(self, state: State, waited_s: float) -> str:
        name = f"its batch job {self._number}"
        if state.reason in HOPELESS:
            return f"{name} would wait for ever: {state.reason}"
        if waited_s > self._wishes.pending_timeout:
            return f"{name} was not started within {self._wishes.pending_timeout:g} s: {state.word}, {state.reason}"
        return ""

    def _ended(self, state: State) -> str:
        name = f"its batch job {self._number}"
        if not state.word:
            return f"{name} is gone, and Slurm does not know how it ended"
        words = [state.word]
        if state.reason not in {"", "None", state.word}:
            words.append(state.reason)
        if state.exit_code:
            words.append(f"exit code {state.exit_code}")
        if state.signal:
            words.append(f"signal {state.signal}")
        said = self._last_words()
        return f"{name} has ended: {', '.join(words)}" + (f"; it said last: {said}" if said else "")

    def _last_words(self) -> str:
        try:
            with (self.folder / slurm_batch.WORDS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _WORDS_BYTES))
                data = file.read(_WORDS_BYTES)
        except OSError:
            return ""
        return printable(" ".join(data.decode(errors="replace").split()))

    @property
    def _number(self) -> str:
        return "" if self._batch is None else self._batch.number

    def _has_left(self, batch: BatchJob) -> bool:
        """Tell whether it has ended, or does in this moment: accounts shall not say that it was cancelled."""
        deadline = time.monotonic() + _LEAVES_S
        while True:
            state = self._scheduler.state(batch)
            if state.has_ended or state.word == "COMPLETING":
                return True
            if state.is_waiting or time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)


def check(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with the ones that were left out.

    Raises:
        BadLauncher: one is wrong; names it.
    """
    return asdict(slurm_settings.parse(settings))


def post(errand: Errand) -> SlurmPost:
    """Return the place of one job."""
    return SlurmPost(errand, Scheduler(_settings(errand.settings)))


def sweep(settings: Mapping[str, Any], _site: str) -> None:
    """Cancel the batch jobs of earlier jobs of this site."""
    if not settings.get("participant"):
        return  # whose they are would not be known
    scheduler = Scheduler(_settings(settings))
    for left in scheduler.commented(slurm_batch.comment_of(settings)):
        scheduler.cancel(left)
        log.info("The batch job %s was left by a site that was killed, and is cancelled", left.number)


def _settings(given: Mapping[str, Any]) -> SlurmSettings:
    return slurm_settings.parse({key: given[key] for key in SlurmSettings.__dataclass_fields__ if key in given})


def _host(given: str) -> tuple[str, str]:
    """Return this machine as nodes see it, and the address to listen on; empty: all.

    In an allocation a node's name is what Slurm calls it; elsewhere it is the machine's, unless that is known here
    alone (Debian's 127.0.1.1).
    """
    host = given or os.environ.get("SLURMD_NODENAME", "") or socket.getfqdn()
    try:
        found = {ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):
        found = set()
    if found and all(one.is_loopback for one in found):
        if given:
            return given, str(min(found, key=lambda one: one.version))
        if outward := _outward():
            return outward, ""
    return host, "::" if found and all(one.version == 6 for one in found) else ""  # noqa: PLR2004 - IPv6


def _outward() -> str:
    """Return the address of this machine on its way out; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
            return str(probe.getsockname()[0])
        except OSError:
            return ""
