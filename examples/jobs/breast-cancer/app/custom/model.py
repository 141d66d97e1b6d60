"""Logistic regression in numpy; pure, so that a test can repeat a job without any network."""

import numpy as np

FEATURES = 30
STEPS = 20
RATE = 0.5
# Mean and standard deviation of each feature over all 569 patients. The sites share these two lines, and no patient.
MEAN = np.array(
    [
        14.1273,
        19.2896,
        91.969,
        654.889,
        0.0963603,
        0.104341,
        0.0887993,
        0.0489191,
        0.181162,
        0.0627976,
        0.405172,
        1.21685,
        2.86606,
        40.3371,
        0.00704098,
        0.0254781,
        0.0318937,
        0.0117961,
        0.0205423,
        0.0037949,
        16.2692,
        25.6772,
        107.261,
        880.583,
        0.132369,
        0.254265,
        0.272188,
        0.114606,
        0.290076,
        0.0839458,
    ]
)
SCALE = np.array(
    [
        3.52095,
        4.29725,
        24.2776,
        351.605,
        0.0140518,
        0.0527663,
        0.0796497,
        0.0387687,
        0.0273902,
        0.00705416,
        0.277069,
        0.551163,
        2.02008,
        45.451,
        0.00299988,
        0.0178924,
        0.0301595,
        0.00616486,
        0.0082591,
        0.00264374,
        4.82899,
        6.14085,
        33.573,
        568.856,
        0.0228124,
        0.157198,
        0.208441,
        0.0656746,
        0.0618131,
        0.0180454,
    ]
)


def initial():
    """Returns the parameters every site starts from."""
    return {"weights": np.zeros(FEATURES), "bias": np.zeros(1)}


def load(path):
    """Returns standardised features, shape (n, 30), and labels, shape (n,): 1 is benign."""
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return (table[:, :-1] - MEAN) / SCALE, table[:, -1]


def predict(params, features):
    """Returns each patient's probability of a benign tumour."""
    return 1 / (1 + np.exp(-(features @ params["weights"] + params["bias"])))


def loss(params, features, labels):
    """Returns the mean cross-entropy."""
    chance = np.clip(predict(params, features), 1e-12, 1 - 1e-12)
    return float(-np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance)))


def fit(params, features, labels):
    """Returns the parameters after some steps of full-batch gradient descent; the input stays as it is."""
    weights, bias = params["weights"].copy(), params["bias"].copy()
    for _ in range(STEPS):
        error = predict({"weights": weights, "bias": bias}, features) - labels
        weights -= RATE * features.T @ error / len(labels)
        bias -= RATE * error.mean()
    return {"weights": weights, "bias": bias}


def accuracy(params, features, labels):
    """Returns the share of patients that are classified correctly."""
    return float(np.mean((predict(params, features) > 0.5) == labels))
