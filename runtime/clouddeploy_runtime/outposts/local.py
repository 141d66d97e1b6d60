"""An outpost that is a process of this machine: what the others are, without an engine. For tests and rehearsals."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.outposts.post import CREDENTIAL, FAR, Launch, Way, bad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.outposts.post import Errand

_STOP_S = 5.0


class LocalPost:
    """One job's process."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="clouddeploy-line-"))
        self.way = Way("127.0.0.1", bind="127.0.0.1", pending_s=errand.settings["pending_timeout"], poll_s=0.1)

    def open(self) -> Launch:
        """Start it."""
        errand = self._errand
        self._process = subprocess.Popen(
            [sys.executable, *FAR, str(self.folder / CREDENTIAL)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,
        )
        return Launch(
            job_id=errand.job_id,
            role=errand.role,
            site=errand.site,
            sites=errand.sites,
            app_dir=errand.app_dir,
            run_dir=errand.run_dir,
            data_dir=errand.data_dir,
            environment=errand.environment,
            code=errand.code,
            is_confined=errand.is_confined,
        )

    def problem(self) -> str:
        """Return how it ended; empty while it runs."""
        code = None if self._process is None else self._process.poll()
        return "" if code is None else f"the process ended with {code}"

    def stop(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self.stop()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        job_folders.remove(self.folder)


def check(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with the ones that were left out."""
    value = settings.get("pending_timeout", 30)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise bad("local", "pending_timeout", wanted="seconds above 0", value=value)
    return {"pending_timeout": float(value)}


def post(errand: Errand) -> LocalPost:
    """Return the place of one job."""
    return LocalPost(errand)


def sweep(_settings: Mapping[str, Any], _site: str) -> None:
    """Nothing is left: an outpost ends when its line does."""
