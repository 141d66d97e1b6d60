"""The dashboard as a service on a machine of a cloud: a deploy file, and a folder with program, certificate, secrets.

Nothing secret is in the deploy file, in user data, in a command or in a variable: the passphrase is a file of mode 0600
in the service's folder, which goes to the machine over SSH. Of the first admin's password its hash goes there, so it is
in no file at all.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import yaml
from clouddeploy_provision.ca_records import write_atomic

from clouddeploy import durable
from clouddeploy.dashboard import opening
from clouddeploy.dashboard.errors import DashboardState, Invalid
from clouddeploy.dashboard.identity import identity
from clouddeploy.dashboard.passwords import Passwords
from clouddeploy.launch import DEFAULT_PLACE, WHERE
from clouddeploy.service import FILE

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from clouddeploy.dashboard.identity import Identity

PORT = 8443
"""A service runs without root's rights, so not 443."""
SITE = "dashboard"
DEPLOY_FILE = "deploy.yml"
SERVICE = "service"
PASSPHRASE, CREDENTIAL = "secrets/passphrase", "secrets/credential"
PACKAGES = ("clouddeploy", "clouddeploy_provision", "clouddeploy_providers", "clouddeploy_runtime")
"""Sent as they are here, so that what runs there is what was tried here."""
REQUIREMENTS = (
    "alembic", "argon2-cffi", "click", "cryptography", "grpcio", "Jinja2", "msgspec", "numpy", "packaging", "paramiko",
    "prometheus-client", "protobuf", "pydantic", "python-multipart", "PyYAML", "pyzipper", "rich", "safetensors",
    "segno", "SQLAlchemy", "starlette", "tenacity", "uvicorn",
)  # fmt: skip
"""What they import, in the versions that are here."""


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        cloud: aws or azure; for tests any other provider.
        sources: networks whose browsers reach it; this machine's address is among them. Empty: the deploy file stays.
        place: region or location; empty: the one that `launch` takes.
        size: of the machine; empty: a small one.
        ssh_sources: networks that reach its SSH; empty: the deploy file's default.
        names: under which browsers know it, for a certificate that it signs itself.
    """

    cloud: str
    sources: tuple[str, ...]
    place: str = ""
    size: str = ""
    ssh_sources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        file: the deploy file.
        identity: the certificate that browsers see.
    """

    file: Path
    identity: Identity


@dataclass(frozen=True)
class FirstAdmin:
    """The first project admin, as the machine is told.

    Attributes:
        email: theirs.
        password_hash: argon2's.
        org: their organisation.
    """

    email: str
    password_hash: str
    org: str

    @classmethod
    def of(cls, credential: str) -> FirstAdmin:
        """Hashes the password of EMAIL:PASSWORD:ORG."""
        email, _, rest = credential.partition(":")
        password, _, org = rest.rpartition(":")
        return cls(email, Passwords().hash(password), org)

    @classmethod
    def read(cls, file: Path) -> FirstAdmin:
        """Reads what `encoded` made.

        Raises:
            DashboardState: it cannot be used.
        """
        try:
            return cls(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise DashboardState(
                "the first project admin is not known",
                why=f"{file.name} cannot be used ({type(error).__name__})",
                hint="start it anew, with another folder",
            ) from error

    def encoded(self) -> bytes:
        """Returns what the machine gets; the password cannot be had from it."""
        return json.dumps(asdict(self)).encode()


def is_new(folder: Path) -> bool:
    """Tells whether no secrets were chosen for this folder yet."""
    return not (folder / SERVICE / PASSPHRASE).exists()


def requirements() -> tuple[str, ...]:
    """Returns what the machine's Python environment gets."""
    return tuple(f"{name}=={version(name)}" for name in REQUIREMENTS)


def write(folder: Path, wish: Wish, *, secrets: tuple[str, str] | None, now: datetime, port: int = PORT) -> Written:
    """Writes a deploy file and the service's folder; may be repeated, secrets and certificate stay.

    Args:
        folder: for both.
        wish: what is asked for.
        secrets: passphrase of the authority and first admin as EMAIL:PASSWORD:ORG; None: those that are there.
        now: the time.
        port: that browsers ask.

    Raises:
        Invalid: nobody could reach it.
        DashboardState: the folder, or a certificate that lies in it, cannot be used.
    """
    file = folder / DEPLOY_FILE
    if not wish.sources:
        _check_known(file, wish)
    opening.make_folder(folder)
    service = folder / SERVICE
    service.mkdir(mode=0o700, exist_ok=True)
    if secrets is None and is_new(folder):
        raise DashboardState("there are no secrets yet", why=f"{service / PASSPHRASE} is missing", hint="start it anew")
    if secrets is not None:
        passphrase, credential = secrets
        (service / PASSPHRASE).parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(service / CREDENTIAL, FirstAdmin.of(credential).encoded())
        write_atomic(service / PASSPHRASE, passphrase.encode())  # last: `is_new` looks for it
    else:
        _hash_plain(service / CREDENTIAL)
    known = identity(service, hosts=list(wish.names or ("localhost",)), now=now)
    _put_program(service)
    document = {
        "name": "clouddeploy_dashboard",
        "command": ["python", "-m", "clouddeploy.dashboard.deployed", str(port)],
        "requirements": list(requirements()),
        "ports": [port],
        "ready": "https:/",
        "certificate": str(known.cert.relative_to(service)),
    }
    (service / FILE).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    if wish.sources:
        durable.replace(file, _deploy_text(wish))
    return Written(file, known)


def _hash_plain(file: Path) -> None:
    """Hashes the password in a file of an earlier version, which had it as it was typed."""
    plain = file.read_text(encoding="utf-8") if file.exists() else ""
    if plain and not plain.startswith("{"):
        write_atomic(file, FirstAdmin.of(plain).encoded())


def _check_known(file: Path, wish: Wish) -> None:
    """Refuses to go on with the deploy file as it is where there is none, or where it means another cloud.

    Raises:
        Invalid: says what is to be named.
    """
    known = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not known:
        raise Invalid("nobody could reach the dashboard", why="no network is named", hint="--open-to 203.0.113.0/24")
    there = known["sites"][SITE]["provider"]
    if there != wish.cloud:
        raise Invalid(f"the dashboard is in {there}", why=f"{file} says so", hint=f"clouddeploy destroy {file}")


def _deploy_text(wish: Wish) -> str:
    site = {"provider": wish.cloud}
    place = wish.place or DEFAULT_PLACE.get(wish.cloud, "")
    if place:
        site[WHERE[wish.cloud]] = place
    if wish.size:
        site["size"] = wish.size
    document: dict[str, object] = {"version": 1, "service": SERVICE, "federation_sources": list(wish.sources)}
    if wish.ssh_sources:
        document["ssh_sources"] = list(wish.ssh_sources)
    document["sites"] = {SITE: site}
    return "# Written by `clouddeploy dashboard start --cloud`.\n" + yaml.safe_dump(document, sort_keys=False)


def _put_program(service: Path) -> None:
    """Puts the packages there, and what says their versions."""
    for package in PACKAGES:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise DashboardState(f"{package} is not here", why="it is not installed", hint="install clouddeploy again")
        target = service / package
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(found.submodule_search_locations[0], target, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("clouddeploy", "clouddeploy-runtime"):
        number = version(name)
        info = service / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", encoding="utf-8")
