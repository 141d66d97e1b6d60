"""Where the authority is kept: one folder that only its owner may enter, the key encrypted, every write atomic.

state/            0700
  rootCA.pem      0600  the root certificate; written last, so it exists only when the key does
  rootCA.key      0600  PKCS#8, encrypted with the passphrase
  issued.jsonl    0600  one line for each certificate that was issued, never a key
  lock            0600  held (flock) while kits are made
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys
from cryptography import x509

from clouddeploy_provision.ca import Authority
from clouddeploy_provision.certificates import ROOT_DAYS
from clouddeploy_provision.errors import CaError, PassphraseError, ProvisionLocked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

_FOLDER_MODE = 0o700


class Issued(msgspec.Struct, frozen=True):
    """One line of `issued.jsonl`: what revocation and questions of "who had this" need."""

    serial: str
    """Hexadecimal."""
    name: str
    kind: str
    org: str
    role: str
    not_after: str
    """UTC, ISO 8601."""


class CaStore:
    """The folder of one project's authority.

    Args:
        folder: `<workspace>/<project>/state`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._certificate = folder / "rootCA.pem"
        self._key = folder / "rootCA.key"
        self._issued = folder / "issued.jsonl"

    @property
    def exists(self) -> bool:
        """Whether an authority was made here already."""
        return self._certificate.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run; makes it when it is missing.

        Raises:
            ProvisionLocked: another run holds it.
            CaError: the folder or a file in it may be entered or read by others.
        """
        self.folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._check_modes()
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise ProvisionLocked(
                    f"{self.folder} is in use", why="another run makes kits for this project", hint="wait for it to end"
                ) from exc
            yield
        finally:
            os.close(handle)

    def open(self, passphrase: bytes) -> Authority:
        """Read the authority.

        Raises:
            PassphraseError: not the passphrase that it was made with.
            CaError: a file is missing or damaged.
        """
        _check_passphrase(passphrase)
        try:
            certificate = x509.load_pem_x509_certificate(self._certificate.read_bytes())
            encrypted = self._key.read_bytes()
        except (OSError, ValueError) as exc:
            raise CaError(f"{self.folder} cannot be used", why=str(exc), hint="restore it from your backup") from exc
        try:
            key = keys.from_pem(encrypted, passphrase=passphrase, name=str(self._key))
        except keys.KeyFault as exc:
            raise PassphraseError(
                "the certificate authority cannot be opened", why=exc.why, hint=f"give the passphrase of {self.folder}"
            ) from exc
        certified = certificate.public_key()
        if not isinstance(certified, keys.PublicKey) or keys.public_bytes(certified) != keys.public_bytes(
            key.public_key()
        ):
            raise CaError(f"{self.folder} cannot be used", why="rootCA.key is not the key of rootCA.pem")
        return Authority(certificate, key)

    def create(
        self,
        project: str,
        *,
        passphrase: bytes,
        now: datetime,
        days: int | None = None,
        algorithm: keys.KeyAlgorithm = keys.KeyAlgorithm.P256,
    ) -> Authority:
        """Make a new authority and keep it."""
        _check_passphrase(passphrase)
        authority = Authority.create(project, now=now, days=days or ROOT_DAYS, algorithm=algorithm)
        write_atomic(self._key, keys.to_pem(authority.key, passphrase=passphrase))
        write_atomic(self._certificate, authority.pem)
        return authority

    def record(self, issued: Sequence[Issued]) -> None:
        """Append to the list of issued certificates; on disk when it returns."""
        if not issued:
            return
        handle = os.open(self._issued, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in issued))
            file.flush()
            os.fsync(file.fileno())

    def last_issued(self) -> dict[str, Issued]:
        """Return the last certificate of each name; a torn last line, from a kill while writing, is passed over."""
        if not self._issued.exists():
            return {}
        lines = self._issued.read_bytes().splitlines(keepends=True)
        try:
            found = [msgspec.json.decode(line, type=Issued) for line in lines if line.endswith(b"\n")]
        except msgspec.MsgspecError as exc:
            raise CaError(f"{self._issued} is damaged", why=str(exc), hint="restore it from your backup") from exc
        return {one.name: one for one in found}

    def _check_modes(self) -> None:
        if (self.folder / "cert.json").exists():
            raise CaError(
                f"{self.folder} cannot be used",
                why="cert.json is the reference's state, which is not yet supported",
                hint="use another workspace; clouddeploy makes its own authority there",
            )
        for path in (self.folder, *sorted(self.folder.iterdir())):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & 0o077:
                wanted = "700" if path == self.folder else "600"
                raise CaError(
                    f"{path} is refused", why=f"its mode {mode:04o} lets others in", hint=f"chmod {wanted} {path}"
                )


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner only, on disk before it has its name."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    keys.write_private(partial, content)
    handle = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    partial.rename(path)


def _check_passphrase(passphrase: bytes) -> None:
    if not passphrase:
        raise PassphraseError(
            "the certificate authority needs a passphrase", why="it is empty", hint="choose one and keep it safe"
        )
