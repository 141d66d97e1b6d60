"""A job's own folder for temporary files, gone when the job is, or when its parent starts again after it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from pathlib import Path

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.job import buffers

log = logging.getLogger(__name__)

PREFIX, NEW = "clouddeploy-job-", "clouddeploy-new-"
_LEFT = (f"{PREFIX}*", f"{NEW}*", f"{buffers.PREFIX}*")
_YOUNG_S = 60.0
"""Another site's parent on this machine may just have made what nobody has locked."""


class Temporary:
    """A folder below TMPDIR, locked while this process lives; it has its name once it is locked.

    Others' temporary files are not a job's business. The path is short, for the sockets that multiprocessing puts there
    (108 bytes).
    """

    def __init__(self) -> None:
        made = Path(tempfile.mkdtemp(prefix=NEW)).resolve()
        self.path = made.with_name(PREFIX + made.name.removeprefix(NEW))
        self._lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            made.rename(self.path)
        except OSError:
            os.close(self._lock)
            made.rmdir()
            raise

    def remove(self) -> None:
        """Remove the folder with all that is in it; what is left is removed at the parent's next start."""
        try:
            job_folders.remove(self.path)
        finally:
            os.close(self._lock)


def clear() -> None:
    """Remove what processes of this user that were killed have left: the folders of jobs, and files for tensors."""
    folder = Path(tempfile.gettempdir())
    for path in (one for pattern in _LEFT for one in folder.glob(pattern)):
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile, or in use
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                is_young = time.time() - status.st_mtime < _YOUNG_S and not path.name.startswith(PREFIX)
                if status.st_uid != os.getuid() or is_young:
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if job_folders.remove(path):
                    log.info("%s was left by a process that was killed, and is removed", path)
            finally:
                os.close(descriptor)
