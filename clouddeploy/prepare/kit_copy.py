"""A verified kit and a private copy of it: what one project made for one server or client, and nothing beside it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import kit as reader
from clouddeploy_runtime.kit.kit import is_host
from cryptography import x509

from clouddeploy.prepare.errors import InvalidKit, PrepareError, UnsupportedKit
from clouddeploy.prepare.kit import PreparedKit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

PARTS = ("startup", "local")
"""What a kit consists of; a site that ran in its folder has left its own things beside it."""
README = "readme.txt"


@dataclass(frozen=True)
class Source:
    """A kit that may be prepared, as it is on disk."""

    root: Path
    kit: Kit


def read(folder: Path) -> Source:
    """Verify a kit.

    Raises:
        InvalidKit: it is none, is not as it was signed, or holds what is neither a file nor a folder.
        UnsupportedKit: it is an admin's or a relay's.
    """
    try:
        root = reader.folder_of(folder)
        kits.verify(root)
        found = kits.load(root)
    except kits.KitError as exc:
        raise InvalidKit(exc.what, why=exc.why, hint=exc.hint) from exc
    except OSError as exc:
        hint = "correct its owner or its mode: a kit is read by the account that unpacked it"
        raise InvalidKit(f"{folder} cannot be read", why=exc.strerror or str(exc), hint=hint) from exc
    if found.kind not in {kits.Kind.SERVER, kits.Kind.CLIENT}:
        raise UnsupportedKit(
            f"{folder} cannot be prepared",
            why=f"it is the kit of {found.name}, of the kind {found.kind.value}, and no process of it starts jobs",
            hint="name the kit of a server or of a client",
        )
    if found.port == 0:
        raise InvalidKit(
            f"{folder} cannot be prepared",
            why="local/endpoint.json lets the server take any free port, and clients need to know it",
            hint="name the port there, or remove that file",
        )
    for path in _all(root):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InvalidKit(
                f"{folder} cannot be prepared",
                why=f"{path.relative_to(root)} is neither a file nor a folder",
                hint="ask the project admin for the kit again",
            )
    return Source(root, found)


def copy(source: Source, target: Path, *, output: Path) -> PreparedKit:
    """Copy a kit into a folder that is there and empty; private keys stay private, the folder is its owner's alone.

    Raises:
        PrepareError: a file cannot be read or written.
    """
    try:
        os.chmod(target, 0o700)  # noqa: PTH101 - the mode before anything is in it
        for part in PARTS:
            if (source.root / part).is_dir():
                shutil.copytree(source.root / part, target / part)
        if (source.root / README).is_file():
            shutil.copy2(source.root / README, target / README)
    except (OSError, shutil.Error) as exc:
        hint = "make room at the output, or correct the kit's owner or its modes"
        raise PrepareError(f"{source.root} cannot be copied", why=str(exc), hint=hint) from exc
    return _described(source.kit, target, output)


def _all(root: Path) -> Iterator[Path]:
    for part in PARTS:
        yield from sorted((root / part).rglob("*"))


def _described(kit: Kit, root: Path, output: Path) -> PreparedKit:
    is_server = kit.kind is kits.Kind.SERVER
    hosts = _hosts(reader.certificate(kit.cert_file)) if is_server else ()
    # A server's own file has its logical name; where clients go is among the names of its certificate.
    host = next((one for one in hosts if "." in one or ":" in one), kit.name) if is_server else kit.host
    admin_port = kit.settings["servers"][0].get("admin_port") if is_server else None
    return PreparedKit(
        root=root,
        output=output,
        kind=kit.kind.value,
        name=kit.name,
        project=kit.project,
        org=kit.org,
        server_name=kit.server_name,
        server_host=host,
        fed_learn_port=kit.port,
        admin_port=admin_port if isinstance(admin_port, int) and admin_port > 0 else kit.port,
        hosts=hosts,
    )


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(host for host in found if is_host(host))
