"""`clouddeploy dashboard start --cloud`, in emulated clouds: from an empty folder to its page, and back to nothing."""

import json
import os
import sys
from pathlib import Path

import pytest

from clouddeploy.dashboard import cloud
from clouddeploy.rehearse import collect_wheels
from clouddeploy.wheelhouse import default_cache

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("world"),
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root"),
]
ASK = Path(__file__).with_name("ask.py")


@pytest.mark.parametrize("name", ["aws", "azure"])
def test_it_serves_by_https_from_the_start_and_leaves_nothing(clouds, tmp_path, name):
    collect_wheels(default_cache(), requirements=cloud.requirements())
    folder = tmp_path / "dashboard"
    secret = tmp_path / "passphrase"
    secret.write_text("of the authority")
    secret.chmod(0o600)
    words = ["dashboard", "start", "-f", folder, "--cloud", name, "--open-to", "0.0.0.0/0"]
    words += ["--name", "pages", "--passphrase-file", secret]
    credential = ["-e", "NVFL_CREDENTIAL=root@hub.example:four words in a row:hub"]
    more = ["--endpoints", clouds.endpoints, "--yes", "--no-input", "--output", "json"]
    done = clouds.run(sys.executable, "-m", "clouddeploy.cli", *words, *credential, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])["data"]
    address = told["url"].removeprefix("https://").partition(":")[0]
    page = clouds.run(sys.executable, ASK, address, "8443", folder / "service" / "cert" / "web.crt")
    assert "Log in" in page.stdout, page.stderr
    gone = clouds.json("destroy", told["file"], "--yes")
    assert gone["left"] == []
