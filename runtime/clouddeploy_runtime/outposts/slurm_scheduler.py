"""Slurm, asked by its own commands.

Each has a time limit, and none gets more of this process's environment than it needs: that of `sbatch` becomes the
batch job's.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ExitCode, RuntimeFault, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.outposts.slurm_settings import SlurmSettings

SCRIPT = Path(__file__).with_name("slurm_job.sh")
_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "LD_LIBRARY_PATH"),
    *("SLURM_CONF", "SLURM_CONF_SERVER", "MUNGE_SOCKET"),
)
_SUBMITTED = re.compile(r"([0-9]{1,10})(?:;([A-Za-z0-9._-]{1,64}))?")
_SHOWN = re.compile(r"JobState=(\S+) Reason=(.*?) Dependency=")
_EXIT = re.compile(r"\bExitCode=([0-9]+):([0-9]+)\b")
_UNKNOWN = "invalid job id"
_WAITS = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
_RUNS = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})
_WORDS_BYTES = 500


class SlurmRefused(RuntimeFault):
    """Slurm does not do what it was asked, or cannot be asked."""

    error_code = "SLURM_REFUSED"


class SlurmSlow(SlurmRefused):
    """Slurm has not answered in time; it may have done what it was asked."""

    exit_code = ExitCode.TIMEOUT
    error_code = "SLURM_TIMEOUT"


@dataclass(frozen=True)
class BatchJob:
    """One that was submitted."""

    number: str
    cluster: str = ""
    """Of several that are managed together; empty: the only one."""


@dataclass(frozen=True)
class State:
    """What became of a batch job.

    Attributes:
        word: Slurm's, such as PENDING; empty: it does not know the job any more.
        reason: Slurm's, such as Resources; `None` is its word for none.
        exit_code: of the batch script.
        signal: that ended it.
    """

    word: str = ""
    reason: str = ""
    exit_code: int = 0
    signal: int = 0

    @property
    def is_waiting(self) -> bool:
        """Whether it has not started."""
        return self.word in _WAITS

    @property
    def has_ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.word not in _WAITS | _RUNS


class Scheduler:
    """The Slurm that this account's commands talk to.

    Args:
        settings: where they are, and how long they may take.
    """

    def __init__(self, settings: SlurmSettings) -> None:
        self._settings = settings

    def submit(self, options: Sequence[str], words: Sequence[str]) -> BatchJob:
        """Submit the script of a job.

        Args:
            options: of sbatch.
            words: the script's arguments.

        Raises:
            SlurmRefused: with what sbatch says.
        """
        said = self._run(
            "sbatch", ["--parsable", *options, str(SCRIPT), *words], timeout_s=self._settings.submit_timeout
        )
        match = _SUBMITTED.fullmatch(said.strip())
        if match is None:
            raise _refused("sbatch", f"it answers {said[:_WORDS_BYTES]!r}, which is no number of a batch job")
        return BatchJob(match[1], match[2] or "")

    def state(self, job: BatchJob) -> State:
        """Return what became of a batch job.

        The controller forgets a job some minutes after its end; then accounting is asked, where there is one.

        Raises:
            SlurmRefused: it cannot be told.
        """
        limit_s = self._settings.query_timeout
        try:
            said = self._run("scontrol", [*_cluster(job), "--oneliner", "show", "job", job.number], timeout_s=limit_s)
        except SlurmRefused as exc:
            if _UNKNOWN not in exc.why.lower():
                raise
            return self._accounted(job)
        shown, code = _SHOWN.search(said), _EXIT.search(said)
        if shown is None:
            raise _refused("scontrol", f"it answers {said[:_WORDS_BYTES]!r}, which tells no state")
        ended = (int(code[1]), int(code[2])) if code else (0, 0)
        return State(shown[1], shown[2], *ended)

    def cancel(self, job: BatchJob) -> None:
        """End a batch job; harmless when it has ended.

        Raises:
            SlurmRefused: it may still be there.
        """
        self._run("scancel", [*_cluster(job), "--quiet", job.number], timeout_s=self._settings.cancel_timeout)

    def commented(self, comment: str, *, name: str = "") -> list[BatchJob]:
        """Return this account's batch jobs that have not ended and have just this comment, and this name.

        Raises:
            SlurmRefused: it cannot be told.
        """
        words = ["--noheader", f"--user={os.getuid()}", "--format=%A|%k"]
        said = self._run(
            "squeue", [*words, *([f"--name={name}"] if name else [])], timeout_s=self._settings.query_timeout
        )
        rows = (line.strip().partition("|") for line in said.splitlines())
        return [BatchJob(number) for number, _, own in rows if own == comment and number.isdecimal()]

    def _accounted(self, job: BatchJob) -> State:
        words = [
            *_cluster(job),
            "--allocations",
            "--noheader",
            "--parsable2",
            "--format=State,ExitCode",
            "--jobs",
            job.number,
        ]
        try:
            said = self._run("sacct", words, timeout_s=self._settings.query_timeout)
        except SlurmRefused:  # there is no accounting
            return State()
        state, _, code = said.strip().partition("|")
        numbers = [int(one) for one in code.split(":") if one.isdecimal()]
        found = state.split(maxsplit=1)
        if not found:
            return State()
        return State(found[0], state if len(found) > 1 else "", *(numbers[:2] if len(numbers) > 1 else ()))

    def _run(self, name: str, words: Sequence[str], *, timeout_s: float) -> str:
        environment = {one: os.environ[one] for one in _PASSED_ON if one in os.environ}
        try:
            done = subprocess.run(
                [self._settings.executables.get(name, name), *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_s,
                cwd="/",  # here it is a folder in which the job writes
                start_new_session=True,  # what asks this process to end must not end a submission or a cancellation
            )
        except subprocess.TimeoutExpired as exc:
            raise SlurmSlow(
                f"{name} has not answered", why=f"within {timeout_s:g} s", hint="Look whether slurmctld is there: sinfo"
            ) from exc
        except OSError as exc:
            raise SlurmRefused(
                f"{name} cannot be run",
                why=exc.strerror or str(exc),
                hint='Install the client commands of Slurm, or name them under "executables" of slurm_launcher.',
            ) from exc
        if done.returncode != 0:
            raise _refused(name, done.stderr.strip() or f"it ended with {done.returncode}")
        return done.stdout


def _cluster(job: BatchJob) -> list[str]:
    return [f"--clusters={job.cluster}"] if job.cluster else []


def _refused(name: str, why: str) -> SlurmRefused:
    return SlurmRefused(
        f"Slurm refuses ({name})",
        why=printable(" ".join(why[-_WORDS_BYTES:].split())),
        hint="Correct slurm_launcher in local/resources.json, or what the job asks for.",
    )
