from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.kit import Kind

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-2", "org_b", host="127.0.0.1", port=8002),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", host="127.0.0.1", port=8002),
    ),
)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Kits of one project, not to be changed."""
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"x").result


@pytest.fixture(scope="session")
def foreign(tmp_path_factory) -> Path:
    """Kits of the same project by another authority, not to be changed."""
    return provision(PROJECT, tmp_path_factory.mktemp("foreign"), passphrase=b"x").result


@pytest.fixture
def kits(made, tmp_path) -> Path:
    """Kits that a test may change."""
    return shutil.copytree(made, tmp_path / "kits")
