from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.cli import main as runtime
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind

from clouddeploy.cli.preflight import preflight

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


@dataclass(frozen=True)
class Gates:
    """The programs that must not let a kit through: `verify`, the parents themselves, and `preflight`."""

    capture: Any
    with_parents: bool = True
    """A parent that is content runs for ever; without, when a kit is refused for what the machine remembers."""

    def answers(self, root: Path) -> list[tuple[int, str]]:
        """Ask each; returns exit codes and what was said."""
        found = []
        for command in ("verify", "preflight", "server" if root.name == "server1" else "client"):
            if command in {"server", "client"} and not (self.with_parents and found[0][0]):
                continue
            code = runtime([command, str(root), *(["--offline"] if command == "preflight" else [])])
            out, err = self.capture.readouterr()
            found.append((code, out + err))
        before = signal.getsignal(signal.SIGINT)
        try:
            done = CliRunner().invoke(preflight, [str(root), "--offline", "--output", "json"])
        finally:
            signal.signal(signal.SIGINT, before)
        envelope = json.loads(done.stdout)
        assert done.exit_code == envelope["exit_code"]
        found.append((done.exit_code, json.dumps(envelope)))
        return found

    def refuse(self, root: Path, *paths: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
        """Expect each to refuse and to name one of the paths."""
        found = self.answers(root)
        assert len(found) == (4 if self.with_parents else 3)
        is_kit = (root / "startup").exists()
        for number, (status, said) in enumerate(found):
            is_preflight = number in {1, len(found) - 1}
            assert status == (ExitCode.FAILED if is_preflight and is_kit else code), said
            assert "Traceback" not in said
            assert any(path in said for path in paths), said

    def pass_(self, root: Path) -> None:
        """Expect each to be content."""
        assert {status for status, _ in self.answers(root)} == {ExitCode.OK}


@pytest.fixture
def gates(capsys, tmp_path, monkeypatch) -> Gates:
    for variable in ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "127.0.0.1:0")
    return Gates(capsys)
