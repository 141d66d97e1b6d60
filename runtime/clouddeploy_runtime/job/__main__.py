"""A job's process: `python -m clouddeploy_runtime.job`, started by a launcher."""

from __future__ import annotations

import argparse
import ctypes
import errno
import logging
import os
import runpy
import signal
import socket
import sys
import traceback
from enum import IntEnum
from pathlib import Path
from typing import Any

from clouddeploy_runtime import privacy
from clouddeploy_runtime.errors import ClouddeployError, InvalidJob
from clouddeploy_runtime.job import client_api, config, log_level, nvflare_alias, scoping
from clouddeploy_runtime.job.buffers import NoBuffer
from clouddeploy_runtime.job.checkpoint import BadCheckpoint
from clouddeploy_runtime.job.controller import BadWorkflow, JobAborted
from clouddeploy_runtime.job.filters import BadFilter, FilteredChannel, ParentGone
from clouddeploy_runtime.job.initial_model import BadModel
from clouddeploy_runtime.job.messages import Done
from clouddeploy_runtime.jobs import app_config
from clouddeploy_runtime.jobs.known import ComponentRefused

COMPLETED, ABORTED, FAILED = "FINISHED:COMPLETED", "FINISHED:ABORTED", "FINISHED:EXECUTION_EXCEPTION"
PR_SET_PDEATHSIG = 1
_MAX_REASON = 4000
"""Signs; a reason travels in one packet, and people read it in one line of a table."""


class Exit(IntEnum):
    """How a job's process ends; the reference's numbers."""

    OK = 0
    ABORTED = 9
    EXCEPTION = 101
    """The job's own code failed."""
    UNSAFE_COMPONENT = 102
    """The configuration names a class that is not run here."""
    CONFIG = 103
    """The configuration, or a file that it names, is wrong."""
    INFRASTRUCTURE = 104
    """The parent, the disk or the memory failed, not the job."""


class ScriptExit(ClouddeployError):
    """The training script called `sys.exit` with something that is no success."""


_KINDS: tuple[tuple[tuple[type[BaseException], ...], Exit], ...] = (
    ((JobAborted,), Exit.ABORTED),
    ((ComponentRefused,), Exit.UNSAFE_COMPONENT),
    ((BadWorkflow, BadModel, BadFilter, InvalidJob), Exit.CONFIG),
    ((NoBuffer, BadCheckpoint, ParentGone, MemoryError), Exit.INFRASTRUCTURE),
)
"""The first that fits; anything else is an exception of the job's code."""
_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE})
"""Errors of files that are the machine's and not the code's."""


def main() -> int:
    """Runs one role of one job; returns the exit status."""
    parser = argparse.ArgumentParser(prog="clouddeploy_runtime.job")
    for name in ("fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("job", "role", "site", "sites"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("app", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    _die_with(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    log_level.follow(arguments.run)
    channel = FilteredChannel(socket.socket(fileno=arguments.fd))
    try:
        metrics = _control(channel, arguments) if arguments.role == "controller" else _train(channel, arguments)
        _say(channel, Done(COMPLETED, "", metrics))
    except BaseException as error:  # noqa: BLE001 - the process's edge: user code may raise anything
        status = _status(error)
        if status is not Exit.ABORTED:
            traceback.print_exc()
        end = ABORTED if status is Exit.ABORTED else FAILED
        _say(channel, Done(end, f"{arguments.site}: {_reason(error)}"[:_MAX_REASON], {}))
        return status
    return Exit.OK


def _die_with(parent: int) -> None:
    """Makes the kernel end this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(Exit.INFRASTRUCTURE)


def _control(channel: FilteredChannel, arguments: argparse.Namespace) -> dict[str, Any]:
    read = _config(arguments, "server")
    channel.use(config.filters(read))
    controller = config.controller(
        read,
        arguments.app,
        channel=channel,
        sites=tuple(arguments.sites.split(",")),
        run_dir=arguments.run,
        job_id=arguments.job,
    )
    return controller.run()


def _train(channel: FilteredChannel, arguments: argparse.Namespace) -> dict[str, Any]:
    search = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    script = config.script(_config(arguments, "client"), arguments.app, search=search)
    wishes = scoping.under(privacy.given(os.environ), script.wishes, app=arguments.app)
    client_api.enter(channel, site=arguments.site, job_id=arguments.job, data_dir=arguments.data, wishes=wishes)
    nvflare_alias.install()
    sys.argv = [str(script.file), *script.arguments]
    try:
        runpy.run_path(str(script.file), run_name="__main__")
    except SystemExit as end:
        if end.code not in {None, 0} and client_api.failed() is None:
            raise ScriptExit(f"{script.file.name} ended with {end.code!r}") from end
    fault = client_api.failed()
    if fault is not None:
        raise fault
    reason = client_api.aborted()
    if reason is not None:
        raise JobAborted(reason)
    return {}


def _config(arguments: argparse.Namespace, side: app_config.Side) -> app_config.AppConfig:
    system = {
        "SITE_NAME": arguments.site,
        "JOB_ID": arguments.job,
        "WORKSPACE": str(arguments.run),
        "ROOT_URL": "",  # only the parents talk on the network
        "SECURE_MODE": "true",
    }
    return app_config.read(arguments.app, side, system=system, environment=os.environ)


def _status(error: BaseException) -> Exit:
    for kinds, status in _KINDS:
        if isinstance(error, kinds):
            return status
    return Exit.INFRASTRUCTURE if isinstance(error, OSError) and error.errno in _MACHINE else Exit.EXCEPTION


def _say(channel: FilteredChannel, message: Done) -> None:
    try:
        channel.send(message)
    except ParentGone:
        logging.getLogger(__name__).warning("the parent is gone")


def _reason(error: BaseException) -> str:
    if isinstance(error, ClouddeployError):
        return str(error)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith("<frozen")]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


if __name__ == "__main__":
    sys.exit(main())
