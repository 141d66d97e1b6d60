"""What a preflight finds: one situation after another, with real kits, sockets and servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from clouddeploy_provision.project import Listening, Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import keys, kit, server_proof, tls
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind, config, manifest
from clouddeploy_runtime.preflight import machine, package, text
from clouddeploy_runtime.wire import rpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.federation import SERVER, Authority

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
RESOURCES = {"format_version": 2}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))
    for name in ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE", "NVFL_JOB_STORE_ROOT", "CLOUDDEPLOY_ALLOW_CLEAR"):
        monkeypatch.delenv(name, raising=False)


class World:
    """A project with one site, and the port of its server."""

    def __init__(self, folder: Path, **validity: timedelta) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.authority = Authority(folder / "ours", port=self.port, **({"validity": 100 * DAY} | validity))
        self.folder = folder

    def site(self, name: str = "site-1") -> Path:
        return self._with_settings(self.authority.client(name))

    def server(self) -> Path:
        return self._with_settings(self.authority.server())

    def _with_settings(self, root: Path) -> Path:
        (root / "local" / "resources.json").write_text(json.dumps(RESOURCES))
        return root

    def stranger(self) -> Authority:
        return Authority(self.folder / "theirs", port=self.port)

    @contextlib.contextmanager
    def running(self, root: Path | None = None, *, is_proving: bool = True):
        """A server that proves itself, and no more."""
        own = kit.load(root or self.server())
        server = grpc.server(futures.ThreadPoolExecutor(2))
        if is_proving:
            server.add_generic_rpc_handlers((_prover(own),))
        tls.listen(server, f"127.0.0.1:{self.port}", own)
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()

    def sign(self, root: Path, *, key_at_site: bool = False) -> None:
        """Sign a kit again as it is now."""
        path = root / manifest.MANIFEST_PATH
        left_out = {*manifest.OUTSIDE, *(["startup/client.key"] if key_at_site else [])}
        found = {f"startup/{file.name}": file for file in sorted((root / "startup").iterdir())}
        files = [
            manifest.entry(name, file.read_bytes(), file.stat().st_mode & 0o7777)
            for name, file in found.items()
            if name not in left_out
        ]
        signed = json.loads(path.read_bytes())
        signed["files"] = [
            {"path": one.path, "sha256": one.sha256, "size": one.size, "mode": one.mode} for one in files
        ]
        signed["key_at_site"] = "startup/client.key" if key_at_site else ""
        data = json.dumps(signed).encode()
        path.write_bytes(data)
        (root / manifest.SIGNATURE_PATH).write_bytes(self.authority._key.sign(data, ec.ECDSA(hashes.SHA256())))

    def revoked(self, root: Path) -> bytes:
        """A list that names a kit's certificate."""
        now = datetime.now(UTC)
        cert = kit.kit.certificate(root / "startup" / "client.crt")
        line = x509.RevokedCertificateBuilder().serial_number(cert.serial_number).revocation_date(now).build()
        made = x509.CertificateRevocationListBuilder(self.authority._name, now, now + DAY).add_revoked_certificate(line)
        made = made.add_extension(x509.CRLNumber(1), critical=False)
        return made.sign(self.authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _prover(own):
    key, pem = keys.load_private_key(own.key_file), own.cert_file.read_bytes()

    def prove(request, context):
        shown = context.auth_context().get("x509_pem_cert", [request[server_proof.NONCE_BYTES :]])[0]
        return server_proof.answer(key, pem, nonce=request[: server_proof.NONCE_BYTES], peer=shown, crl=b"")

    handler = grpc.unary_unary_rpc_method_handler(prove)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return handler if details.method in {rpc.PROVE, rpc.PROVE_TO_ADMIN} else None

    return Handler()


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def check(root, **options):
    return package.check(root, **options)


def codes(report) -> list[str]:
    assert (report.refusal is None) == (report.document()["overall"] == "pass") == (not report.problems)
    if report.refusal is not None:
        assert report.refusal.exit_code == ExitCode.FAILED
        assert report.refusal.error_code == report.problems[0].code
    return [one.code for one in report.problems]


def warnings(report) -> list[str]:
    return [one.code for one in report.findings if one.status == "warn"]


def row(report, name):
    return next(one for one in report.findings if one.check == name)


def unwritable(folder: Path) -> Path:
    """A folder into which nobody may write; root may into any but the kernel's own."""
    if os.geteuid() == 0:
        return Path("/sys")
    folder.mkdir()
    folder.chmod(0o555)
    return folder


# All is well.


@pytest.mark.parametrize("security", ["mtls", "tls"])
def test_a_site_whose_server_runs(world, security):
    world.authority.security = security
    site = world.site()
    with world.running():
        report = check(site)
    assert codes(report) == []
    steps = ("Check server name", "Check server available", "Check TLS", "Check server identity", "Check clock")
    assert [row(report, step).status for step in steps] == ["pass"] * 5
    assert row(report, "Check dry run").status == "pass"


def test_an_admin_whose_server_runs(world):
    admin = world.authority.admin("lead@org.example", "lead")
    with world.running():
        report = check(admin)
    assert codes(report) == []
    assert report.component == "admin"
    assert row(report, "Check server identity").status == "pass"
    assert "Check job storage writable" not in [one.check for one in report.findings]


def test_a_server_that_may_start(world, monkeypatch):
    root = world.server()
    monkeypatch.setenv("CLOUDDEPLOY_BIND", f"127.0.0.1:{world.port}")
    report = check(root)
    assert codes(report) == []
    assert row(report, "Check FL port binding").details == f"127.0.0.1:{world.port} is free"
    assert row(report, "Check job storage writable").status == "pass"


def test_nothing_is_left_or_changed(world):
    site, server = world.site(), world.server()

    def state():
        tree = sorted(world.folder.rglob("*"))
        return {path: (path.lstat().st_mode, path.is_file() and path.read_bytes()) for path in tree}

    before = state()
    with world.running(server):
        check(site)
        check(site, workspace=site / "workspace" / "deep")
        check(server)
    assert state() == before


# The kit.


def test_a_file_that_was_changed(world):
    site = world.site()
    (site / "startup" / "fed_client.json").write_text("{")
    report = check(site)
    assert codes(report) == ["KIT_TAMPERED"]
    assert report.component == "client"
    assert row(report, "Check server available").status == row(report, "Check dry run").status == "skipped"


def test_the_key_of_another_that_came_to_a_kit_whose_key_was_made_at_the_site(world):
    site, other = world.site(), world.site("site-2")
    shutil.copy2(other / "startup" / "client.key", site / "startup" / "client.key")
    world.sign(site, key_at_site=True)
    assert codes(check(site, offline=True)) == ["KEY_MISMATCH"]


@pytest.mark.parametrize(
    ("change", "code"),
    [(lambda key: key.chmod(0o640), "KEY_PERMISSIONS"), (lambda key: key.write_bytes(b"x"), "KEY_UNREADABLE")],
    ids=["open to the group", "no key"],
)
def test_a_key_made_at_the_site_that_is_no_use(world, change, code):
    site = world.site()
    world.sign(site, key_at_site=True)
    change(site / "startup" / "client.key")
    assert codes(check(site, offline=True)) == [code]


def test_a_certificate_of_another_authority_in_a_signed_kit(world):
    site, other = world.site(), world.stranger().client("site-1")
    for name in ("client.crt", "client.key"):
        shutil.copy2(other / "startup" / name, site / "startup" / name)
    world.sign(site)
    assert codes(check(site, offline=True)) == ["CERT_FOREIGN"]


def test_a_certificate_that_has_expired(tmp_path):
    world = World(tmp_path, validity=100 * DAY)
    world.authority.validity = DAY
    site = world.site()
    with world.running():
        report = check(site, now=datetime.now(UTC) + 2 * DAY)
    assert codes(report) == ["KIT_EXPIRED"]
    assert row(report, "Check server available").status == "skipped"


def test_a_root_that_has_expired(tmp_path):
    world = World(tmp_path, validity=DAY)
    world.authority.validity = 100 * DAY
    assert codes(check(world.site(), offline=True, now=datetime.now(UTC) + 2 * DAY)) == ["ROOT_EXPIRED"]


def test_a_clock_that_is_set_back(tmp_path):
    world = World(tmp_path, age=10 * DAY)
    world.authority.age = MINUTE
    assert codes(check(world.site(), offline=True, now=datetime.now(UTC) - DAY)) == ["KIT_NOT_YET_VALID"]


@pytest.mark.parametrize("place", ["kit", "workspace"])
def test_a_certificate_that_was_revoked(world, place):
    site = world.site()
    file = site / "local" / "crl.pem" if place == "kit" else world.folder / "work" / "crl.pem"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(world.revoked(site))
    assert codes(check(site, workspace=world.folder / "work", offline=True)) == ["KIT_REVOKED"]


def test_a_server_whose_certificate_lacks_its_address_is_warned(world):
    root = world.server()
    target = f"10.0.0.1:{world.port}"
    entry = config.ServerSettings(name="example", service=config.Service(target=target), admin_server="", admin_port=1)
    (root / "startup" / "fed_server.json").write_bytes(config.encode(config.FedServer(servers=(entry,))))
    world.sign(root)
    report = check(root)
    assert codes(report) == []
    assert "ADDRESS_NOT_IN_CERT" in warnings(report)


def test_a_server_without_tls_needs_leave(world, monkeypatch):
    world.authority.security = "clear"
    root, site = world.server(), world.site()
    assert codes(check(root)) == ["CLEAR_NOT_ALLOWED"]
    monkeypatch.setenv("CLOUDDEPLOY_ALLOW_CLEAR", "1")
    report = check(root)
    assert codes(report) == []
    assert "CONNECTION_CLEAR" in warnings(report)
    with world.running(root):
        report = check(site)
    assert codes(report) == []
    assert row(report, "Check TLS").details == "there is none: connection_security is clear"


# What stands in local/.


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("resources.json", "{", "BAD_SETTINGS"),
        ("comm_config.json", "[]", "BAD_SETTINGS"),
        ("authorization.json", "{}", "POLICY_BAD"),
        ("privacy.json", "{", "PRIVACY_BAD"),
        ("resources.json", '{"components": [{"id": "rocket_launcher"}]}', "BAD_LAUNCHER"),
        ("resources.json", '{"components": [{"id": "process_launcher", "args": {"confine": 7}}]}', "BAD_LAUNCHER"),
    ],
)
def test_a_file_in_local_that_is_no_use(world, name, content, code):
    site = world.site()
    (site / "local" / name).write_text(content)
    with world.running():
        assert codes(check(site)) == [code]


