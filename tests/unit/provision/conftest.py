from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import project as project_file

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project

DATA = Path(__file__).parent / "data"


@pytest.fixture
def dummy() -> Project:
    return project_file.load(DATA / "dummy_project.yml")
