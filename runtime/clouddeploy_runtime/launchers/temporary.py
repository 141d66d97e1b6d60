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

log = logging.getLogger(__name__)

PREFIX = "clouddeploy-job-"
_YOUNG_S = 60.0
"""Another site's parent on this machine may just have made it, and not locked it yet."""


class Temporary:
    """A folder below TMPDIR, locked while this process lives.

    Others' temporary files are not a job's business. The path is short, for the sockets that multiprocessing puts there
    (108 bytes).
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Remove the folder with all that is in it; what is left is removed at the parent's next start."""
        try:
            job_folders.remove(self.path)
        finally:
            os.close(self._lock)


def clear() -> None:
    """Remove the folders of this user whose process was killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile, or in use
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUNG_S:
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if job_folders.remove(path):
                    log.info("%s was left by a process that was killed, and is removed", path)
            finally:
                os.close(descriptor)
