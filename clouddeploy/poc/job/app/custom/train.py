"""Trains on this site's points, which never leave it."""

import model  # type: ignore[import-not-found]
from clouddeploy_runtime.job import client_api as flare

flare.init()
features, labels = model.points(flare.get_site_name())

while flare.is_running():
    received = flare.receive()
    if received is None or received.params is None:
        break
    weights = received.params["weights"]
    if not flare.is_evaluate():
        weights = model.fit(weights, features, labels)
    metrics = {
        "accuracy": model.accuracy(weights, features, labels),
        "loss": model.loss(weights, features, labels),
    }
    if flare.is_evaluate():
        flare.send(flare.FLModel(metrics=metrics, samples=len(labels)))
    else:
        flare.send(flare.FLModel(params={"weights": weights}, metrics=metrics, samples=len(labels)))
