"""How much shared memory the tensors of jobs may take at a site, and which jobs keep theirs on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.job.buffers import OFFLOAD, Budget, BufferPool
from clouddeploy_runtime.jobs import app_config
from clouddeploy_runtime.launchers import memory

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.settings import Settings

SHARE = 2
"""One in so many bytes of the memory that this process may use is for tensors, where the site says nothing: as much
again is left for what jobs answer with."""
_GIB = 1 << 30


class TensorMemory:
    """The tensors' memory in one process, for all jobs there.

    Args:
        settings: the site's.
    """

    def __init__(self, settings: Settings) -> None:
        given = settings.budget_gib
        whole = memory.limit_bytes() // SHARE if given is None else int(given * _GIB)
        self._budget = Budget(whole)
        own = settings.job_budget_gib
        self._job_bytes = whole if own is None else min(whole, int(own * _GIB))
        self._is_on_disk = settings.offloads_tensors

    def pool(self, *, on_disk: bool = False) -> BufferPool:
        """Return the pool of a new job.

        Args:
            on_disk: the job wants its buffers to be files from the start; so does a site that says so for all jobs.
        """
        return BufferPool(0 if on_disk or self._is_on_disk else self._job_bytes, shared=self._budget)


def asks_for_disk(app: Path) -> bool:
    """Tell whether a job's workflow wants the server to keep the sites' tensors on disk.

    A configuration that cannot be read asks for nothing: the job's own process ends for it, and says why.
    """
    try:
        workflows = app_config.read(app, "server").workflows
    except InvalidJob:
        return False
    return any(one.args.get(OFFLOAD) is True for one in workflows)
