"""One archive for each kit, AES-256, so that a kit can travel over a channel that others can read."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.spec import Builder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_provision.kit_tree import File

PASSWORD_VARIABLE = "CLOUDDEPLOY_ZIP_PASSWORD"  # noqa: S105 - the name of the variable
MIN_LENGTH = 12
"""The format derives its key with 1,000 rounds only, so a short password is no protection."""
_GENERATED_BYTES = 18
_OWNER_IS_UNIX = 3


class ZipBuilder(Builder):
    """Adds `<participant>.zip` beside each kit: the whole kit, encrypted.

    Args:
        password: `generate` makes one for each archive and keeps it in `state/zip_passwords.json`; `environment` takes
            `CLOUDDEPLOY_ZIP_PASSWORD`; `ask` asks at the terminal, once.
    """

    def __init__(self, password: str = "generate") -> None:  # noqa: S107 - where it comes from
        self.source = password

    def passwords(self, participants: list[str], *, given: str | None) -> Mapping[str, str]:
        """Return participant → password.

        Args:
            participants: whose archives are made.
            given: what the user answered when asked.

        Raises:
            BuilderFailed: none was given, or it is too short.
        """
        if self.source == "generate":
            return {name: secrets.token_urlsafe(_GENERATED_BYTES) for name in participants}
        password = os.environ.get(PASSWORD_VARIABLE, "") if self.source == "environment" else given or ""
        if len(password) < MIN_LENGTH:
            raise BuilderFailed(
                "the archives need a password",
                why=f"it has {len(password)} characters, {MIN_LENGTH} are the least" if password else "none was given",
                hint=f"set {PASSWORD_VARIABLE}, or `password: generate` in the project file",
            )
        return dict.fromkeys(participants, password)


def write(path: Path, folder: str, files: Mapping[str, File], password: str) -> None:
    """Write one encrypted archive.

    Raises:
        BuilderFailed: the library for it is not installed.
    """
    try:
        import pyzipper  # noqa: PLC0415 - only these projects need it
    except ImportError as exc:
        raise BuilderFailed(
            "ZipBuilder needs the package pyzipper", why=str(exc), hint="pip install 'clouddeploy[zip]'"
        ) from exc
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with (
        os.fdopen(handle, "wb") as file,
        pyzipper.AESZipFile(file, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive,
    ):
        archive.setpassword(password.encode())
        archive.setencryption(pyzipper.WZ_AES, nbits=256)
        for name, content in files.items():
            info = archive.zipinfo_cls(f"{folder}/{name}")
            info.create_system = _OWNER_IS_UNIX
            info.external_attr = (0o100000 | content.mode) << 16
            info.compress_type = pyzipper.ZIP_DEFLATED
            archive.writestr(info, content.content)
