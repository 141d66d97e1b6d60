"""How an image is built, under an engine that only notes what it is told."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from clouddeploy.cli.main import cli
from clouddeploy.errors import ConfigError, DeployError
from clouddeploy.image import build as building
from clouddeploy.remote.wheels import Wheelhouse

if TYPE_CHECKING:
    from pathlib import Path

STUB = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
folder = words[-1]
files = sorted(os.path.join(root, one)[len(folder) + 1:] for root, _, found in os.walk(folder) for one in found)
seen = {"words": words, "files": files}
with open(__file__ + ".seen", "w") as file:
    json.dump(seen, file)
if "FAIL" in words[2]:
    sys.exit("no such base\\x1b[31m")
with open(words[words.index("--iidfile") + 1], "w") as file:
    file.write("%s")
"""


def engine(folder: Path, name: str = "docker", digest: str = "sha256:f00d") -> str:
    path = folder / name
    path.write_text(STUB % digest)
    path.chmod(0o755)
    return str(path)


class Wheels:
    """Fetches nothing; notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def __call__(self, target: Any, cache: Path, *, extra: tuple[str, ...]) -> Wheelhouse:
        self.asked = {"target": target, "extra": extra}
        with tarfile.open(cache / "wheels.tar", "w") as tar:
            for name in ("pip-25-py3-none-any.whl", "requirements.txt"):
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        return Wheelhouse(cache / "wheels.tar", "beef")


def test_an_image_is_built_from_wheels_and_its_digest_is_noted(tmp_path):
    wheels, command = Wheels(), engine(tmp_path)
    wanted = building.Wanted("fl/site:1", extra=("scikit-learn==1.5.2",))
    made = building.build(wanted, engine=command, cache=tmp_path, collect=wheels)
    seen = json.loads((tmp_path / "docker.seen").read_text())
    assert seen["files"] == ["Dockerfile", "install.py", "wheels/pip-25-py3-none-any.whl", "wheels/requirements.txt"]
    assert seen["words"][:5] == ["build", "--tag", "fl/site:1", "--build-arg", f"BASE={made.base}"]
    assert made.base == "docker.io/library/python:3.12-slim"
    assert wheels.asked["extra"] == (*building.LAUNCHING, "scikit-learn==1.5.2")
    assert (made.digest, made.wheels, made.engine) == ("sha256:f00d", "beef", "docker")
    noted = json.loads((tmp_path / "images.jsonl").read_text())
    assert (noted["tag"], noted["digest"]) == ("fl/site:1", "sha256:f00d")


def test_podman_is_asked_for_the_format_that_has_health_checks(tmp_path):
    command = engine(tmp_path, "podman", "f00d")
    made = building.build(building.Wanted("site"), engine=command, cache=tmp_path, collect=Wheels())
    assert made.digest == "sha256:f00d"
    assert "--format" in json.loads((tmp_path / "podman.seen").read_text())["words"]


@pytest.mark.parametrize(
    "wanted",
    [
        building.Wanted("--rm"),
        building.Wanted("Site"),
        building.Wanted("site", base="-x"),
        building.Wanted("site", python="3"),
        building.Wanted("site", extra=("./here",)),
        building.Wanted("site", extra=("https://example.com/x.whl",)),
    ],
    ids=str,
)
def test_what_is_no_image_and_no_requirement_is_refused(tmp_path, wanted):
    with pytest.raises(ConfigError):
        building.build(wanted, engine=engine(tmp_path), cache=tmp_path, collect=Wheels())
    assert not (tmp_path / "docker.seen").exists()


def test_an_engine_that_fails_is_quoted_without_its_colours(tmp_path):
    wanted = building.Wanted("site", base="x")
    command = engine(tmp_path)
    (tmp_path / "docker").write_text((STUB % "x").replace('"FAIL" in words[2]', "True"))
    with pytest.raises(DeployError, match="site was not built") as refused:
        building.build(wanted, engine=command, cache=tmp_path, collect=Wheels())
    assert "no such base" in refused.value.why
    assert "\x1b" not in refused.value.why
    assert not (tmp_path / "images.jsonl").exists()


def test_without_an_engine_it_says_what_to_install(tmp_path):
    with pytest.raises(DeployError, match="there is no no-such-engine here"):
        building.build(building.Wanted("site"), engine="no-such-engine", cache=tmp_path, collect=Wheels())


def test_the_command_refuses_what_is_no_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["image", "build", "--tag", "Not An Image", "--output", "json"])
    assert done.exit_code == 4
    assert json.loads(done.output)["error_code"] == "INVALID_CONFIG"
