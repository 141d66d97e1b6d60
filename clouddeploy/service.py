"""A service: a folder with a program, and in it `service.yml`: how it is run, reached and known to serve."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clouddeploy_provision.schema import MAX_PROJECT, PROJECT
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from clouddeploy.deploy_schema import PathText, Text
from clouddeploy.errors import ConfigError
from clouddeploy.remote import service as remote
from clouddeploy.wheelhouse import REQUIREMENTS, is_from_index
from clouddeploy.yaml_file import Form, Problems, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE = "service.yml"
MIN_PORT, MAX_PORT = 1024, 65535
"""Below 1024 a port needs a right that the account of a site does not have, nor gets."""
MAX_PORTS = 16
"""Far below what the clouds' firewalls hold, and more than one program needs."""
READY = re.compile(r"(?P<plain>tcp|tls)|(?P<scheme>https?):(?P<path>/[!-~]*)")
VERIFIED = frozenset({"tls", "https"})
"""Checks in which the service proves who it is, by its certificate."""
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
OURS = "CLOUDDEPLOY_"
NOT_SENT = "__pycache__"
"""What Python leaves beside a program that was tried here: it is no other release for that."""
EXAMPLES = {
    "name": "name: dashboard",
    "command": 'command: [python, -m, my_service, --port, "8443"]',
    "requirements": "requirements: [starlette==0.47.2]",
    "ports": "ports: [8443]",
    "ready": "ready: https:/healthz",
    "certificate": "certificate: web.crt",
    "environment": "environment: {LEVEL: info}",
}
"""Each key as it may look, for messages."""


@dataclass(frozen=True)
class Service:
    """One service, checked.

    Attributes:
        folder: the program.
        name: stands where a project's name stands: in folders, tags and names of resources.
        command: its words; a first word `python` is the interpreter of its environment.
        requirements: what its environment has; names and versions.
        ports: opened in the firewall; the first is the one that is asked whether it serves.
        path: what is asked for over HTTP; empty: a connection is enough.
        certificate: PEM of the one that it has to show; empty: it is asked without TLS.
        environment: further variables.
    """

    folder: Path
    name: str
    command: tuple[str, ...]
    ports: tuple[int, ...]
    requirements: tuple[str, ...] = ()
    path: str = ""
    certificate: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def _word(value: Any) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("word", "has a NUL, which no program can be given")
    return value


def _command(value: list[str]) -> list[str]:
    if not value[0] or "=" in value[0]:
        raise PydanticCustomError("command", "starts with the name of a program, without an equals sign")
    return value


def _requirement(value: Any) -> Any:
    if not isinstance(value, str) or not is_from_index(value):
        raise PydanticCustomError("requirement", f"{value!r} is more than a name and versions")
    return value


