"""What every command that uses a certificate authority has in common: where it is, and its passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_provision.ca_store import CaStore

from clouddeploy.errors import ConfigError
from clouddeploy.secrets import Secret, ca_passphrase

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.cli.main import Session

DEFAULT_WORKSPACE = Path("workspace")


def passphrase_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--passphrase-file` and `--keyring`."""
    keyring = click.option("--keyring", is_flag=True, help="Use the operating system's keyring for the passphrase.")
    file = click.option(
        "--passphrase-file", type=click.Path(path_type=Path), help="File with the certificate authority's passphrase."
    )
    return file(keyring(function))


def ca_option(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--ca`."""
    return click.option(
        "-c",
        "--ca",
        "ca",
        type=click.Path(path_type=Path),
        help="The authority's folder; default: the one project's in ./workspace.",
    )(function)


def passphrase(session: Session, given: dict[str, Any], *, folder: Path, is_new: bool = False) -> bytes:
    """Returns the passphrase of the authority in a folder.

    Args:
        session: the command's.
        given: what `passphrase_options` took; its two entries are removed.
        folder: the authority's.
        is_new: ask twice.
    """
    file, use_keyring = given.pop("passphrase_file"), given.pop("keyring")
    entry = str(folder.resolve()) if use_keyring else None

    def check(secret: Secret) -> None:
        CaStore(folder).open(secret.reveal_bytes())

    secret = ca_passphrase(
        file=file,
        may_ask=session.may_ask,
        confirm=is_new,
        keyring_entry=entry,
        check=None if is_new else check,
    )
    return secret.reveal_bytes()


def folder_of(ca: Path | None) -> Path:
    """Returns the authority's folder: the given one, or the only one in ./workspace."""
    if ca is not None:
        return ca if (ca / "rootCA.pem").exists() or not (ca / "state").is_dir() else ca / "state"
    found = sorted(path.parent for path in DEFAULT_WORKSPACE.glob("*/state/rootCA.pem"))
    if len(found) != 1:
        why = "./workspace holds no project" if not found else f"./workspace holds {len(found)} projects"
        raise ConfigError("which certificate authority is meant", why=why, hint="name its folder: --ca DIR")
    return found[0]
