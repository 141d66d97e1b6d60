"""The first thing that runs in a job's process: into its bounds, then on to the job.

It stands before all else since bounds count for one thread and what that starts, and numpy starts threads when it is
imported: `python -m clouddeploy_runtime.job.enter`, started by a launcher.
"""

from __future__ import annotations

import os
import runpy
import sys

import msgspec

from clouddeploy_runtime.job import confine

if __name__ == "__main__":
    bounds = msgspec.json.decode(os.environ.pop(confine.VARIABLE), type=confine.Bounds)
    sys.stderr.write(confine.enter(bounds) + "\n")
    sys.path[:0] = bounds.code
    os.environ["PYTHONPATH"] = os.pathsep.join(bounds.code)
    runpy.run_module("clouddeploy_runtime.job", run_name="__main__", alter_sys=True)
