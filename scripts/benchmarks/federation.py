"""A federation to measure: a server and clients as processes over mutual TLS on 127.0.0.1, with kits made here."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import yaml
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import provision
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.session import AdminSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SERVER, SITES, ADMIN = "server1", ("site-1", "site-2"), "admin@hub.example"
MAX_CLIENTS = 10_000
REGISTER_S, JOB_S = 30.0, 900.0
TENSORS = 10
MODEL = """\
import numpy as np


def initial():
    return {{f"layer{{n}}": np.zeros({size}, np.float32) for n in range({count})}}
"""
TRAINER = """\
import numpy as np
from clouddeploy_runtime.job import client_api as flare

own = {}
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    for name, array in model.params.items():
        own[name] = np.add(array, 1, out=own.get(name))  # as a network has its parameters in memory of its own
    flare.send(flare.FLModel(params=own, metrics={"loss": 1.0}, samples=1))
"""


@dataclass(frozen=True)
class Job:
    """A job that ended well."""

    job_id: str
    whole_s: float
    """From submit to done."""
    round_s: float
    """The middle of all rounds but the first; of a single one it is the whole."""


class Federation:
    """A server and clients, as processes.

    Args:
        folder: made here; kits, workspaces and jobs go there.
        sites: the clients' names.
        environment: what its processes have besides ours.
    """

    def __init__(
        self, folder: Path, sites: Sequence[str] = SITES, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.names = (SERVER, *sites)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, **(environment or {})}
        folder.mkdir(parents=True)
        file = folder / "project.yml"
        file.write_text(yaml.safe_dump(_project(sites, port=free_port())))
        self.kits = provision(project_file.load(file), folder / "provisioned", passphrase=b"bench").kits
        resources = self.kits[SERVER] / "local" / "resources.json.default"
        settings = json.loads(resources.read_bytes())
        settings["servers"][0]["max_num_clients"] = MAX_CLIENTS
        (resources.parent / "resources.json").write_text(json.dumps(settings))

    def start(self, name: str) -> None:
        """Start one of them."""
        kind = "server" if name == SERVER else "client"
        workspace = self.folder / name
        workspace.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "clouddeploy_runtime", kind, str(self.kits[name])]
        with (workspace / "out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [*command, "--workspace", str(workspace)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def start_all(self) -> float:
        """Start all of them; return the seconds until all are registered."""
        began = time.perf_counter()
        try:
            for name in self.names:
                self.start(name)
            until(lambda: all(map(self.is_registered, self.names)), timeout_s=REGISTER_S, what="registration")
        except BaseException:
            self.end()
            raise
        return time.perf_counter() - began

    def is_registered(self, name: str) -> bool:
        """Tell whether a site is, or whether the server serves."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / name / "status.json").read_bytes())["state"] in {"registered", "serving"}
        return False

    def pid(self, name: str) -> int:
        """Return the process of one that runs."""
        return self.running[name].pid

    def kill(self, name: str) -> None:
        """Kill one of them."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        """End all of them."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait()
        self.running.clear()

    def session(self) -> AdminSession:
        """Return an admin's session."""
        return AdminSession(kits.load(self.kits[ADMIN]), timeout_s=60)

    def run_job(self, session: AdminSession, job: Path) -> Job:
        """Run a job to its end.

        Raises:
            SystemExit: it did not end well; a number of a job that did not do its work would be none.
        """
        began = time.perf_counter()
        job_id = session.submit(job)
        info = session.wait(job_id, JOB_S)
        whole_s = time.perf_counter() - began
        if info.status != "FINISHED:COMPLETED":
            sys.exit(f"{job.name} ended {info.status}: {info.reason}")
        log = self.folder / SERVER / "jobs" / job_id / "result" / "log.txt"
        return Job(job_id, whole_s, round_s(log.read_text(), otherwise=whole_s))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _project(sites: Sequence[str], *, port: int) -> dict[str, object]:
    server = {"name": SERVER, "type": "server", "org": "hub", "fed_learn_port": port, "default_host": "127.0.0.1"}
    builders = ("cert.CertBuilder", "signature.SignatureBuilder")
    return {
        "api_version": 3,
        "name": "bench",
        "participants": [
            server,
            *({"name": name, "type": "client", "org": "site"} for name in sites),
            {"name": ADMIN, "type": "admin", "org": "hub", "role": "project_admin"},
        ],
        "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in builders],
    }


def write_job(folder: Path, *, megabytes: float, rounds: int) -> Path:
    """Write a job whose trainers add one to a model of a size; it stays as it is where it is there already."""
    if folder.exists():
        return folder
    size = max(1, int(megabytes * 1e6 / 4 / TENSORS))
    custom = folder / "app" / "custom"
    custom.mkdir(parents=True)
    (folder / "app" / "config").mkdir()
    (custom / "model.py").write_text(MODEL.format(size=size, count=TENSORS))
    (custom / "train.py").write_text(TRAINER)
    workflow = {
        "id": "fedavg",
        "path": "nvflare.app_common.workflows.fedavg.FedAvg",
        "args": {"num_rounds": rounds, "initial_model": "model:initial"},
    }
    executor = {
        "path": "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
        "args": {"task_script_path": "train.py"},
    }
    for side, document in (
        ("server", {"format_version": 2, "workflows": [workflow]}),
        ("client", {"format_version": 2, "executors": [{"tasks": ["*"], "executor": executor}]}),
    ):
        (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(document))
    meta = {"name": folder.name, "deploy_map": {"app": ["@ALL"]}, "min_clients": len(SITES)}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def round_s(log: str, *, otherwise: float) -> float:
    """Return the middle time of a round from a controller's log, the time between two of its lines."""
    stamps = re.findall(r"^(\S+ \S+?),(\d+) .*round \d+ of \d+", log, re.MULTILINE)
    times = [datetime.strptime(f"{day}.{ms}", "%Y-%m-%d %H:%M:%S.%f").timestamp() for day, ms in stamps]  # noqa: DTZ007
    between = [after - before for before, after in itertools.pairwise(times)]
    return statistics.median(between) if between else otherwise
