"""A federation whose machines make their own keys, over OpenSSH's own server and with real processes."""

from __future__ import annotations

import base64
import contextlib
import io
import zipfile
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

import pytest
from clouddeploy_providers.errors import ProviderError
from clouddeploy_provision import certificate_authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, Options, provision
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import formats
from clouddeploy_runtime.kit import Kind
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from clouddeploy import readiness, wheelhouse
from clouddeploy.enrolment import Enrolled, Enroller
from clouddeploy.remote import bootstrap
from clouddeploy.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy.remote import ssh

PASSPHRASE = Secret("only for this test")
SITES = {"server1": Kind.SERVER, "site-1": Kind.CLIENT}

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("keys-on-site")]


@dataclass
class Site:
    """One participant on its machine."""

    name: str
    folder: Path
    host: ssh.SshHost

    @property
    def root(self) -> Path:
        return self.folder / "home/clouddeploy/study" / self.name

    @property
    def key(self) -> Path:
        return self.root / "enrolment" / self.name / f"{self.name}.key"

    def forget(self) -> None:
        """What a new machine does not have; its Python environment is left, since it takes long."""
        self.host.run(
            ["rm", "-rf", f"{self.root}/enrolment", f"{self.root}/releases", f"{self.root}/kits"], timeout_s=10
        )


class Federation:
    """The operator's folder, and two machines in folders of their own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.operator = folder / "operator"
        self.port = port
        self.project = Project(
            name="study",
            description="",
            participants=tuple(
                Participant(kind, name, "hub", host="fl.example.com", port=port, gpus=2) for name, kind in SITES.items()
            ),
        )
        self.sites: dict[str, Site] = {}
        self.enrolled: dict[str, Enrolled] = {}
        self.state = self.operator / "workspace/study/state"

    def enroller(self) -> Enroller:
        endpoint = Endpoint("127.0.0.1", self.port)
        provision(
            self.project,
            self.operator / "workspace",
            passphrase=PASSPHRASE.reveal_bytes(),
            endpoint=endpoint,
            reuse_result=True,
            options=Options(enrolled=frozenset(SITES)),
        )
        return Enroller(self.project, self.operator / "workspace", passphrase=PASSPHRASE, endpoint=endpoint)

    def install(self, name: str, *, host=None) -> Enrolled:
        self.enrolled[name] = self.enroller().install(
            name,
            host or self.sites[name].host,
            data=None,
            wheelhouse_for=lambda target: wheelhouse.collect(target, self.operator / "cache"),
            timeout_s=120,
        )
        return self.enrolled[name]

    def issued(self) -> list[str]:
        return [one.serial for one in CaStore(self.state).records.issued()]


@pytest.fixture(scope="module")
def federation(machine_in, free_port, tmp_path_factory):
    """Slow: two environments are really installed, once for the tests below. Both sites run."""
    folder = tmp_path_factory.mktemp("federation")
    made = Federation(folder, free_port())
    with contextlib.ExitStack() as stack:
        for name in SITES:
            bind = f"CLOUDDEPLOY_BIND=127.0.0.1:{made.port}"
            machine = stack.enter_context(machine_in(folder / name, environment=bind))
            machine.pins.pin(machine.target.name, machine.public)
            host = stack.enter_context(contextlib.closing(machine.connect()))
            made.sites[name] = Site(name, folder / name, host)
            bootstrap.start(host, made.install(name).release)
            stack.callback(lambda name=name: bootstrap.stop(made.sites[name].host, made.enrolled[name].release))
        yield made


def test_sites_find_each_other_with_keys_that_nobody_else_has(federation):
    """The server answers with a certificate for its own key, which no kit of the operator's disk knows."""
    readiness.wait_server(
        "127.0.0.1",
        federation.port,
        name="server1",
        roots=CaStore(federation.state).bundle(),
        timeout_s=30,
        cancel=Event(),
    )
    site, enrolled = federation.sites["site-1"], federation.enrolled["site-1"]
    readiness.wait_registered("site-1", site.host, enrolled.release, timeout_s=30, cancel=Event())
    assert list(federation.operator.glob("workspace/study/prod_*/site-1")) == []
    settings = (site.root / "current/kit/local/resources.json.default").read_text()
    assert '"num_of_gpus": 2' in settings


