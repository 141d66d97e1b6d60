"""The image that we ship a recipe for, built by a real engine from a base of this machine, without a network."""

from __future__ import annotations

import json
import sys

import pytest

from clouddeploy import wheelhouse
from clouddeploy.image import build as building

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(400), pytest.mark.xdist_group("containers")]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_an_image_is_built_from_wheels_and_knows_whether_its_site_lives(engine, base, tmp_path, monkeypatch):
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    wanted = building.Wanted("localhost/shipped:1", base=base, python=PYTHON)
    made = building.build(wanted, engine="podman", cache=wheelhouse.default_cache())
    (inspected,) = json.loads(engine("image", "inspect", "localhost/shipped:1"))
    assert made.digest == f"sha256:{inspected['Id']}"
    assert inspected["Config"]["User"] == "1000:1000"
    assert inspected["Labels"]["clouddeploy.wheels"] == made.wheels
    assert "clouddeploy_runtime.liveness" in " ".join(inspected["Healthcheck"]["Test"])
    words = ("run", "--rm", "--network", "none", "--cap-drop", "all", "--read-only")
    assert "Runs one site" in engine(*words, made.digest)
    check = ("import docker, yaml, clouddeploy_runtime.outposts.far as far; print(far.__name__)",)
    assert engine(*words, "--entrypoint", "python3", made.digest, "-c", *check) == "clouddeploy_runtime.outposts.far"
    dead = engine(
        *words, "--entrypoint", "python3", made.digest, "-m", "clouddeploy_runtime.liveness", "/", check=False
    )
    assert dead == ""
    (line,) = (wheelhouse.default_cache() / building.RECORD).read_text().splitlines()[-1:]
    assert json.loads(line)["digest"] == made.digest
