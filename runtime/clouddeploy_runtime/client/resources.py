"""What a site lends to jobs: graphics cards, processors and memory; reserved, claimed by a job, given back."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess  # nvidia-smi is the only way to the driver that needs no library of it
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.errors import NoResources
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.settings import Settings

log = logging.getLogger(__name__)

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
_SMI_S = 20.0
"""The driver may have to wake up first."""
_GIB = 1 << 30
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Wanted(msgspec.Struct, frozen=True):
    """What a job needs at a site, in the words of its resource_spec."""

    num_of_gpus: int = 0
    mem_per_gpu_in_GiB: float = 0.0  # noqa: N815 - the reference's word
    num_of_cpus: int = 0
    memory_in_GiB: float = 0.0  # noqa: N815


@dataclass(frozen=True)
class Machine:
    """What there is."""

    cpus: int
    memory_gib: float
    gpus: tuple[str, ...]
    """As they stand in CUDA_VISIBLE_DEVICES."""


@dataclass(eq=False)
class _Held:
    wanted: Wanted
    gpus: tuple[str, ...]
    job_id: str
    until: float | None
    """None: a job has claimed it, and keeps it until it ends."""


class ResourceManager:
    """Lends each card to one job at a time, and no more processors and memory than there are.

    Args:
        settings: how many cards the site offers, and how long a reservation stands.
        machine: what there is; default: this one.
        clock: seconds that only grow.
    """

    def __init__(
        self, settings: Settings, *, machine: Machine | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._machine = machine or this_machine(settings)
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def check(self, job_id: str, need: bytes) -> str:
        """Hold what a job needs until it claims it, or `Settings.reservation_s` have passed.

        A second question for the same job is answered anew: the first reservation ends.

        Returns:
            The reservation, to be claimed or released.

        Raises:
            NoResources: the site has not, or not now, so much; says of what.
        """
        return self._hold(job_id, _wanted(need), until=self._clock() + self._settings.reservation_s)

    def _hold(self, job_id: str, wanted: Wanted, *, until: float | None) -> str:
        self._expire()
        for token in [token for token, held in self._held.items() if held.job_id == job_id and held.until is not None]:
            del self._held[token]
        free = self._free()
        if not self._settings.is_passthrough:
            self._require(wanted, free)
        # The need stands in the token: a site that was restarted can still honour it, see `claim`.
        token = f"{secrets.token_hex(8)}:{msgspec.json.encode(wanted).decode()}"
        self._held[token] = _Held(wanted=wanted, gpus=free.gpus[: wanted.num_of_gpus], job_id=job_id, until=until)
        return token

    def _require(self, wanted: Wanted, free: Machine) -> None:
        gpus = self._machine.gpus
        for what, asked, there, left in (
            ("GPUs", wanted.num_of_gpus, len(gpus), len(free.gpus)),
            ("CPUs", wanted.num_of_cpus, self._machine.cpus, free.cpus),
            ("GiB of memory", wanted.memory_in_GiB, self._machine.memory_gib, free.memory_gib),
        ):
            if asked > there:
                raise NoResources("The site has not what the job needs", why=f"{asked:g} {what}, and it has {there:g}")
            if asked > left:
                why = f"{asked:g} {what}, and {left:g} of {there:g} are free"
                raise NoResources("The site has not now what the job needs", why=why)
        if wanted.num_of_gpus and wanted.mem_per_gpu_in_GiB > self._settings.gib_per_gpu:
            raise NoResources(
                "The site has not what the job needs",
                why=f"{wanted.mem_per_gpu_in_GiB:g} GiB on each GPU, and it offers {self._settings.gib_per_gpu:g}",
            )

    def claim(self, job_id: str, reservation: str) -> dict[str, str]:
        """Give a job what was reserved for it, until `free`.

        Args:
            job_id: the job.
            reservation: from `check`. One that has expired, or that this process never gave, since the site was
                restarted, is made again if what it stands for is free. Empty: the job needs nothing.

        Returns:
            The environment of the job's process. A site that offers cards shows a job only those that it got; one that
            offers none, says nothing about them.

        Raises:
            NoResources: it is lost, and there is not so much any more.
        """
        own = next((held for held in self._held.values() if held.job_id == job_id and held.until is None), None)
        if own is None and reservation:
            self._expire()
            held = self._held.get(reservation)
            if held is None or held.job_id != job_id:
                wanted = _wanted(reservation.partition(":")[2].encode())
                held = self._held[self._hold(job_id, wanted, until=None)]
            held.until = None
            own = held
        if not self._machine.gpus:
            return {}
        return {VISIBLE_VARIABLE: ",".join(own.gpus if own else ())}

    def answer(self, question: pb.CheckResources) -> pb.Resources:
        """Answer the server's question; one without a job asks only what there is."""
        if not question.job_id:
            return pb.Resources(offer=self.offer())
        try:
            reservation = self.check(question.job_id, question.need)
        except NoResources as exc:
            log.debug("Job %s gets nothing here: %s", question.job_id, exc, extra={"job": question.job_id})
            return pb.Resources(job_id=question.job_id, reason=exc.why, offer=self.offer())
        return pb.Resources(job_id=question.job_id, reservation=reservation, offer=self.offer())

    def release(self, reservation: str) -> None:
        """Give up a reservation that no job has claimed."""
        held = self._held.get(reservation)
        if held is not None and held.until is not None:
            del self._held[reservation]

    def free(self, job_id: str) -> None:
        """Take back what a job had; harmless when it had nothing."""
        for token in [token for token, held in self._held.items() if held.job_id == job_id]:
            del self._held[token]

    def offer(self) -> bytes:
        """Return what the site has and what of it is free, as JSON."""
        self._expire()
        free = self._free()
        return msgspec.json.encode(
            {
                "total": _plain(self._machine) | {"gib_per_gpu": self._settings.gib_per_gpu},
                "free": _plain(free),
            }
        )

    def _free(self) -> Machine:
        held = self._held.values()
        taken = {gpu for one in held for gpu in one.gpus}
        return Machine(
            cpus=max(0, self._machine.cpus - sum(one.wanted.num_of_cpus for one in held)),
            memory_gib=max(0, self._machine.memory_gib - sum(one.wanted.memory_in_GiB for one in held)),
            gpus=tuple(gpu for gpu in self._machine.gpus if gpu not in taken),
        )

    def _expire(self) -> None:
        now = self._clock()
        for token, held in list(self._held.items()):
            if held.until is not None and held.until <= now:
                log.info("The reservation for job %s has expired", held.job_id, extra={"job": held.job_id})
                del self._held[token]