def test_server_of_another_authority_is_not_taken_for_ours(federation, tmp_path):
    profile = formats.Profile("study", formats.ServerProfile("server1", 8002))
    certificate_authority.init(profile, tmp_path, passphrase=b"x")
    with pytest.raises(ProviderError):
        readiness.wait_server(
            "127.0.0.1",
            federation.port,
            name="server1",
            roots=CaStore(tmp_path).bundle(),
            timeout_s=0.5,
            cancel=Event(),
        )


@pytest.mark.parametrize("name", SITES)
def test_a_private_key_is_on_its_machine_alone_and_for_its_owner_alone(federation, name):
    site = federation.sites[name]
    places = [site.key, *site.root.glob("kits/*/kit/startup/*.key")]
    assert {oct(path.stat().st_mode & 0o777) for path in places} == {"0o600"}
    folder = federation.operator.parent
    assert {path for path in folder.rglob("*") if path.is_file() and holds(path, site.key)} == set(places)


def holds(path: Path, key_file: Path) -> bool:
    """Tell whether a file holds a private key in any form, or an archive in it does."""
    key = keys.load_private_key(key_file)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    number = key.private_numbers().private_value.to_bytes(32, "big")
    forms = [der, number, number.hex().encode(), base64.b64encode(number), *key_file.read_bytes().split(b"\n")[1:-2]]
    return any(form in content for content in contents(path.read_bytes()) for form in forms)


def contents(data: bytes) -> Iterator[bytes]:
    yield data
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


@pytest.mark.nightly
def test_second_installation_asks_for_nothing_and_leaves_the_site_alone(federation):
    site, first = federation.sites["site-1"], federation.enrolled["site-1"]
    watched = [site.key, site.root / "current/kit/startup/client.key", first.answered.archive]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in watched]
    issued, pid = federation.issued(), (site.root / "workspace/daemon_pid.fl").read_text()
    second = federation.install("site-1")
    bootstrap.start(site.host, second.release)
    assert (second.release, second.answered.is_new, second.answered.reason) == (first.release, False, "")
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in watched] == before
    assert federation.issued() == issued
    assert len(list(federation.operator.glob("workspace/study/prod_*"))) == 1
    assert (site.root / "workspace/daemon_pid.fl").read_text() == pid


@pytest.mark.nightly  # tests/crash kills an apply at its writes
def test_installation_goes_on_from_wherever_it_was_killed(federation):
    """After each step on the machine: the key that was made first is the one that the kit has, and one certificate."""
    site = federation.sites["site-1"]
    steps = ["probe", "prepare", "request", "read", "upload", "package", "install"]
    for step in steps:
        site.forget()
        issued = federation.issued()
        stopping = Stopping(site.host, after=step)
        with pytest.raises(KeyboardInterrupt):
            federation.install("site-1", host=stopping)
        made = site.key.read_bytes() if site.key.exists() else b""
        enrolled = federation.install("site-1")
        assert made in {b"", site.key.read_bytes()}
        assert (site.root / "current/kit/startup/client.key").read_bytes() == site.key.read_bytes()
        assert federation.issued() == [*issued, enrolled.answered.serial]
    bootstrap.start(site.host, enrolled.release)
    readiness.wait_registered("site-1", site.host, enrolled.release, timeout_s=30, cancel=Event())


class Stopping:
    """A host whose user is interrupted once a step has been done there."""

    def __init__(self, host: ssh.SshHost, *, after: str) -> None:
        self.name = host.name
        self._host = host
        self._after = after

    def run(self, argv, **options):
        done = self._host.run(argv, **options)
        self._stop(argv[3])
        return done

    def read(self, path, **options):
        done = self._host.read(path, **options)
        self._stop("read")
        return done

    def upload(self, source, target, **options):
        done = self._host.upload(source, target, **options)
        self._stop("upload")
        return done

    def _stop(self, step: str) -> None:
        if step == self._after:
            raise KeyboardInterrupt


def test_another_machine_makes_another_key_and_the_old_certificate_is_named(federation):
    site, before = federation.sites["site-1"], federation.install("site-1")
    site.forget()
    after = federation.install("site-1")
    assert after.answered.reason == "its machine made another key"
    assert after.answered.superseded == before.answered.serial
    states = {one.serial: one.state for one in certificate_authority.listing(federation.state)}
    assert (states[before.answered.serial], states[after.answered.serial]) == ("replaced", "valid")
