"""A preflight beside a federation that runs: it finds all well, disturbs nobody, and tells what stopped."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_rehearsal.probe import until

from tests.integration.conftest import Provisioned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("preflight")
PROGRAMS = {"site": "clouddeploy_runtime", "operator": "clouddeploy.cli"}
LONGEST_S = 3.0
"""Of a processor: how long it takes beside other tests says little."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Provisioned]:
    one = Provisioned(tmp_path_factory.mktemp("preflight"))
    one.start("server1", "site-1")
    one.wait_for("site-1", "registered")
    yield one
    for name in list(one.processes):
        one.stop(name)


def preflight(federation, name, *, program="site", workspace=True, **environment):
    """Run it as a process; returns its exit code, the checks by name, and how long it took."""
    words = ["preflight", str(federation.kits[name]), "--output", "json"]
    words += ["--workspace", str(federation.workspace(name))] if workspace else []
    began_s = processor_s()
    done = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], *words],
        env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{federation.port}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    took_s = processor_s() - began_s
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode
    return done.returncode, {one["check"]: one for one in document["data"]["checks"]}, took_s


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended
    return used.ru_utime + used.ru_stime


def failed(checks) -> list[str]:
    return [one["code"] for one in checks.values() if one["status"] == "fail"]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["server1", "site-1", "site-2", "root@example.com"])
def test_a_federation_that_runs_passes_and_is_not_disturbed(federation, program, name):
    before, said = tree(federation.folder), federation.log("server1")
    code, checks, took_s = preflight(federation, name, program=program)
    assert (code, failed(checks)) == (0, [])
    assert took_s < LONGEST_S
    if name == "server1":
        assert checks["Check FL port binding"]["details"].startswith("running here: ")
    else:
        assert checks["Check server identity"]["status"] == checks["Check clock"]["status"] == "pass"
    assert checks["Check dry run"]["status"] == "pass"
    assert tree(federation.folder) == before
    assert federation.log("server1") == said
    assert all(process.poll() is None for process in federation.processes.values())
    assert federation.status("site-1") == "registered"


def test_the_port_of_a_server_that_works_elsewhere_is_taken(federation, tmp_path):
    """By the workspace alone it is known whose process has the port."""
    code, checks, _ = preflight(federation, "server1", workspace=False)
    assert (code, failed(checks)) == (1, ["PORT_UNAVAILABLE"])


def test_a_person_whose_certificate_the_running_server_knows_to_be_revoked(federation, tmp_path):
    """The kit's own list need not be there: the server sends its newest one along."""
    certificate_authority.revoke(federation.state, ["member@example.com"], passphrase=b"only for this test")
    (federation.kits["server1"] / "local" / "crl.pem").write_bytes((federation.state / "crl.pem").read_bytes())

    def revoked():
        code, checks, _ = preflight(federation, "member@example.com")
        return code == 1 and failed(checks) == ["KIT_REVOKED"]

    until(revoked, what="the server knows of it")


def test_a_server_that_was_stopped(federation):
    federation.stop("server1")
    code, checks, _ = preflight(federation, "site-1")
    assert (code, failed(checks)) == (1, ["SERVER_REFUSES"])
    code, checks, _ = preflight(federation, "server1")
    assert (code, failed(checks)) == (0, [])
    assert checks["Check FL port binding"]["details"].endswith("is free")
    federation.start("server1")
    federation.wait_for("site-1", "registered")