def test_a_policy_that_is_missing(world):
    site = world.site()
    (site / "local" / "authorization.json.default").unlink()
    assert codes(check(site, offline=True)) == ["POLICY_MISSING"]


def test_settings_that_are_missing_are_said(world):
    site = world.site()
    (site / "local" / "resources.json").unlink()
    report = check(site, offline=True)
    assert codes(report) == []
    assert "SETTINGS_MISSING" in warnings(report)


def test_jobs_that_are_not_confined_are_said(world):
    site = world.site()
    document = {"components": [{"id": "process_launcher", "args": {"confine": False}}]}
    (site / "local" / "resources.json").write_text(json.dumps(document))
    assert "NOT_CONFINED" in warnings(check(site, offline=True))


# The machine.


def test_a_port_that_another_program_has(world, monkeypatch):
    root = world.server()
    monkeypatch.setenv("CLOUDDEPLOY_BIND", f"127.0.0.1:{world.port}")
    with socket.create_server(("127.0.0.1", world.port)):
        report = check(root)
    assert codes(report) == ["PORT_UNAVAILABLE"]
    (one,) = report.problems
    assert one.details == f"Can't bind to address (127.0.0.1:{world.port}): Address already in use"
    assert one.remedy.startswith("Please check the DNS and port.")
    assert one.check == "Check FL port binding"