def _port(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not MIN_PORT <= value <= MAX_PORT:
        rule = f"is a list of ports from {MIN_PORT} to {MAX_PORT}: a service has no right to those below"
        raise PydanticCustomError("port", rule)
    return value


def _distinct(value: list[int]) -> list[int]:
    if len(set(value)) != len(value):
        raise PydanticCustomError("ports", "has a port twice")
    return value


def _ready(value: Any) -> Any:
    if not isinstance(value, str) or not READY.fullmatch(value):
        raise PydanticCustomError("ready", "is tcp, tls, http:/PATH or https:/PATH")
    return value


def _variables(value: dict[str, str]) -> dict[str, str]:
    ours = sorted(name for name in value if name.startswith(OURS))
    if ours:
        raise PydanticCustomError("environment", f"has {', '.join(ours)}: names with {OURS} are set by us")
    return value


Word = Annotated[Text, AfterValidator(_word)]


class _File(BaseModel):
    """A whole service.yml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, StringConstraints(pattern=PROJECT, max_length=MAX_PROJECT)]
    command: Annotated[list[Word], Field(min_length=1), AfterValidator(_command)]
    requirements: list[Annotated[str, BeforeValidator(_requirement)]] = []
    ports: Annotated[
        list[Annotated[int, BeforeValidator(_port)]],
        Field(min_length=1, max_length=MAX_PORTS),
        AfterValidator(_distinct),
    ]
    ready: Annotated[str, BeforeValidator(_ready)] = "tcp"
    certificate: PathText | None = None
    environment: Annotated[
        dict[Annotated[str, StringConstraints(pattern=VARIABLE)], Word], AfterValidator(_variables)
    ] = {}


FORM = Form(
    what="service file",
    sample="docs/services.md has",
    first="name: dashboard",
    page="docs/services.md",
    keys=frozenset(_File.model_fields),
    examples=EXAMPLES,
)


def read(folder: Path, *, deploy_file: Path, now: datetime | None = None) -> Service:
    """Reads a service and refuses it unless it may be deployed.

    Args:
        folder: of the service.
        deploy_file: beside it lie the deployment's keys, so it may not be in the folder, which is sent away.
        now: the time to judge the certificate by; the clock's when not given.

    Raises:
        ConfigError: `service.yml` is missing or has problems, all of which are named; or the folder cannot be sent.
    """
    file = folder / FILE
    document, lines = parse(file, FORM)
    problems = Problems(file, lines, FORM)
    try:
        given = _File.model_validate(document)
    except ValidationError as error:
        problems.add_schema(error, _keys_of)
        problems.raise_if_any()
        raise
    match = READY.fullmatch(given.ready)
    scheme = (match["plain"] or match["scheme"]) if match else ""
    certificate = ""
    if scheme in VERIFIED and given.certificate is None:
        rule = f"is needed for `ready: {given.ready}`: without it nothing tells who it is that answers"
        problems.add(("certificate",), rule, example=EXAMPLES["certificate"])
    elif scheme not in VERIFIED and given.certificate is not None:
        problems.add(("certificate",), f"means nothing for `ready: {given.ready}`", example="ready: tls")
    elif given.certificate is not None:
        certificate, problem = _certificate(folder, given.certificate, now or datetime.now(UTC))
        if problem:
            problems.add(("certificate",), problem, example=EXAMPLES["certificate"])
    problems.raise_if_any()
    _check_folder(folder, deploy_file)
    return Service(
        folder=folder,
        name=given.name,
        command=tuple(given.command),
        ports=tuple(given.ports),
        requirements=tuple(given.requirements),
        path=(match["path"] or "") if match else "",
        certificate=certificate,
        environment=dict(given.environment),
    )


@contextmanager
def supervised(service: Service) -> Iterator[Path]:
    """Yields a folder with a copy of the service and what keeps it alive, for as long as the context lasts.

    Raises:
        ConfigError: a file of the service cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="clouddeploy-") as folder:  # 0700: it may hold secrets for a moment
        top = Path(folder) / "kit"
        top.mkdir(mode=0o700)
        try:
            shutil.copytree(service.folder, top / remote.FOLDER, symlinks=True, ignore=shutil.ignore_patterns(NOT_SENT))
        except (OSError, shutil.Error) as error:
            raise ConfigError(
                f"{service.folder} cannot be read", why=str(error), hint="all of it is sent: make it readable"
            ) from error
        remote.supervise(top, command=service.command, environment=service.environment, port=service.ports[0])
        # Other requirements are another release, although they travel as wheels.
        wanted = top / REQUIREMENTS
        wanted.write_text("".join(f"{line}\n" for line in service.requirements), encoding="utf-8")
        wanted.chmod(0o600)
        yield top


def _keys_of(location: Sequence[str | int]) -> tuple[str, ...]:
    is_variable = location[:1] == ("environment",)
    return tuple(str(part) for part in location[: 2 if is_variable else 1])


def _certificate(folder: Path, name: str, now: datetime) -> tuple[str, str]:
    """Returns PEM of the first certificate of a file, which is the one that is shown, or what is wrong with it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return "", "is not in the service's folder, so it could not be shown"
    try:
        one = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return "", f"cannot be read as PEM: {error}"
    if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
        return "", f"its time is {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
    return one.public_bytes(Encoding.PEM).decode("ascii"), ""


def _check_folder(folder: Path, deploy_file: Path) -> None:
    """Refuses what would send more than the service: links and devices, and the deployment's own keys."""
    if deploy_file.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder} cannot be deployed",
            why=f"{deploy_file} is in it, and beside that lie the keys of the deployment, which would be sent too",
            hint="put the deploy file above the service's folder",
        )
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ConfigError(
                f"{folder} cannot be deployed",
                why=f"{path.relative_to(folder)} is neither a file nor a folder",
                hint="put there what it leads to",
            )