def _wanted(need: bytes) -> Wanted:
    try:
        wanted = msgspec.json.decode(need, type=Wanted)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise NoResources("The site cannot read what the job needs", why=str(exc)) from exc
    if min(wanted.num_of_gpus, wanted.mem_per_gpu_in_GiB, wanted.num_of_cpus, wanted.memory_in_GiB) < 0:
        raise NoResources("The site cannot read what the job needs", why="a number is negative")
    return wanted


def _plain(machine: Machine) -> dict[str, Any]:
    return {**asdict(machine), "gpus": len(machine.gpus), "memory_gib": round(machine.memory_gib, 1)}


def this_machine(settings: Settings, *, environment: Mapping[str, str] | None = None) -> Machine:
    """Return what this machine has, of its cards as many as the site offers."""
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory_gib=_memory_bytes() / _GIB,
        gpus=offered_gpus(settings, environment=os.environ if environment is None else environment),
    )


def offered_gpus(
    settings: Settings, *, environment: Mapping[str, str], count: Callable[[], int] | None = None
) -> tuple[str, ...]:
    """Return the cards that a site lends, as CUDA_VISIBLE_DEVICES names them, which bounds them if it is set.

    Args:
        settings: how many the site offers.
        environment: of the agent.
        count: how many cards the driver knows; default: ask nvidia-smi.
    """
    if not settings.gpus:
        return ()
    visible = environment.get(VISIBLE_VARIABLE)
    known = [one.strip() for one in visible.split(",") if one.strip()] if visible is not None else None
    offered = settings.gpus
    if not settings.ignores_host:
        there = (count or _count_gpus)()
        there = there if known is None else min(there, len(known))
        if offered > there:
            # Not the end of the site: it does its part in jobs without cards until the driver is there.
            log.warning(
                "local/resources.json offers %d GPUs, and %d can be used: jobs get these. See `nvidia-smi -L` and %s",
                offered,
                there,
                VISIBLE_VARIABLE,
            )
            offered = there
    names = known or []
    return tuple((names + [str(number) for number in range(len(names), offered)])[:offered])


def _count_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        log.warning("nvidia-smi does not answer: %s", exc)
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def _memory_bytes() -> int:
    """Return the machine's memory, or what the container has of it."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return there
    return min(there, int(limit)) if limit.isdigit() else there
