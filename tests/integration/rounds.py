"""A federation whose trainers compute with whole numbers and can be held in a round.

One update too many or too few shows in the result.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.numpy
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import TINY_CONFIGS, Federation, until

if TYPE_CHECKING:
    import numpy as np

ROOT = ("root@org.example", "project_admin")
STEPS = {"site-1": 1, "site-2": 3, "site-3": 1000}
"""The parameters become `2 · w + step`; with the first two sites each round doubles the mean and adds two."""
TRAIN = """
import os, time
from clouddeploy_runtime.job import client_api as flare
flare.init()
data = flare.data_dir()
step = int((data / "step").read_text())
def note(word):
    with open("trained.txt", "a") as file:
        file.write(f"{word}\\n")
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    number = model.current_round
    note(f"begins {number}")
    while (data / f"hold-{number}").exists():
        time.sleep(0.01)
    # here
    params = {name: 2 * value + step for name, value in model.params.items()}
    note(f"ends {number}")
    flare.send(flare.FLModel(params=params, metrics={"loss": 1.0}, samples=1))
"""


def after(rounds):
    value = 0
    for _ in range(rounds):
        value = 2 * value + 2
    return value


def job(folder: Path, *, rounds=2, num_clients=0, script=TRAIN, size=3, min_clients=2, **meta) -> Path:
    (folder / "app" / "custom").mkdir(parents=True)
    (folder / "app" / "config").mkdir()
    (folder / "app" / "custom" / "train.py").write_text(script)
    initial = f"import numpy\ndef make():\n    return {{'w': numpy.zeros({size})}}\n"
    (folder / "app" / "custom" / "first.py").write_text(initial)
    configs = json.loads(json.dumps(TINY_CONFIGS))
    configs["server"]["workflows"][0]["path"] = "clouddeploy_runtime.job.fedavg.FedAvg"
    configs["server"]["workflows"][0]["args"] = {
        "num_rounds": rounds,
        "initial_model": "first:make",
        "num_clients": num_clients,
        "evaluate": False,
    }
    for side, config in configs.items():
        (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(config))
    document = {"name": "recovery", "deploy_map": {"app": ["@ALL"]}, "min_clients": min_clients, **meta}
    (folder / "meta.json").write_text(json.dumps(document))
    return folder


class Jobs(Federation):
    """A federation whose trainers can be held in a round."""

    def begin(self, *sites: str) -> None:
        self.start("server")
        self.wait_for("server", "serving")
        for site in sites:
            self.start(site)
        for site in sites:
            self.wait_for(site, "registered")

    def client_kit(self, name: str) -> Path:
        data = self.workspace(name) / "data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "step").write_text(str(STEPS[name]))
        return super().client_kit(name)

    def hold(self, site: str, number: int) -> None:
        self.client_kit(site)
        (self.workspace(site) / "data" / f"hold-{number}").touch()

    def release(self, site: str, number: int) -> None:
        (self.workspace(site) / "data" / f"hold-{number}").unlink()

    def noted(self, site: str) -> list[str]:
        found = list(self.workspace(site).glob("jobs/*/run/trained.txt"))
        return found[0].read_text().splitlines() if found else []

    def wait_until_noted(self, site: str, *words: str) -> None:
        until(lambda: set(words) <= set(self.noted(site)), what=f"{words} at {site}, there is {self.noted(site)}")

    def job_process(self, name: str) -> int:
        """Return the number of the one job process of a server or site."""

        def found():
            jobs = self.workspace(name) / "jobs"
            for entry in Path("/proc").glob("[0-9]*/cwd"):
                with contextlib.suppress(OSError):
                    if entry.readlink().is_relative_to(jobs):
                        return int(entry.parent.name)
            return 0

        return until(found, what=f"a job process of {name}")

    def submit(self, folder: Path) -> str:
        with self.admin(*ROOT) as session:
            return session.submit(folder)

    def ended(self, job_id: str, timeout_s: float = 30):
        with self.admin(*ROOT) as session:
            return session.wait(job_id, timeout_s)

    def model(self, job_id: str) -> np.ndarray:
        path = self.workspace("server") / "jobs" / job_id / "result" / "global_model.safetensors"
        return safetensors.numpy.load_file(path)["w"]

    def all_logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.kits if "@" not in name)


def check_completed(federation, job_id, *, rounds):
    info = federation.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.COMPLETED, ""), federation.all_logs()
    assert info.rounds == rounds
    assert set(federation.model(job_id)) == {after(rounds)}
    return info


def once(rounds):
    return [f"{word} {number}" for number in range(rounds) for word in ("begins", "ends")]