def test_an_address_that_is_none_of_this_machine(world, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "192.0.2.1:8002")
    (one,) = check(world.server()).problems
    assert one.details == "Can't bind to address (192.0.2.1:8002): Cannot assign requested address"


def test_the_port_of_metrics_that_another_program_has(world, monkeypatch):
    root = world.server()
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        document = {"components": [{"id": "metrics_endpoint", "args": {"port": taken.getsockname()[1]}}]}
        (root / "local" / "resources.json").write_text(json.dumps(document))
        (one,) = check(root).problems
    assert (one.check, one.code) == ("Check metrics port binding", "PORT_UNAVAILABLE")


def test_a_folder_for_jobs_that_cannot_be_written(world, monkeypatch):
    root = world.server()
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "127.0.0.1:0")
    monkeypatch.setenv("NVFL_JOB_STORE_ROOT", str(unwritable(world.folder / "shut") / "jobs"))
    report = check(root)
    assert codes(report) == ["STORAGE_UNWRITABLE"]
    (one,) = report.problems
    assert one.check == "Check job storage writable"
    assert one.details.startswith(f"Can't write to {os.environ['NVFL_JOB_STORE_ROOT']}: ")
    assert one.remedy == "Please check the user permission."


def test_a_folder_for_snapshots_that_cannot_be_written(world, monkeypatch):
    root = world.server()
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "127.0.0.1:0")
    document = {"snapshot_persistor": {"uri_root": str(unwritable(world.folder / "shut"))}}
    (root / "local" / "resources.json").write_text(json.dumps(document))
    (one,) = check(root).problems
    assert (one.check, one.code) == ("Check snapshot storage writable", "STORAGE_UNWRITABLE")


