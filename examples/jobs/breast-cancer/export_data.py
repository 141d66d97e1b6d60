"""Writes the Wisconsin breast-cancer data of scikit-learn to CSV, split between two sites: `export_data.py TARGET`.

Per site a train.csv (228 and 227 patients) and a test.csv (57 each); every part has the same share of benign tumours.
Source: https://archive.ics.uci.edu/dataset/17 (Wolberg, Mangasarian, Street 1993), CC BY 4.0.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split


def main() -> None:
    data = load_breast_cancer()
    table = np.column_stack([data.data, data.target])
    train, test = train_test_split(table, test_size=114, random_state=0, stratify=data.target)
    parts = {
        "train": train_test_split(train, train_size=228, random_state=0, stratify=train[:, -1]),
        "test": train_test_split(test, train_size=57, random_state=0, stratify=test[:, -1]),
    }
    header = ",".join([*(name.replace(" ", "_") for name in data.feature_names), "benign"])
    for name, halves in parts.items():
        for site, rows in zip(("site-1", "site-2"), halves, strict=True):
            folder = Path(sys.argv[1]) / site
            folder.mkdir(parents=True, exist_ok=True)
            np.savetxt(folder / f"{name}.csv", rows, delimiter=",", header=header, comments="", fmt="%.10g")


if __name__ == "__main__":
    main()
