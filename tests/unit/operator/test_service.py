"""service.yml: what it may say, and which folders may be sent."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from clouddeploy_runtime.errors import ExitCode
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clouddeploy import service
from clouddeploy.errors import ConfigError
from clouddeploy.remote import bootstrap

GOOD = {"name": "dashboard", "command": ["python", "-m", "dashboard", "--port", 8443], "ports": [8443]}


@pytest.fixture(scope="session")
def certificate():
    """PEM of a certificate that has issued itself and names nobody in particular."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dashboard")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def read(tmp_path, certificate):
    """Returns a function that reads a service whose file has these keys."""
    folder = tmp_path / "dashboard"
    folder.mkdir()
    (folder / "web.crt").write_bytes(certificate)

    def read(document=None, *, text=None, deploy_file=tmp_path / "deploy.yml", **given):
        document = {**GOOD, **given} if document is None else document
        text = (
            yaml.safe_dump({key: value for key, value in document.items() if value is not None}, sort_keys=False)
            if text is None
            else text
        )
        (folder / service.FILE).write_text(text)
        return service.read(folder, deploy_file=deploy_file)

    read.folder = folder
    return read


def refusal(read, **given):
    with pytest.raises(ConfigError) as caught:
        read(**given)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return caught.value


def problem(read, **given):
    return str(refusal(read, **given))


def test_a_good_file(read, certificate):
    found = read(
        requirements=["starlette==0.47.2", "httpx[http2]>=0.27"],
        ports=[8443, 8080],
        ready="https:/healthz?full=1",
        certificate="web.crt",
        environment={"LEVEL": "info", "WORKERS": 2},
    )
    assert found.command == ("python", "-m", "dashboard", "--port", "8443")
    assert found.requirements == ("starlette==0.47.2", "httpx[http2]>=0.27")
    assert (found.ports, found.path) == ((8443, 8080), "/healthz?full=1")
    assert found.certificate.encode() == certificate
    assert dict(found.environment) == {"LEVEL": "info", "WORKERS": "2"}


def test_what_need_not_be_said(read):
    found = read()
    assert (found.requirements, found.path, found.certificate) == ((), "", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 8443}, ": port: unknown key (example: one of certificate, command"),
        ({"name": None}, "name: is missing (example: name: dashboard)"),
        ({"name": "a/b"}, "service.yml:1: name: "),
        ({"name": "x" * 64}, "service.yml:1: name: "),
        ({"command": []}, "command: list should have at least 1 item"),
        ({"command": "python -m web"}, "command: input should be a valid list (example: command: [python"),
        ({"command": ["A=1", "web"]}, "command: starts with the name of a program, without an equals sign"),
        ({"command": ["web", "a\0b"]}, "command: has a NUL"),
        ({"command": ["web", True]}, "command: is text or a number"),
        ({"requirements": ["./wheel.whl"]}, "requirements: './wheel.whl' is more than a name and versions"),
        ({"requirements": ["a @ https://example.com/a"]}, "is more than a name and versions"),
        ({"requirements": ["--index-url=x"]}, "is more than a name and versions"),
        ({"ports": []}, "ports: list should have at least 1 item"),
        ({"ports": [443]}, "ports: is a list of ports from 1024 to 65535: a service has no right to those below"),
        ({"ports": [8443, 8443]}, "ports: has a port twice"),
        ({"ports": ["8443"]}, "ports: is a list of ports"),
        ({"ready": "http"}, "ready: is tcp, tls, http:/PATH or https:/PATH"),
        ({"ready": "http:/a b"}, "ready: is tcp, tls, http:/PATH or https:/PATH"),
        ({"ready": "tls"}, "certificate: is needed for `ready: tls`: without it nothing tells who it is that answers"),
        ({"certificate": "web.crt"}, "certificate: means nothing for `ready: tcp`"),
        ({"ready": "tls", "certificate": "no.crt"}, "certificate: cannot be read as PEM"),
        ({"ready": "tls", "certificate": "../web.crt"}, "certificate: is not in the service's folder"),
        ({"environment": {"A B": "x"}}, "environment.A B: "),
        ({"environment": {"CLOUDDEPLOY_PYTHON": "x"}}, "CLOUDDEPLOY_PYTHON: names with CLOUDDEPLOY_ are set by us"),
        ({"environment": {"A": "x\0"}}, "environment.A: has a NUL"),
    ],
)
def test_what_is_refused(read, given, said):
    assert said in problem(read, **given)


def test_all_problems_are_named_at_once(read):
    error = refusal(read, text="name: a b\nports: [1]\nreadi: tcp\n")
    text = str(error)
    assert "docs/services.md explains every key" in error.hint
    assert "4 problem(s)" in text
    for part in ("service.yml:1: name", "service.yml:2: ports", "service.yml:3: readi", "command: is missing"):
        assert part in text


def test_a_certificate_whose_time_is_over(read):
    read(ready="tls", certificate="web.crt")
    later = datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(ConfigError, match="certificate: its time is "):
        service.read(read.folder, deploy_file=read.folder.parent / "deploy.yml", now=later)


def test_a_folder_without_its_file_says_what_to_write(tmp_path):
    with pytest.raises(ConfigError, match=r"service\.yml does not exist"):
        service.read(tmp_path, deploy_file=tmp_path.parent / "deploy.yml")


@pytest.mark.parametrize("target", ["/etc/hostname", "web.crt", "nowhere"])
def test_links_are_not_followed(read, target):
    (read.folder / "static").mkdir()
    (read.folder / "static" / "link").symlink_to(target)
    assert "static/link is neither a file nor a folder" in problem(read)


def test_a_pipe_is_not_read(read):
    os.mkfifo(read.folder / "pipe")
    assert "pipe is neither a file nor a folder" in problem(read)


def test_the_deployments_own_keys_are_not_sent(read):
    assert "beside that lie the keys of the deployment" in problem(read, deploy_file=read.folder / "deploy.yml")


def test_what_is_sent_is_the_folder_as_it_is_and_the_same_release_for_everybody(read, tmp_path):
    found = read(environment={"B": "2", "A": "1"}, requirements=["starlette==0.47.2"])
    (read.folder / "secret").write_text("x")
    (read.folder / "secret").chmod(0o600)
    (read.folder / "__pycache__").mkdir()
    digests = set()
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            with service.supervised(found) as folder:
                names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
                assert (folder / "service" / "secret").stat().st_mode & 0o777 == 0o600
                aside = tmp_path / str(umask)
                aside.mkdir()
                digests.add(bootstrap.pack(folder, "kit", aside)[1])
                sent = folder
        finally:
            os.umask(before)
        assert not Path(sent).exists()
    ours = {
        f"startup/{name}" for name in ("start.sh", "sub_start.sh", "command", "environment", "port", "requirements.txt")
    }
    assert names == ours | {f"service/{name}" for name in ("secret", "service.yml", "web.crt")}
    assert len(digests) == 1
