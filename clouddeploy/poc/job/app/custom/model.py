"""Logistic regression in numpy on points that each site makes for itself: no data has to be there."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TRUTH = np.array([2.0, -1.0, 0.5, 1.5])
POINTS, STEPS, RATE, HALF = 400, 50, 1.0, 0.5


def initial() -> dict[str, Array]:
    """Returns the parameters every site starts from."""
    return {"weights": np.zeros(len(TRUTH))}


def points(site: str) -> tuple[Array, Array]:
    """Returns a site's own points, each its own, and on which side of the same plane they are."""
    random = np.random.default_rng(zlib.crc32(site.encode()))
    features = random.normal(size=(POINTS, len(TRUTH))) + random.normal(scale=0.3, size=len(TRUTH))
    return features, (features @ TRUTH > 0).astype(np.float64)


def chances(weights: Array, features: Array) -> Array:
    """Returns each point's probability of being on the upper side."""
    found: Array = 1 / (1 + np.exp(-(features @ weights)))
    return found


def fit(weights: Array, features: Array, labels: Array) -> Array:
    """Returns the parameters after some steps of gradient descent."""
    for _ in range(STEPS):
        weights = weights - RATE * features.T @ (chances(weights, features) - labels) / len(labels)
    return weights


def loss(weights: Array, features: Array, labels: Array) -> float:
    """Returns the mean cross-entropy."""
    chance = np.clip(chances(weights, features), 1e-12, 1 - 1e-12)
    return float(-np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance)))


def accuracy(weights: Array, features: Array, labels: Array) -> float:
    """Returns the share of points that are classified correctly."""
    return float(np.mean((chances(weights, features) > HALF) == labels))
