"""Runs one job on an NVFLARE federation, with NVFLARE's own Python: `peer_job.py ADMIN FOLDER MEGABYTES ROUNDS`.

Prints the seconds from submit to done. FOLDER/received gets a line for each model that a client has received.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes import NumpyFedAvgRecipe  # type: ignore[import-not-found]
from nvflare.fuel.flare_api.flare_api import new_secure_session  # type: ignore[import-not-found]

TRAINER = """\
import sys
import time

import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    with open(sys.argv[1], "a") as received:
        received.write(f"{time.time()} {model.current_round}\\n")
    params = {name: array + np.float32(1) for name, array in model.params.items()}
    flare.send(flare.FLModel(params=params, metrics={"loss": 1.0}))
"""


def main() -> None:
    """Write the job, run it, say how long it took."""
    admin, folder, megabytes, rounds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(TRAINER)
    np.save(folder / "model.npy", np.zeros(max(1, int(megabytes * 1e6 / 4)), np.float32))
    recipe = NumpyFedAvgRecipe(
        name=folder.name,
        initial_ckpt=str(folder / "model.npy"),
        min_clients=2,
        num_rounds=rounds,
        train_script=str(folder / "train.py"),
        train_args=str(folder / "received"),
    )
    recipe.export(str(folder / "jobs"))
    session = new_secure_session(username=admin.name, startup_kit_location=str(admin))
    began = time.perf_counter()
    job_id = session.submit_job(str(folder / "jobs" / folder.name))
    _, meta = session.monitor_job_and_return_job_meta(job_id, timeout=600, poll_interval=0.2)
    whole_s = time.perf_counter() - began
    session.close()
    if not meta or meta.get("status") != "FINISHED:COMPLETED":
        sys.exit(f"the job ended {meta}")
    print(f"whole_s={whole_s}")


if __name__ == "__main__":
    main()
