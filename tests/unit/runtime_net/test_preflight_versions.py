"""Version numbers as the runtime's own wheel declares them."""

from __future__ import annotations

import pytest
from clouddeploy_runtime.preflight import versions


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("3.11.7", ">=3.11", True),
        ("3.10.14", ">=3.11", False),
        ("1.70", ">=1.70,<2", True),
        ("1.70.0", ">=1.70,<2", True),
        ("1.9.9", ">=1.70,<2", False),
        ("2.0", "<2,>=1.70", False),
        ("2.0.0rc1", "<2", False),
        ("7.36.2", "!=7.36.2", False),
        ("1.0", "==1", True),
        ("anything", "", True),
        ("1.0", "~=1.0", True),
    ],
)
def test_a_version_and_what_is_asked_for(version, specifier, expected):
    assert versions.fits(version, specifier) is expected


def test_what_is_needed_at_times_is_left_out():
    declared = ["grpcio<2,>=1.70", "numpy (>=2)", "PyYAML>=6; extra == 'docker'", 'tomli; python_version < "3.12"']
    assert versions.requirements(declared) == {"grpcio": "<2,>=1.70", "numpy": ">=2"}
