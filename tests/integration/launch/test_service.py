"""A small HTTPS service, deployed on this machine and in emulated clouds, from nothing to nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clouddeploy import upgrade as upgrades
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ServiceFailed
from clouddeploy.rehearse import collect_wheels
from clouddeploy.wheelhouse import default_cache

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 60
PROGRAM = """
import os
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{Path('page.txt').read_text()} {os.getpid()}".encode())


Path(os.environ["CLOUDDEPLOY_WORKSPACE"], "was_here").touch()
assert Path("web.key").stat().st_mode & 0o777 == 0o600
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("web.crt", "web.key")
server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Page)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""
ASK = Path(__file__).with_name("ask.py")


class Web:
    """The folder of the service, and a deploy file beside it."""

    def __init__(self, folder, port):
        self.port = port
        self.file = folder / "deploy.yml"
        self.folder = folder / "web"
        self.folder.mkdir()
        (self.folder / "web.py").write_text(PROGRAM)
        self.page("first")
        self._issue()
        self.write()

    def write(self, **given):
        document = {
            "name": "pages",
            "command": ["python", "web.py", self.port],
            "ports": [self.port],
            "ready": "https:/healthz",
            "certificate": "web.crt",
        }
        (self.folder / "service.yml").write_text(yaml.safe_dump({**document, **given}))

    def page(self, text):
        (self.folder / "page.txt").write_text(text)

    def deployed(self, **site):
        self.file.write_text(yaml.safe_dump({"version": 1, "service": "web", "sites": {"www": site}}))
        return self.file

    def _issue(self):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pages")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("pages")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (self.folder / "web.crt").write_bytes(made.public_bytes(pem))
        secret = self.folder / "web.key"
        secret.touch(mode=0o600)
        form = serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The service, and its deployment on this machine; everything is gone afterwards."""
    monkeypatch.setenv("CLOUDDEPLOY_TICK_S", "0.05")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        web = Web(tmp_path, probe.getsockname()[1])
    web.deployed(provider="local", directory=str(tmp_path / "sites"))
    yield web
    web.write()
    Deployment(web.file).destroy()


def asked(web, address="127.0.0.1"):
    """Asks as a browser that trusts the certificate does; returns the page and the number of its process."""
    done = subprocess.run(
        [sys.executable, ASK, address, str(web.port), web.folder / "web.crt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split() if done.returncode == 0 else []


def release(web):
    state = json.loads((web.file.parent / ".clouddeploy/deploy/state.json").read_text())
    return state["sites"]["www"]["release"]


def test_on_this_machine_applied_changed_killed_upgraded_rolled_back_and_gone(here):
    Deployment(here.file).apply()
    page, pid = asked(here)
    assert page == "first"
    assert [(one.name, one.state) for one in Deployment(here.file).status()] == [("www", "serving")]
    plan = Deployment(here.file).plan()
    assert (plan.pending, plan.work_left) == ((), 0)
    Deployment(here.file).apply()
    assert asked(here) == ["first", pid]

    os.kill(int(pid), signal.SIGKILL)
    until(lambda: asked(here)[1:] not in ([], [pid]))

    before = release(here)
    here.page("second")
    assert Deployment(here.file).plan().uninstalled == ("www",)
    Deployment(here.file).apply()
    assert asked(here)[0] == "second"
    assert release(here) != before

    here.page("third")
    done = upgrades.upgrade(Deployment(here.file))
    assert done["www"].is_changed
    assert asked(here)[0] == "third"
    assert not upgrades.upgrade(Deployment(here.file))["www"].is_changed
    upgrades.rollback(Deployment(here.file), "www")
    assert asked(here)[0] == "second"

    assert Deployment(here.file).destroy().left == ()
    assert asked(here) == []
    assert list((here.file.parent / "sites").iterdir()) == []


def test_one_that_ends_at_once_fails_and_says_what_it_said(here):
    here.write(command=["python", "-c", "raise SystemExit('no database')"])
    with pytest.raises(ServiceFailed) as caught:
        Deployment(here.file).apply()
    assert "started five times within 300 s, and it ended with status 1" in caught.value.why
    assert "no database" in caught.value.why
    here.write()
    Deployment(here.file).apply()
    assert asked(here)[0] == "first"


@pytest.mark.xdist_group("world")
@pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root")
@pytest.mark.parametrize(
    "site",
    [
        pytest.param({"provider": "aws", "region": "us-west-2"}, id="aws"),
        pytest.param({"provider": "azure", "location": "westus2"}, id="azure"),
    ],
)
@pytest.mark.nightly
def test_in_a_cloud_it_answers_at_its_public_address_and_leaves_nothing(clouds, tmp_path, site):
    collect_wheels(default_cache(), requirements=())
    web = Web(tmp_path, 8443)
    file = web.deployed(**site)

    def asked(address):
        done = clouds.run(sys.executable, ASK, address, web.port, web.folder / "web.crt")
        return done.stdout.split() if done.returncode == 0 else []

    done = clouds.run("clouddeploy", "apply", file, "--yes", "--no-input")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"www +answer +done", done.stderr + done.stdout)
    [one] = clouds.json("status", file)["sites"]
    assert (one["name"], one["state"]) == ("www", "serving")
    address = one["address"]
    first = asked(address)
    assert first[0] == "first"
    assert clouds.json("plan", file)["pending"] == 0
    assert clouds.json("apply", file, "--yes")["sites"]
    assert asked(address) == first

    web.page("second")
    assert [one["upgraded"] for one in clouds.json("upgrade", file)["sites"]] == [True]
    second = asked(address)
    assert second[0] == "second"
    where = ("--file", file, "--endpoints", clouds.endpoints)
    done = clouds.run(sys.executable, "-m", "clouddeploy.cli", "exec", "www", *where, "--", "kill", "-KILL", second[1])
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: asked(address)[1:] not in ([], [second[1]]))

    gone = clouds.json("destroy", file, "--yes")
    assert gone["left"] == []
    assert gone["deleted"]
