"""Jobs: the folder a scientist submits, the states a job passes through, and what an admin sees of it."""

from clouddeploy_runtime.jobs.archive import members, pack, unpack
from clouddeploy_runtime.jobs.info import TRANSITIONS, JobInfo, JobStatus
from clouddeploy_runtime.jobs.normal import normalised
from clouddeploy_runtime.jobs.spec import ALL_SITES, SERVER, JobSpec, Need, load, parse_meta, read_meta

__all__ = [
    "ALL_SITES",
    "SERVER",
    "TRANSITIONS",
    "JobInfo",
    "JobSpec",
    "JobStatus",
    "Need",
    "load",
    "members",
    "normalised",
    "pack",
    "parse_meta",
    "read_meta",
    "unpack",
]
