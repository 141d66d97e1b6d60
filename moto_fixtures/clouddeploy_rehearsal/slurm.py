"""A cluster of one node, this machine: Slurm's own programs, with a folder of their own and nothing of the system's."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clouddeploy_rehearsal import probe

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_END_S = 10.0
_CPUS = 16
"""More than there are, so that jobs need not wait for each other."""
# Nothing here needs control groups, privileges of a container, or a name server.
_CONFIGURATION = """\
ClusterName=rehearsal
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
MailProg=/bin/true
KillWait=5
NodeName={name} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={name} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={name} MaxTime=1 State=UP
"""


class Cluster:
    """Use it in a `with` statement: its three daemons end with the block, and what runs in its jobs too."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._folder = Path()

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to talk to it."""
        return {"SLURM_CONF": str(self._folder / "slurm.conf")}

    @property
    def log(self) -> str:
        """What the daemons have said."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))

    def __enter__(self) -> Self:
        """Start it; returns once the node takes jobs.

        Raises:
            TimeoutError: it does not.
        """
        with contextlib.ExitStack() as undo:
            # Short, for the socket of munge, and closed to others, which munge demands of its folder and its key.
            folder = Path(
                undo.enter_context(tempfile.TemporaryDirectory(prefix="cd-slurm-", ignore_cleanup_errors=True))
            )
            self._folder = folder
            self._write(folder)
            key = [
                f"--key-file={folder}/munge.key",
                f"--socket={folder}/munge.sock",
                f"--seed-file={folder}/munge.seed",
            ]
            files = [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged-own.log"]
            self._start(undo, "munged", "--foreground", "--force", "--num-threads=2", *key, *files)
            probe.until((folder / "munge.sock").exists, what="munged")
            self._start(undo, "slurmctld", "-D", "-i")
            self._start(undo, "slurmd", "-D")
            undo.callback(self._end_jobs)
            probe.until(lambda: "idle" in self("sinfo", "--noheader", "--format=%T"), what="a node that takes jobs")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._undo.close()

    def __call__(self, *words: str) -> str:
        """Run one of Slurm's commands; returns what it prints, whatever became of it."""
        return subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False, timeout=30
        ).stdout

    def jobs(self) -> Mapping[str, tuple[str, str]]:
        """Return the batch jobs that wait or run: number → state and name."""
        rows = [line.split("|", 2) for line in self("squeue", "--noheader", "--format=%A|%T|%j").splitlines()]
        return {number: (state, name) for number, state, name in rows}

    def _write(self, folder: Path) -> None:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        with socket.socket() as one, socket.socket() as other:
            for probing in (one, other):
                probing.bind(("127.0.0.1", 0))
            ports = [probing.getsockname()[1] for probing in (one, other)]
        name = socket.gethostname().partition(".")[0]
        values = {"name": name, "folder": folder, "cpus": _CPUS, "controller_port": ports[0], "node_port": ports[1]}
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(**values))

    def _start(self, undo: contextlib.ExitStack, *words: str) -> None:
        program = shutil.which(words[0], path=_PLACES) or words[0]
        with (self._folder / f"{words[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [program, *words[1:]],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        undo.callback(_end, process)

    def _end_jobs(self) -> None:
        """Cancel what is left: the steps of jobs are no children of a daemon."""
        self("scancel", "--full", "--user=root")
        with contextlib.suppress(TimeoutError):
            probe.until(lambda: not self.jobs(), timeout_s=_END_S)


def lacks() -> str:
    """Return why there can be no cluster here; empty: there can."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=_PLACES) is None]
    if missing:
        return f"Slurm is not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "the node's daemon starts jobs as root alone"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
