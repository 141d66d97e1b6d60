"""The example trains on real data: the Wisconsin set as scikit-learn ships it, each patient at one site."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

DATA = Path(__file__).parents[3] / "examples" / "hybrid" / "data"


def test_the_sites_together_hold_every_patient_once():
    parts = [np.loadtxt(path, delimiter=",", skiprows=1) for path in sorted(DATA.glob("*/*.csv"))]
    exported = np.vstack(parts)
    original = load_breast_cancer()
    expected = np.column_stack([original.data, original.target])
    assert exported.shape == expected.shape == (569, 31)

    def in_order(table):
        return table[np.lexsort(table.T)]

    np.testing.assert_allclose(in_order(exported), in_order(expected), rtol=1e-9)
    assert all(abs(part[:, -1].mean() - original.target.mean()) < 0.01 for part in parts)
