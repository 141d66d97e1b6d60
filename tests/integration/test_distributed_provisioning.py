"""Sites whose private keys never leave them, in directories of their own, and a federation of real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clouddeploy_provision import approval, certificate_authority, project, provisioner
from clouddeploy_runtime import kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.enrolment import formats

PASSPHRASE = b"only for this test"
PROJECT = """
api_version: 3
name: hospitals
participants:
  - {{name: server1, type: server, org: hospital_a, fed_learn_port: {port}, default_host: 127.0.0.1}}
  - {{name: site-1, type: client, org: hospital_a}}
  - {{name: admin@hospital.org, type: admin, org: hospital_a, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def until(condition, *, timeout_s=20.0, what="the condition"):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)
    return value


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


class Place:
    """One machine: its own directory, its own records, and `clouddeploy-runtime`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.kit = Path()

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "clouddeploy_runtime", *words],
            cwd=self.folder,
            env={**os.environ, "CLOUDDEPLOY_STATE_DIR": str(self.folder / "records")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def request(self, name: str, org: str, *more: str) -> Path:
        self.run("request", "--project", "hospitals", "--name", name, "--org", org, *more)
        return self.folder / name / f"{name}.request.zip"

    def package(self, answer: approval.Approval) -> Path:
        """Receives the archive by one way and the fingerprint by another, and makes the kit."""
        shutil.copy(answer.archive, self.folder)
        self.run("package", answer.archive.name, "--fingerprint", answer.rootca_fingerprint)
        (self.kit,) = (self.folder / "workspace" / "hospitals").glob(f"prod_*/{answer.name}")
        self.run("verify", str(self.kit))
        return self.kit

    @property
    def status(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / "run" / "status.json").read_bytes())["state"]
        return ""

    @property
    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "run" / "log.txt").read_text()
        return ""


class World:
    """The project admin's machine and those of the sites."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.admin = folder / "admin"
        self.admin.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []

    def place(self, name: str) -> Place:
        return Place(self.folder / name)

    def approve(self, request_zip: Path, ca: Path) -> approval.Approval:
        """The request arrives at the admin's machine; the answer leaves it."""
        here = Path(shutil.copy(request_zip, self.admin))
        return approval.approve(here, ca, passphrase=PASSPHRASE)

    def start(self, place: Place, kind: str, kit_folder: Path, state: str) -> None:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "clouddeploy_runtime",
                kind,
                str(kit_folder),
                "--workspace",
                str(place.folder / "run"),
            ],
            env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{self.port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        until(lambda: place.status == state, what=f"{kind} {state}: {place.log[-2000:]}")

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def world(tmp_path):
    one = World(tmp_path)
    yield one
    one.stop()


def clients(session: AdminSession) -> set[str]:
    return {client.name for client in session.system_status().clients}


def test_a_site_that_kept_its_key_takes_part_in_a_centrally_provisioned_project(world):
    """It registers, stays as it is when the project is provisioned again, and is listed and revoked like any other."""
    file = world.admin / "project.yml"
    file.write_text(PROJECT.format(port=world.port))
    central = provisioner.provision(project.load(file), world.admin / "workspace", passphrase=PASSPHRASE)
    ca = world.admin / "workspace" / "hospitals" / "state"
    site = world.place("site")
    answer = world.approve(site.request("site-9", "hospital_z"), ca)
    site.package(answer)
    own = kit.load(site.kit)
    assert (own.server_name, own.host, own.port) == ("server1", "127.0.0.1", world.port)

    server = world.place("server")
    world.start(server, "server", central.kits["server1"], "serving")
    world.start(site, "client", site.kit, "registered")
    with AdminSession(kit.load(central.kits["admin@hospital.org"])) as session:
        assert clients(session) == {"site-9"}

        before = contents(site.kit)
        again = provisioner.provision(project.load(file), world.admin / "workspace", passphrase=PASSPHRASE)
        assert {change.name: change.outcome for change in again.changes} == dict.fromkeys(central.kits, "kept")
        assert contents(site.kit) == before
        assert kit.verify(site.kit).participant == "site-9"
        listed = {one.name: one for one in certificate_authority.listing(ca)}
        assert (listed["site-9"].state, listed["site-9"].serial) == ("valid", answer.serial)

        crl = certificate_authority.revoke(ca, ["site-9"], passphrase=PASSPHRASE)
        assert session.update_crl(crl)
        until(lambda: clients(session) == set(), what="the revoked site is gone")
        until(lambda: site.status != "registered", what="the site knows")
    assert {one.name: one.state for one in certificate_authority.listing(ca)}["site-9"] == "revoked"
    assert "Traceback" not in server.log + site.log


def test_a_federation_whose_every_key_was_made_where_it_stays(world):
    """No project file: an authority, a profile, and three requests; no private key is ever with the admin."""
    ca = world.admin / "ca"
    profile = formats.Profile("hospitals", formats.ServerProfile("127.0.0.1", world.port, name="server1"))
    certificate_authority.init(profile, ca, passphrase=PASSPHRASE, version="01")
    server, site, lead = (world.place(name) for name in ("server", "site", "lead"))
    server.package(
        world.approve(server.request("server1", "hospital_a", "--type", "server", "--host-name", "127.0.0.1"), ca)
    )
    site.package(world.approve(site.request("site-1", "hospital_b", "--key-algorithm", "rsa-2048"), ca))
    asks = lead.request("lead@hospital.org", "hospital_b", "--type", "admin", "--role", "lead")
    lead.package(world.approve(asks, ca))
    assert server.kit == server.folder / "workspace" / "hospitals" / "prod_01" / "server1"

    world.start(server, "server", server.kit, "serving")
    world.start(site, "client", site.kit, "registered")
    with AdminSession(kit.load(lead.kit)) as session:
        assert session.system_status().server == "server1"
        assert clients(session) == {"site-1"}
        assert session.list_jobs() == []
    keys = [path for path in world.admin.rglob("*") if path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()]
    assert [path.name for path in keys] == ["rootCA.key"]
    assert b"ENCRYPTED" in keys[0].read_bytes()
