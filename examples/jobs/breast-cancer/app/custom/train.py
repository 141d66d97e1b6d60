"""Trains on this site's patients, who never leave it."""

import model
from clouddeploy_runtime.job import client_api as flare

flare.init()
train = model.load(flare.data_dir() / "train.csv")
test = model.load(flare.data_dir() / "test.csv")

while flare.is_running():
    received = flare.receive()
    if received is None:
        break
    if flare.is_evaluate():
        accuracy = model.accuracy(received.params, *test)
        print(f"final test accuracy at {flare.get_site_name()}: {accuracy:.4f}", flush=True)
        flare.send(flare.FLModel(metrics={"accuracy": accuracy}, samples=len(test[1])))
    else:
        params = model.fit(received.params, *train)
        loss = model.loss(params, *train)
        print(f"round {received.current_round + 1}: loss {loss:.4f}", flush=True)
        flare.send(flare.FLModel(params=params, metrics={"loss": loss}, samples=len(train[1])))
