"""Makes kits of one project, signed like real ones, and runs its server and clients as processes on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.kit import config, manifest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROJECT = "example"
SERVER = "server1"
POLICY = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": "any",
        "lead": {
            "submit_job": "any",
            "clone_job": "n:submitter",
            "byoc": "any",
            "manage_job": "n:submitter",
            "download_job": "n:submitter",
            "view": "any",
        },
        "member": {"view": "any"},
    },
}


class Authority:
    """Makes kits of one project, whose certificates are valid from `age` ago for `validity` from now on."""

    def __init__(
        self, folder: Path, *, port: int, age: timedelta = timedelta(minutes=5), validity: timedelta = timedelta(days=1)
    ) -> None:
        self.folder = folder
        self.port = port
        self.host = "127.0.0.1"
        self.project = PROJECT
        self.security = "mtls"
        self.orgs: dict[str, str] = {}
        """Participant → organisation, of those that are not of "org"."""
        self.age = age
        self.validity = validity
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
            .not_valid_before(now - self.age)
            .not_valid_after(now + self.validity)
        )

    def server(self) -> Path:
        entry = config.ServerSettings(
            name=self.project,
            service=config.Service(target=f"{SERVER}:{self.port}"),
            admin_server=SERVER,
            admin_port=1,
            connection_security=self.security,
        )
        return self._kit("server", SERVER, "fed_server.json", config.FedServer(servers=(entry,)))

    def client(self, name: str, *, role: str = "") -> Path:
        entry = config.ServerAddress(
            name=self.project, service=config.Service(target=f"{self.host}:{self.port}"), identity=SERVER
        )
        own = config.ClientSettings(fqsn=name, connection_security=self.security)
        document = config.FedClient(servers=(entry,), client=own)
        return self._kit("client", name, "fed_client.json", document, role=role)

    def admin(self, name: str, role: str) -> Path:
        own = config.AdminSettings(
            project_name=self.project,
            username=name,
            server_identity=SERVER,
            host=self.host,
            port=self.port,
            connection_security=self.security,
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
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.orgs.get(name, "org")),
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
                project=self.project,
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

    def __init__(self, folder: Path, *, orgs: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.authority = Authority(folder / "kits", port=self.port)
        self.authority.orgs.update(orgs or {})
        self.folder = folder
        self.kits = {"server": self.authority.server()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, str] = {}
        self.prefixes: dict[str, list[str]] = {}

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
                    *self.prefixes.get(name, ()),
                    sys.executable,
                    "-m",
                    "clouddeploy_runtime",
                    kind,
                    str(root),
                    "--workspace",
                    str(self.workspace(name)),
                ],
                env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{self.port}", **self.environment},
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

    def admin(self, name: str = "lead@org.example", role: str = "lead", *, study: str = "default") -> AdminSession:
        if name not in self.kits:
            self.kits[name] = self.authority.admin(name, role)
        return AdminSession(kit.load(self.kits[name]), study=study)

    def connected(self, session: AdminSession) -> set[str]:
        return {client.name for client in session.system_status().clients}


MODEL = """
import numpy as np


def initial():
    return {"weights": np.zeros(3)}
"""
TINY_CONFIGS = {
    "server": {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.app_common.workflows.fedavg.FedAvg",
                "args": {"num_rounds": 1, "initial_model": "model:initial"},
            }
        ],
    },
    "client": {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["*"],
                "executor": {
                    "path": "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
                    "args": {"task_script_path": "train.py"},
                },
            }
        ],
    },
}


def tiny_job(folder: Path, *, client: str = "pass\n", min_clients: int = 1) -> Path:
    (folder / "app" / "custom").mkdir(parents=True)
    (folder / "app" / "config").mkdir()
    (folder / "app" / "custom" / "train.py").write_text(client)
    (folder / "app" / "custom" / "model.py").write_text(MODEL)
    for side, content in TINY_CONFIGS.items():
        (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(content))
    meta = {"name": "tiny", "deploy_map": {"app": ["@ALL"]}, "min_clients": min_clients, "resource_spec": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
