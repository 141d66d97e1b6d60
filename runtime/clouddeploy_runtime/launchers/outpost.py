"""A job elsewhere: its process here is the site's end of an outpost, see `clouddeploy_runtime.outposts`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.launchers import child
from clouddeploy_runtime.launchers.output import Output
from clouddeploy_runtime.outposts import engines
from clouddeploy_runtime.outposts.post import VARIABLE, Errand

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.job.buffers import BufferPool
    from clouddeploy_runtime.launchers.base import JobLaunch
    from clouddeploy_runtime.launchers.job_process import JobProcess

KEPT_BACK = ("CLOUDDEPLOY_JOB_FOLDER",)
"""Of this process's environment, which an engine's client needs: sockets, contexts, configurations, proxies."""


@dataclass(frozen=True)
class OutpostLauncher:
    """Starts jobs at an engine.

    Attributes:
        kind: of outpost, as `engines.KINDS`.
        settings: checked.
        local: the kit's `local` folder, where `study_runtime.yaml` is.
    """

    kind: str
    local: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, arguments: Mapping[str, Any], local: Path) -> OutpostLauncher:
        """Read the launcher's arguments.

        Raises:
            BadLauncher: one is wrong; names it.
        """
        return cls(kind, local, engines.check(kind, arguments))

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
        )
        parent = str(os.getpid())
        return await child.start(
            job,
            pool,
            words=lambda fd: ("clouddeploy_runtime.outposts.near", "--fd", str(fd), "--parent", parent),
            environment=lambda temporary: {
                **{name: value for name, value in os.environ.items() if name not in KEPT_BACK},
                "TMPDIR": str(temporary),
                VARIABLE: msgspec.json.encode(errand).decode(),
            },
            output=Output,
            mark="outpost",
        )
