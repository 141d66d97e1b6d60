"""Adds a number to every parameter, written for the reference's client API."""

import argparse
import logging

import nvflare.client as flare
from nvflare.app_common.abstract.fl_model import ParamsType
from nvflare.client.tracking import SummaryWriter

parser = argparse.ArgumentParser()
parser.add_argument("--step", type=float, required=True)
step = parser.parse_args().step

flare.init()
writer = SummaryWriter()
info = flare.system_info()
logging.getLogger(__name__).info("job %s at %s", info["job_id"], flare.get_site_name())
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    assert flare.is_train()
    params = {name: array + step for name, array in model.params.items()}
    writer.add_scalar("mean", float(params["numpy_key"].mean()), global_step=model.current_round)
    flare.send(
        flare.FLModel(
            params=params,
            params_type=ParamsType.FULL,
            metrics={"accuracy": 0.5},
            meta={"NUM_STEPS_CURRENT_ROUND": 10},
        )
    )