def test_a_workspace_that_cannot_be_written_is_one_problem(world, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_BIND", "127.0.0.1:0")
    report = check(world.server(), workspace=unwritable(world.folder / "shut"))
    # The disk of a folder that only the kernel has tells nothing.
    assert "WORKSPACE_UNUSABLE" in codes(report)
    assert "STORAGE_UNWRITABLE" not in codes(report)


def test_a_folder_in_memory_is_a_problem_where_tensors_are_to_go_there(world, monkeypatch):
    site = world.site()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        report = check(site, offline=True)
        assert codes(report) == []
        assert "TEMPORARY_FOLDER_POOR" in warnings(report)
        component = {"id": "tensor_memory", "args": {"enable_tensor_disk_offload": True}}
        (site / "local" / "resources.json").write_text(json.dumps({"components": [component]}))
        report = check(site, offline=True)
    assert codes(report) == ["TEMPORARY_FOLDER_REFUSED"]
    assert f"the temporary folder {folder} is in memory (tmpfs)" in report.problems[0].details
    assert "Set TMPDIR to a folder on a disk" in report.problems[0].remedy


def test_cards_that_are_offered_and_not_there_are_said(world, monkeypatch):
    site = world.site()
    document = {"components": [{"id": "resource_manager", "args": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16}}]}
    (site / "local" / "resources.json").write_text(json.dumps(document))
    monkeypatch.setenv("PATH", str(world.folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = check(site, offline=True)
    assert codes(report) == []
    assert row(report, "Check GPUs").code == "GPUS_MISSING"
    assert row(report, "Check GPUs").details == "2 are offered, and 0 can be used; there is no nvidia-smi"


# The way to the server.


def test_a_server_that_is_down(world):
    report = check(world.site())
    assert codes(report) == ["SERVER_REFUSES"]
    (one,) = report.problems
    assert one.details.startswith(f"Can't connect to grpc server (127.0.0.1:{world.port})")
    assert one.remedy == "Please check if server is up."
    assert row(report, "Check clock").status == "skipped"


@pytest.mark.parametrize(
    ("number", "code"), [(socket.EAI_NONAME, "NAME_UNKNOWN"), (socket.EAI_AGAIN, "RESOLVER_SILENT")]
)
def test_a_name_that_cannot_be_resolved(world, monkeypatch, number, code):
    world.authority.host = "server.invalid"
    site = world.site()

    def refuse(*_, **__):
        raise socket.gaierror(number, "as it is")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    report = check(site)
    assert codes(report) == [code]
    assert "A: as it is; AAAA: as it is" in report.problems[0].details
    assert row(report, "Check server available").status == "skipped"


def test_one_of_two_addresses_that_does_not_answer_is_said(world, monkeypatch):
    world.authority.host = "localhost"
    site = world.site()
    real = socket.getaddrinfo

    def two(host, port, family=0, type=0, **more):
        if family == socket.AF_INET6 or host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "none")
        hosts = ("127.0.0.1", "127.0.0.9")
        return [entry for one in hosts for entry in real(one, port, socket.AF_INET, type, **more)]

    with world.running():
        monkeypatch.setattr(socket, "getaddrinfo", two)
        report = check(site)
    assert codes(report) == []
    assert row(report, "Check server available").code == "ADDRESS_UNREACHABLE"
    assert "127.0.0.9: Connection refused" in row(report, "Check server available").details


def test_a_server_of_another_authority(world):
    site = world.stranger().client("site-1")
    with world.running():
        report = check(site)
    assert codes(report) == ["SERVER_FOREIGN"]
    assert report.problems[0].check == "Check TLS"


def test_a_server_of_another_name(world):
    site = world.site()
    file = site / "startup" / "fed_client.json"
    file.write_text(file.read_text().replace(SERVER, "server2"))
    world.sign(site)
    with world.running():
        assert codes(check(site)) == ["SERVER_NAME_WRONG"]


def test_what_does_not_speak_tls(world):
    site = world.site()
    with socket.create_server(("127.0.0.1", world.port)) as listener:

        def answer():
            for _ in range(2):
                link, _ = listener.accept()
                with contextlib.suppress(OSError), link:
                    link.settimeout(5)
                    link.recv(4096)
                    link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        report = check(site)
        thread.join(5)
    assert codes(report) == ["TLS_NOT_SPOKEN"]


@pytest.mark.parametrize(
    ("server", "client", "code"),
    [("mtls", "tls", "MTLS_DEMANDED"), ("mtls", "clear", "TLS_UNEXPECTED"), ("clear", "mtls", "TLS_NOT_SPOKEN")],
)
def test_kits_of_another_security(world, monkeypatch, server, client, code):
    monkeypatch.setenv("CLOUDDEPLOY_ALLOW_CLEAR", "1")
    world.authority.security = client
    site = world.site()
    world.authority.security = server
    with world.running():
        assert codes(check(site)) == [code]


def test_a_program_that_cannot_prove_that_it_is_the_server(world):
    site = world.site()
    with world.running(is_proving=False):
        report = check(site)
    assert codes(report) == ["SERVER_NOT_PROVEN"]
    assert row(report, "Check TLS").status == "pass"


@pytest.mark.parametrize(
    ("skew_s", "code", "words"),
    [(0, "", ""), (100, "CLOCK_OFF", "ahead of"), (-100, "CLOCK_OFF", "behind"), (600, "CLOCK_WRONG", "ahead of")],
)
def test_a_clock_that_is_skewed(world, skew_s, code, words):
    site = world.site()
    with world.running():
        report = check(site, now=datetime.now(UTC) + timedelta(seconds=skew_s))
    assert row(report, "Check clock").code == code
    assert words in row(report, "Check clock").details
    assert codes(report) == ([code] if code == "CLOCK_WRONG" else [])


def test_a_proxy_that_is_not_there(world):
    world.authority.host = "server.invalid"
    site = world.site()
    (site / "local" / "comm_config.json").write_text('{"proxy": "http://ann:secret@127.0.0.1:1"}')
    report = check(site)
    assert codes(report) == ["PROXY_FAILED"]
    assert row(report, "Check server name").details == "the proxy looks it up"
    assert "secret" not in json.dumps(report.document())


# A relay.


@pytest.fixture
def relay(world) -> Path:
    server = Participant(Kind.SERVER, "server1", "hub", host="127.0.0.1", port=world.port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listening = Listening(host="127.0.0.1", port=probe.getsockname()[1])
    one = Participant(Kind.RELAY, "relay-1", "hub", host="127.0.0.1", port=world.port, listening=listening)
    return provision(Project("study", "", (server, one)), world.folder / "made", passphrase=b"x").kits["relay-1"]


def test_a_relay_whose_server_runs(world, relay):
    with world.running(relay.parent / "server1"):
        report = check(relay)
    assert codes(report) == []
    assert report.component == "relay"
    assert row(report, "Check relay port binding").details.endswith("is free")
    assert row(report, "Check clock").status == "pass"


def test_a_relay_whose_port_another_program_has(world, relay):
    port = json.loads((relay / "local" / "comm_config.json").read_bytes())["internal"]["resources"]["port"]
    with world.running(relay.parent / "server1"), socket.create_server(("127.0.0.1", port)):
        (one,) = check(relay).problems
    assert (one.check, one.code) == ("Check relay port binding", "PORT_UNAVAILABLE")


# What the program itself needs.


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"numpy": ">=2", "no-such-package": ">=1"}, "PACKAGE_MISSING"),
        ({"numpy": "<1"}, "PACKAGE_VERSION"),
        ({"numpy": ">=1"}, ""),
    ],
)
def test_packages_that_the_wheel_asks_for(wanted, code):
    assert machine._packages(wanted).code == code


def test_a_python_that_cannot_start_jobs(world, monkeypatch):
    site = world.site()
    monkeypatch.setattr(sys, "executable", "/no/python")
    report = check(site, offline=True)
    assert codes(report) == ["CANNOT_LOAD"]
    assert report.problems[0].details.startswith("Can't start successfully: there is no program '/no/python'")


def test_what_a_check_did_not_expect_is_a_line_and_no_traceback(world):
    def break_off():
        raise KeyError("service")

    (one,) = package._guarded(break_off)
    assert (one.code, one.remedy) == ("CHECK_BROKE", "Please download a new package.")
    assert one.details == "Exception happens in checking: KeyError: 'service', this package is not in correct format."


def test_a_name_in_a_kit_cannot_speak_to_the_terminal(world):
    site = world.site()
    (site / "startup" / "a\x1b[2J\nb").write_text("")
    said = text.table(check(site))
    assert "\x1b" not in said
    assert "startup/a\\x1b[2J\\nb: was added" in said
