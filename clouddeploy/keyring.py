"""The SSH keys of one deployment: the operator's, and a bootstrap host key per site. Files 0600, never in the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.cloud_init import HostKey, generate_host_key, read_host_key

from clouddeploy import durable
from clouddeploy.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path


class Keyring:
    """Makes each key once and gives the same one again, so that a repeated request to a cloud is the same request."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, HostKey] = {}

    @property
    def operator_file(self) -> Path:
        """The operator's private key, for SSH to machines that the deployment made."""
        return self._directory / "operator"

    def operator(self) -> HostKey:
        """Returns the operator's key pair."""
        return self._key("operator")

    def bootstrap(self, site: str) -> HostKey:
        """Returns the host key that the site's machine is born with; it is replaced on first contact."""
        return self._key(f"{site}.bootstrap")

    def forget_bootstrap(self, site: str) -> None:
        """Deletes the host key of a machine that is gone; the next one is born with another."""
        self._known.pop(f"{site}.bootstrap", None)
        (self._directory / f"{site}.bootstrap").unlink(missing_ok=True)

    def forget(self) -> None:
        """Deletes every key; called when nothing is left that they open."""
        self._known.clear()
        if self._directory.is_dir():
            for file in self._directory.iterdir():
                file.unlink()

    def _key(self, name: str) -> HostKey:
        # Remembered: hundreds of machines are told the operator's key, each in a thread of its own.
        if name not in self._known:
            self._known[name] = self._read(self._directory / name) or self._make(self._directory / name)
        return self._known[name]

    @staticmethod
    def _read(file: Path) -> HostKey | None:
        try:
            return read_host_key(file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot read the key {file}", why=str(error), hint="restore it from a backup or fix the permissions"
            ) from error

    @staticmethod
    def _make(file: Path) -> HostKey:
        key = generate_host_key()
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(file, key.private)
        except OSError as error:
            raise StateError(
                f"cannot write the key {file}", why=str(error), hint="make room or fix the permissions"
            ) from error
        return key
