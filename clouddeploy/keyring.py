"""The SSH keys of one deployment: the operator's, and a bootstrap host key per site. Files 0600, never in the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.cloud_init import HostKey, generate_host_key

from clouddeploy import durable
from clouddeploy.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path


class Keyring:
    """Makes each key once and gives the same one again, so that a repeated request to a cloud is the same request."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

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
        for name in (f"{site}.bootstrap", f"{site}.bootstrap.pub"):
            (self._directory / name).unlink(missing_ok=True)

    def forget(self) -> None:
        """Deletes every key; called when nothing is left that they open."""
        if self._directory.is_dir():
            for file in self._directory.iterdir():
                file.unlink()

    def _key(self, name: str) -> HostKey:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, public = self._directory / name, self._directory / f"{name}.pub"
        try:
            return HostKey(
                private=private.read_text(encoding="ascii"), public=public.read_text(encoding="ascii").strip()
            )
        except FileNotFoundError:
            key = generate_host_key()
        try:
            # The public half first: a kill between the two leaves no private key without its public one.
            durable.replace(public, key.public + "\n")
            durable.replace(private, key.private)
        except OSError as error:
            raise StateError(
                f"cannot write the key {private}", why=str(error), hint="make room or fix the permissions"
            ) from error
        return key
