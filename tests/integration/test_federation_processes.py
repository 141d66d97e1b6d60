"""A federation of real processes on 127.0.0.1; kits are made here, signed like real ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clouddeploy_provision import project, provisioner
from clouddeploy_runtime import audit, kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import AuthorizationRefused, ConnectionFailed, InvalidJob, JobNotFound, Timeout
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.kit import config, manifest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PROJECT = "example"
SERVER = "server1"
POLICY = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": "any",
        "lead": {"submit_job": "any", "manage_job": "n:submitter", "download_job": "n:submitter", "view": "any"},
        "member": {"view": "any"},
    },
}


class Authority:
    """Makes kits of one project."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self.folder = folder
        self.port = port
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PROJECT)])
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(self, subject, key):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def server(self) -> Path:
        entry = config.ServerSettings(
            name=PROJECT, service=config.Service(target=f"{SERVER}:{self.port}"), admin_server=SERVER, admin_port=1
        )
        return self._kit("server", SERVER, "fed_server.json", config.FedServer(servers=(entry,)))

    def client(self, name: str) -> Path:
        entry = config.ServerAddress(
            name=PROJECT, service=config.Service(target=f"127.0.0.1:{self.port}"), identity=SERVER
        )
        document = config.FedClient(servers=(entry,), client=config.ClientSettings(fqsn=name))
        return self._kit("client", name, "fed_client.json", document)

    def admin(self, name: str, role: str) -> Path:
        own = config.AdminSettings(
            project_name=PROJECT, username=name, server_identity=SERVER, host="127.0.0.1", port=self.port
        )
        return self._kit("admin", name, "fed_admin.json", config.FedAdmin(admin=own), role=role)

    def _kit(self, kind: str, name: str, file: str, document, *, role: str = "") -> Path:
        root = self.folder / name
        startup, local = root / "startup", root / "local"
        startup.mkdir(parents=True)
        local.mkdir()
        (local / "authorization.json.default").write_text(json.dumps(POLICY))
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "org"),
        ]
        if role:
            attributes.append(x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, role))
        certificate = (
            self._builder(x509.Name(attributes), key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        stem = "server" if kind == "server" else "client"
        pem = serialization.Encoding.PEM
        contents = {
            file: config.encode(document),
            f"{stem}.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            f"{stem}.crt": certificate.public_bytes(pem),
            "rootCA.pem": self._certificate.public_bytes(pem),
        }
        entries = []
        for filename, content in sorted(contents.items()):
            path = startup / filename
            path.write_bytes(content)
            path.chmod(0o600)
            entries.append(manifest.entry(f"startup/{filename}", content, 0o600))
        signed = manifest.encode(
            manifest.Manifest(
                project=PROJECT,
                participant=name,
                kind=kind,
                certificate_serial=f"{certificate.serial_number:x}",
                issued_at=datetime.now(UTC).isoformat(),
                files=tuple(entries),
            )
        )
        (root / manifest.MANIFEST_PATH).write_bytes(signed)
        (root / manifest.SIGNATURE_PATH).write_bytes(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return root


def until(condition, *, timeout_s=20.0, what="the condition"):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)
    return value


class Federation:
    """Starts and stops the processes of one test."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.authority = Authority(folder / "kits", port=self.port)
        self.folder = folder
        self.kits = {"server": self.authority.server()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def client_kit(self, name: str) -> Path:
        self.kits.setdefault(name, self.authority.client(name) if name not in self.kits else self.kits[name])
        return self.kits[name]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        kind = "server" if name == "server" else "client"
        root = self.kits[name] if kind == "server" else self.client_kit(name)
        self.workspace(name).mkdir(exist_ok=True)
        with (self.folder / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "clouddeploy_runtime",
                    kind,
                    str(root),
                    "--workspace",
                    str(self.workspace(name)),
                ],
                env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{self.port}"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        return process

    def workspace(self, name: str) -> Path:
        return self.folder / f"workspace-{name}"

    def status(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.workspace(name) / "status.json").read_bytes())["state"]
        return ""

    def log(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.workspace(name) / "log.txt").read_text()
        return ""

    def wait_for(self, name: str, state: str) -> None:
        until(lambda: self.status(name) == state, what=f"{name} {state}: {self.log(name)[-3000:]}")

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def admin(self, name: str = "lead@org.example", role: str = "lead") -> AdminSession:
        if name not in self.kits:
            self.kits[name] = self.authority.admin(name, role)
        return AdminSession(kit.load(self.kits[name]))

    def connected(self, session: AdminSession) -> set[str]:
        return {client.name for client in session.system_status().clients}


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture
def running(federation):
    federation.start("server")
    federation.start("site-1")
    federation.start("site-2")
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        federation.wait_for(name, state)
    return federation


def test_a_client_started_before_its_server_says_so_and_joins_later(federation):
    federation.start("site-1")
    line = "Could not connect to server. Setting flag for stopping training. failed to connect to all addresses"
    until(lambda: line in federation.log("site-1"), what="the line of the overview page")
    assert federation.status("site-1") == "connecting"
    federation.start("server")
    federation.wait_for("site-1", "registered")
    assert "Successfully registered client:site-1 for example. Got token:" in federation.log("site-1")
    server = federation.log("server")
    assert "Client: New client site-1@127.0.0.1 joined. Sent token: " in server
    assert "Total clients: 1" in server
    assert federation.stop("site-1") == 0
    assert federation.status("site-1") == "stopped"


def test_clients_rejoin_by_themselves_after_a_server_restart(running):
    assert running.stop("server") == 0
    assert running.status("server") == "stopped"
    running.wait_for("site-1", "connecting")
    running.start("server")
    running.wait_for("server", "serving")
    with running.admin() as session:
        until(lambda: running.connected(session) == {"site-1", "site-2"}, what="both clients")


def test_a_shutdown_file_in_the_workspace_stops_a_site(federation):
    process = federation.start("server")
    federation.wait_for("server", "serving")
    (federation.workspace("server") / "shutdown.fl").touch()
    assert process.wait(10) == 0
    assert not (federation.workspace("server") / "shutdown.fl").exists()


def test_a_kit_with_one_changed_byte_does_not_start(federation):
    path = federation.kits["server"] / "startup" / "fed_server.json"
    path.write_bytes(path.read_bytes().replace(b"example", b"exbmple", 1))
    process = federation.start("server")
    assert process.wait(20) == 4
    out = (federation.folder / "server.out").read_text()
    assert "startup/fed_server.json" in out
    assert "Traceback" not in out


def test_a_client_of_another_authority_is_refused(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    stranger = Authority(federation.folder / "strangers", port=federation.port)
    federation.kits["site-1"] = stranger.client("site-1")
    federation.start("site-1")
    until(lambda: "Could not connect to server" in federation.log("site-1"), what="the refusal")
    with federation.admin() as session:
        assert federation.connected(session) == set()


def test_an_admin_of_another_authority_is_refused(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    stranger = Authority(federation.folder / "strangers", port=federation.port)
    path = stranger.admin("lead@org.example", "lead")
    with pytest.raises(ConnectionFailed), AdminSession(kit.load(path), timeout_s=1):
        pass


def test_what_an_admin_may_not_do_is_refused_and_audited(federation, tmp_path):
    federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin("member@org.example", "member") as session:
        assert session.list_jobs() == []
        with pytest.raises(AuthorizationRefused, match="may not submit_job"):
            session.submit(tiny_job(tmp_path / "job"))
        with pytest.raises(AuthorizationRefused, match="may not shutdown"):
            session.shutdown()
        with pytest.raises(JobNotFound):
            session.job_meta("none")
    path = federation.workspace("server") / "audit.jsonl"
    results = [json.loads(line)["result"] for line in path.read_text().splitlines()]
    assert results == ["allowed", "refused", "refused"]
    assert audit.first_broken_line(path) is None


def test_a_broken_policy_refuses_everything(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    (federation.kits["server"] / "local" / "authorization.json").write_text("{")
    with federation.admin("root@org.example", "project_admin") as session, pytest.raises(AuthorizationRefused):
        session.list_jobs()


def test_a_site_certificate_is_no_admin(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    site = kit.load(federation.client_kit("site-1"))
    with AdminSession(site) as session, pytest.raises(AuthorizationRefused):
        session.list_jobs()


def tiny_job(folder: Path, *, client: str = "pass\n", min_clients: int = 1) -> Path:
    (folder / "app" / "custom").mkdir(parents=True)
    (folder / "app" / "config").mkdir()
    (folder / "app" / "custom" / "train.py").write_text(client)
    meta = {"name": "tiny", "deploy_map": {"app": ["@ALL"]}, "min_clients": min_clients, "resource_spec": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_a_job_waits_for_its_clients_and_can_be_aborted_meanwhile(federation, tmp_path):
    federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin() as session:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        assert session.job_meta(job_id).status is JobStatus.SUBMITTED
        with pytest.raises(Timeout):
            session.wait(job_id, 0.2)
        session.abort(job_id)
        info = session.wait(job_id, 5)
        assert (info.status, info.reason) == (JobStatus.ABORTED, "aborted by lead@org.example")
        with pytest.raises(InvalidJob):
            session.submit(tmp_path)


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_job_runs_over_provisioned_kits(federation, tmp_path):
    """The hybrid example's own project file, kits and job, on one machine."""
    report = provisioner.provision(
        project.load(EXAMPLES / "hybrid" / "project.yml"),
        tmp_path / "provision",
        passphrase=b"only for this test",
        endpoint=provisioner.Endpoint(host="127.0.0.1", port=federation.port),
    )
    federation.kits = {**report.kits, "server": report.kits["server1"]}
    for name in ("site-1", "site-2"):
        shutil.copytree(EXAMPLES / "hybrid" / "data" / name, federation.workspace(name) / "data")
    for name in ("server", "site-1", "site-2"):
        federation.start(name)
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        federation.wait_for(name, state)
    with federation.admin("admin@example.com") as session:
        job_id = session.submit(EXAMPLES / "jobs" / "breast-cancer")
        info = session.wait(job_id, 60)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        assert info.rounds == info.total_rounds == 5
        assert info.sites == ("site-1", "site-2")
        result = session.download(job_id, tmp_path / "download")
        assert any(result.glob("*.safetensors"))
        assert session.system_status().clients[0].jobs == ()
    assert "Traceback" not in federation.log("server") + federation.log("site-1")
