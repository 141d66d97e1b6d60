"""A job's process: `python -m clouddeploy_runtime.job`, started by a launcher."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import runpy
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.job import client_api
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.controller import Controller
from clouddeploy_runtime.job.fedavg import BadWorkflow, FedAvg
from clouddeploy_runtime.job.messages import Done

COMPLETED, FAILED = "FINISHED:COMPLETED", "FINISHED:EXECUTION_EXCEPTION"
PR_SET_PDEATHSIG = 1
REFERENCE = {
    "nvflare.app_common.workflows.fedavg.FedAvg": FedAvg,
    "nvflare.app_opt.pt.recipes.fedavg.FedAvg": FedAvg,
    "clouddeploy_runtime.job.fedavg.FedAvg": FedAvg,
}
"""The reference's class paths that stand for ours."""


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
    channel = Channel(socket.socket(fileno=arguments.fd))
    try:
        metrics = _control(channel, arguments) if arguments.role == "controller" else _train(channel, arguments)
    except BaseException as error:  # noqa: BLE001 - the process's edge: user code may raise anything
        traceback.print_exc()
        _say(channel, Done(FAILED, f"{arguments.site}: {_reason(error)}", {}))
        return 1
    _say(channel, Done(COMPLETED, "", metrics))
    return 0


def _die_with(parent: int) -> None:
    """Makes the kernel end this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _control(channel: Channel, arguments: argparse.Namespace) -> dict[str, Any]:
    config = _config(arguments.app, "server")
    workflow = config["workflows"][0]
    path, values = workflow["path"], dict(workflow.get("args", {}))
    kind = REFERENCE.get(path) or _own(path)
    controller = kind(channel, sites=tuple(arguments.sites.split(",")), run_dir=arguments.run)
    configure = getattr(controller, "configure", None)
    if configure is not None:
        configure(**values)
    return controller.run()


def _own(path: str) -> type[Controller]:
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadWorkflow(
            f"the workflow {path!r} cannot be loaded", why=str(error), hint="put it into custom/"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Controller)):
        raise BadWorkflow(f"the workflow {path!r} is no Controller", hint="derive it from job.controller.Controller")
    return kind


def _train(channel: Channel, arguments: argparse.Namespace) -> dict[str, Any]:
    config = _config(arguments.app, "client")
    script = arguments.app / "custom" / config["executors"][0]["executor"]["args"]["task_script_path"]
    client_api.enter(channel, site=arguments.site, job_id=arguments.job, data_dir=arguments.data)
    runpy.run_path(str(script), run_name="__main__")
    return {}


def _config(app: Path, side: str) -> dict[str, Any]:
    file = app / "config" / f"config_fed_{side}.json"
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadWorkflow(f"{file.name} of the job cannot be read", why=str(error)) from error
    wanted = "workflows" if side == "server" else "executors"
    if not loaded.get(wanted):
        raise BadWorkflow(f"{file.name} names no {wanted}", hint=f"it needs at least one entry in {wanted!r}")
    for key in ("task_data_filters", "task_result_filters"):
        if loaded.get(key):  # a filter may protect privacy; running without it would be worse than not running
            raise BadWorkflow(f"{file.name} asks for {key}", why="filters are not supported yet")
    return loaded


def _say(channel: Channel, message: Done) -> None:
    try:
        channel.send(message)
    except OSError:
        logging.getLogger(__name__).warning("the parent is gone")


def _reason(error: BaseException) -> str:
    if isinstance(error, ClouddeployError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    where = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"


sys.exit(main())
