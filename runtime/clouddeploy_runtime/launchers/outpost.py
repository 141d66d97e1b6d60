"""A job elsewhere: its process here is the site's end of an outpost, see `clouddeploy_runtime.outposts`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.launchers import child
from clouddeploy_runtime.launchers.output import Output
from clouddeploy_runtime.outposts import engines, sweeping
from clouddeploy_runtime.outposts.post import AT_ONCE, VARIABLE, Errand

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.job.buffers import BufferPool
    from clouddeploy_runtime.launchers.base import JobLaunch
    from clouddeploy_runtime.launchers.job_process import JobProcess

log = logging.getLogger(__name__)

_SWEEP_S = 60.0
_FAREWELL_S = 20.0
"""For `near` to remove the outpost, once it is told to; an engine that is asked may take its time."""
KEPT_BACK = ("CLOUDDEPLOY_JOB_FOLDER",)
"""Of this process's environment, which an engine's client needs: sockets, contexts, configurations, proxies."""


@dataclass(frozen=True)
class OutpostLauncher:
    """Starts jobs at an engine.

    Attributes:
        kind: of outpost, as `engines.KINDS`.
        settings: checked, with `project` and `participant`: by these a site knows its own at an engine of many.
        local: the kit's `local` folder, where `study_runtime.yaml` is.
    """

    kind: str
    local: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, arguments: Mapping[str, Any], local: Path, **owner: str) -> OutpostLauncher:
        """Read the launcher's arguments.

        Args:
            kind: of outpost.
            arguments: as `local/resources.json` has them.
            local: the kit's `local` folder.
            owner: `project` and `participant` of the kit.

        Raises:
            BadLauncher: one is wrong; names it.
        """
        return cls(kind, local, {**engines.check(kind, arguments), **owner})

    def sweep(self, site: str) -> None:
        """Remove what an earlier parent that was killed has left at the engine; that it cannot be asked is noted."""
        wanted = sweeping.Sweep(self.kind, dict(self.settings), site)
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", sweeping.__name__],
                env={**_environment(), sweeping.VARIABLE: msgspec.json.encode(wanted).decode()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=_SWEEP_S,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            log.warning("What earlier jobs may have left is not looked for: %s", exc)
            return
        for line in done.stdout.splitlines():
            log.log(logging.WARNING if done.returncode else logging.INFO, "%s", line)

    async def launch(self, job: JobLaunch, pool: BufferPool) -> JobProcess:
        """Starts a job's process; see `Launcher`. That it runs is not sure yet: what keeps it from that, it prints."""
        errand = Errand(
            kind=self.kind,
            settings=dict(self.settings),
            job_id=job.job_id,
            role=job.role,
            site=job.site,
            sites=job.sites,
            app_dir=str(job.app_dir.resolve()),
            run_dir=str(job.run_dir.resolve()),
            local=str(self.local.resolve()),
            data_dir=None if job.data_dir is None else str(job.data_dir.resolve()),
            study=job.study,
            wishes=dict(job.wishes.get(self.kind, {})),
            environment=dict(job.environment),
            code=tuple(str(one.resolve()) for one in job.code),
            hidden=tuple(str(one.resolve()) for one in job.hidden),
            gpus=0 if job.need is None else job.need.gpus,
            cpus=0 if job.need is None else job.need.cpus,
            memory_gib=0.0 if job.need is None else job.need.memory_gib,
        )
        parent = str(os.getpid())
        return await child.start(
            job,
            pool,
            words=lambda fd: ("clouddeploy_runtime.outposts.near", "--fd", str(fd), "--parent", parent),
            environment=lambda temporary: {
                **_environment(),
                "TMPDIR": str(temporary),
                VARIABLE: msgspec.json.encode(errand).decode(),
            },
            output=Output,
            mark="outpost",
            farewell=(AT_ONCE, _FAREWELL_S),
        )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
