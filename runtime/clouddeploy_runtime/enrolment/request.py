"""The site's first step: make a private key that stays here, and ask the project for a certificate."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys, places
from clouddeploy_runtime.enrolment import archive, formats
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.kit.kit import is_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROLE_OID = x509.ObjectIdentifier("1.2.840.113549.1.9.2")
"""unstructuredName (RFC 2985 §5.4.2): where certificates carry an admin's role."""
ROLES = ("org_admin", "lead", "member")
"""What may be asked for; a project_admin is made by provisioning, not by asking."""
TYPES = ("server", "client", "admin")
REQUEST_FILE = "request.json"
SITE_FILE = "site.yaml"
_MAX_NAME = 64
"""RFC 5280 appendix A.1, ub-common-name."""
_MAX_HOST = 253
_PATTERNS = {
    "project": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"),
    "org": re.compile(r"[A-Za-z0-9_]{1,64}"),
    "client": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"),
    "admin": re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}"),
}


@dataclass(frozen=True)
class MadeRequest:
    """What `make` wrote."""

    folder: Path
    """Keep it: it holds the private key, and `package` needs it."""
    archive: Path
    """Send it to the project admin; nothing in it is secret."""
    request_id: str
    public_key_sha256: str


def make(
    site: formats.Site,
    out: Path,
    *,
    algorithm: keys.KeyAlgorithm = keys.KeyAlgorithm.P256,
    force: bool = False,
    now: datetime | None = None,
) -> MadeRequest:
    """Make a private key and a request for its certificate, in `<out>/<name>/`.

    Args:
        site: who asks.
        out: the folder that gets the folder of the request.
        algorithm: of the key.
        force: replace an earlier request of this name, its private key included.
        now: the time of the request; the clock's when not given.

    Raises:
        EnrolmentFault: SITE_FILE, OUTPUT_DIR_EXISTS, OUTPUT_DIR_UNUSABLE.
    """
    check(site)
    folder = out / site.name
    _check_place(folder, force=force)
    key = keys.generate(algorithm)
    csr, site_yaml = signing_request(key, site), describe(site)
    request = _metadata(site, key, csr, site_yaml, now or datetime.now(UTC))
    members = {REQUEST_FILE: formats.encode(request), SITE_FILE: site_yaml, f"{site.name}.csr": csr}
    files = {
        f"{site.name}.key": keys.to_pem(key),
        **members,
        f"{site.name}.request.zip": archive.write(members),
    }
    try:
        _replace(folder, files)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise EnrolmentFault(
            "OUTPUT_DIR_UNUSABLE", f"{folder} cannot be written", why=why, hint="use another --out"
        ) from exc
    _remember(request, folder)
    return MadeRequest(folder, folder / f"{site.name}.request.zip", request.request_id, request.public_key_sha256)


def _check_place(folder: Path, *, force: bool) -> None:
    """Refuse a folder that is in use; even `force` throws nothing away but an earlier request."""
    if not (folder.exists() or folder.is_symlink()):
        return
    is_request = not folder.is_symlink() and (folder / REQUEST_FILE).is_file()
    if not is_request or not force:
        raise EnrolmentFault(
            "OUTPUT_DIR_EXISTS",
            f"{folder} is there already",
            why="it may hold the private key of a request that is under way" if is_request else "it is not a request's",
            hint="use --force to throw that key away, or another --out" if is_request else "use another --out",
        )


def _metadata(site: formats.Site, key: keys.PrivateKey, csr: bytes, site_yaml: bytes, now: datetime) -> formats.Request:
    return formats.Request(
        artifact_type=formats.REQUEST,
        schema_version=formats.SCHEMA_VERSION,
        request_id=secrets.token_hex(16),
        created_at=now.replace(microsecond=0).isoformat(),
        project=site.project,
        name=site.name,
        org=site.org,
        kind=site.type,
        cert_type=site.type,
        cert_role=site.role,
        csr_sha256=hashlib.sha256(csr).hexdigest(),
        public_key_sha256=hashlib.sha256(keys.public_bytes(key.public_key())).hexdigest(),
        site_yaml_sha256=hashlib.sha256(site_yaml).hexdigest(),
    )


def check(site: formats.Site) -> None:
    """Refuse a participant that no project would accept.

    Raises:
        EnrolmentFault: SITE_FILE, naming every problem.
    """
    problems = list(_problems(site))
    if problems:
        raise EnrolmentFault(
            "SITE_FILE",
            "the participant cannot be asked for",
            why="; ".join(problems),
            hint="example: project p, name site-1, org hospital_a, type client",
        )


def _problems(site: formats.Site) -> Iterator[str]:
    if site.type not in TYPES:
        yield f"type must be one of {', '.join(TYPES)}, not {site.type!r}"
    elif not _is_name(site):
        yield f"name {site.name!r} cannot be that of {'an admin' if site.type == 'admin' else f'a {site.type}'}"
    if site.type == "admin" and site.role not in ROLES:
        yield f"role must be one of {', '.join(ROLES)}, not {site.role!r}"
    if site.type != "admin" and site.role:
        yield "only an admin has a role"
    if site.host_names and site.type != "server":
        yield "only a server has host_names"
    for host in site.host_names:
        if not is_host(host) or len(host) > _MAX_HOST:
            yield f"host_names: {host!r} is neither a name nor an address"
    for label, value in (("project", site.project), ("org", site.org)):
        if _PATTERNS[label].fullmatch(value) is None:
            yield f"{label} {value!r} has signs that are not allowed"


def _is_name(site: formats.Site) -> bool:
    if site.type == "server":
        return is_server_name(site.name)
    return len(site.name) <= _MAX_NAME and _PATTERNS[site.type].fullmatch(site.name) is not None


def is_server_name(name: str) -> bool:
    """Tell whether a server can have this name in its certificate: a host name, which IPv6 addresses are not."""
    return is_host(name) and ":" not in name and len(name) <= _MAX_NAME


def is_project_name(name: str) -> bool:
    """Tell whether a project can have this name."""
    return _PATTERNS["project"].fullmatch(name) is not None


def signing_request(key: keys.PrivateKey, site: formats.Site) -> bytes:
    """Make a certificate signing request (RFC 2986), PEM: subject and proof that the key is here, nothing else."""
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, site.name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, site.org),
    ]
    if site.role:
        subject.append(x509.NameAttribute(ROLE_OID, site.role))
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


def describe(site: formats.Site) -> bytes:
    """Write `site.yaml`: a project file with one participant. JSON strings are YAML scalars, so it takes no library."""
    participant: dict[str, object] = {"name": site.name, "type": site.type, "org": site.org}
    if site.role:
        participant["role"] = site.role
    if site.host_names:
        participant["host_names"] = list(site.host_names)
    first, *rest = (f"{key}: {json.dumps(value)}" for key, value in participant.items())
    lines = [f"name: {json.dumps(site.project)}", "participants:", f"  - {first}", *(f"    {line}" for line in rest)]
    return ("\n".join(lines) + "\n").encode()


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder as a whole: a kill never leaves half a request under its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    for name, content in files.items():
        keys.write_private(partial / name, content)
    if folder.exists():
        old = folder.parent / f".{folder.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def _remember(request: formats.Request, folder: Path) -> None:
    """Keep a record of the request; a home that cannot be written to is no reason to fail."""
    try:
        place = places.state_folder() / "requests"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = {**msgspec.to_builtins(request), "folder": str(folder.resolve())}
        keys.write_private(place / f"{request.request_id}.json", msgspec.json.encode(record) + b"\n")
    except OSError:
        return
