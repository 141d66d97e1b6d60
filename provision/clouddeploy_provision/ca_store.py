"""Where the authority is kept: one folder that only its owner may enter, the key encrypted, every write atomic.

state/                     0700
  rootCA.pem               0600  the root certificate; written last, so it exists only when the key does
  rootCA.key               0600  PKCS#8, encrypted with the passphrase
  next_rootCA.pem .key     0600  the root to come, while the root is exchanged (see `rollover`)
  previous_rootCA.pem      0600  the root that goes, until it is retired
  ca.json                  0600  what approving a request needs to know of the project
  issued.jsonl             0600  one line for each certificate that was issued, never a key
  revoked.jsonl            0600  one line for each certificate that was revoked
  crl.pem                  0600  the signed list of these
  kits.json                0600  digests of the last result's files (see `previous`)
  lock                     0600  held (flock) while kits are made
  backup_NN/               0700  an authority that another replaced (see `certificate_authority.init`)
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.formats import Profile  # noqa: TC002 - msgspec reads the annotation
from clouddeploy_runtime.kit import KitError
from clouddeploy_runtime.kit.kit import certificate
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import Records, move, write_atomic
from clouddeploy_provision.certificates import ROOT_DAYS
from clouddeploy_provision.errors import CaError, PassphraseError, ProvisionLocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

_FOLDER_MODE = 0o700
_MAX_PASSPHRASE_BYTES = 1023
"""OpenSSL takes no more."""


class CaFile(msgspec.Struct, frozen=True):
    """`ca.json`: whose authority this is; nothing secret."""

    project: str
    created_at: str
    """UTC, ISO 8601."""
    rootCA_fingerprint: str  # noqa: N815 - the reference's name
    provision_version: str = "00"
    """Number of the `prod_NN` folder that approved kits are put into, two digits."""
    project_profile: Profile | None = None


class CaStore:
    """The folder of one project's authority.

    Args:
        folder: `<workspace>/<project>/state`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._certificate = folder / "rootCA.pem"
        self._key = folder / "rootCA.key"
        self._ca_file = folder / "ca.json"
        self.records = Records(folder)

    @property
    def exists(self) -> bool:
        """Whether an authority was made here already."""
        return self._certificate.exists()

    @property
    def is_described(self) -> bool:
        """Whether `ca.json` says whose authority this is."""
        return self._ca_file.exists()

    @contextmanager
    def locked(self, *, is_import: bool = False) -> Iterator[None]:
        """Hold the folder for one run; makes it when it is missing.

        Args:
            is_import: the run takes the reference's state over, which stops all others.

        Raises:
            ProvisionLocked: another run holds it.
            CaError: the folder or a file in it may be entered or read by others, or the folder cannot be made.
        """
        if not is_import:
            self._check_reference()
        try:
            self.folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self._check_mode(self.folder)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise CaError(
                f"{self.folder} cannot be used",
                why=exc.strerror or str(exc),
                hint="name a folder that can be written to",
            ) from exc
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise ProvisionLocked(
                    f"{self.folder} is in use", why="another run makes kits for this project", hint="wait for it to end"
                ) from exc
            for path in sorted(self.folder.iterdir()):  # not earlier: another run's files come and go
                self._check_mode(path)
            self._complete_switch()
            yield
        finally:
            os.close(handle)

    def open(self, passphrase: bytes, which: str = "") -> Authority:
        """Read the authority: the present one, or `next_`.

        Raises:
            PassphraseError: not the passphrase that it was made with.
            CaError: a file is missing or damaged.
        """
        check_passphrase(passphrase)
        certificate = self.certificate(which)
        key_file = self.folder / f"{which}rootCA.key"
        try:
            encrypted = key_file.read_bytes()
        except OSError as exc:
            raise CaError(f"{key_file} cannot be read", why=str(exc), hint="restore it from your backup") from exc
        try:
            key = keys.from_pem(encrypted, passphrase=passphrase, name=str(key_file))
        except keys.KeyFault as exc:
            raise PassphraseError(
                "the certificate authority cannot be opened", why=exc.why, hint=f"give the passphrase of {self.folder}"
            ) from exc
        certified = certificate.public_key()
        if not isinstance(certified, keys.PublicKey) or keys.public_bytes(certified) != keys.public_bytes(
            key.public_key()
        ):
            raise CaError(f"{self.folder} cannot be used", why=f"{key_file.name} is not the key of its certificate")
        return Authority(certificate, key)

    def create(
        self,
        project: str,
        *,
        passphrase: bytes,
        now: datetime,
        days: int | None = None,
        algorithm: keys.KeyAlgorithm = keys.KeyAlgorithm.P256,
        org: str = "",
    ) -> Authority:
        """Make a new authority and keep it.

        Raises:
            CaError: there was one here whose root certificate is gone.
        """
        if self.records.issued():
            raise CaError(
                f"{self.folder} has lost its root certificate",
                why=f"{self._certificate.name} is missing, issued.jsonl says that it signed certificates",
                hint="restore the folder from your backup, or use a new one",
            )
        check_passphrase(passphrase)
        authority = Authority.create(project, now=now, days=days or ROOT_DAYS, algorithm=algorithm, org=org)
        self.keep(authority, passphrase)
        return authority

    def keep(self, authority: Authority, passphrase: bytes, which: str = "") -> None:
        """Write an authority: the key first, so that a certificate is never without it."""
        check_passphrase(passphrase)
        write_atomic(self.folder / f"{which}rootCA.key", keys.to_pem(authority.key, passphrase=passphrase))
        write_atomic(self.folder / f"{which}rootCA.pem", authority.pem)

    def describe(self, profile: Profile | None, *, version: str = "00", now: datetime) -> CaFile:
        """Write `ca.json` unless it says the same already; returns what it says."""
        root = self.certificate()
        known = self.ca_file() if self.is_described else None
        mark = fingerprint(root)
        if known is not None and known.rootCA_fingerprint == mark and known.project_profile == profile:
            return known
        found = CaFile(
            project=profile.name if profile else "",
            created_at=known.created_at if known else now.isoformat(),
            rootCA_fingerprint=mark,
            provision_version=known.provision_version if known else version,
            project_profile=profile,
        )
        write_atomic(self._ca_file, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        return found

    def ca_file(self) -> CaFile:
        """Read `ca.json`.

        Raises:
            CaError: it is missing or damaged.
        """
        try:
            return msgspec.json.decode(self._ca_file.read_bytes(), type=CaFile)
        except (OSError, msgspec.MsgspecError) as exc:
            raise CaError(
                f"{self._ca_file} cannot be used",
                why=str(exc),
                hint="name a folder made by `clouddeploy cert init` or by `clouddeploy provision`",
            ) from exc

    def certificate(self, which: str = "") -> x509.Certificate:
        """Read a root certificate: the present one, `next_` or `previous_`.

        Raises:
            CaError: it is missing or damaged.
        """
        path = self.folder / f"{which}rootCA.pem"
        try:
            return certificate(path)
        except KitError as exc:
            raise CaError(exc.what, why=exc.why, hint="restore it from your backup") from exc

    def trusted(self) -> list[x509.Certificate]:
        """Return every root that kits trust: the present one, and the next or the previous while it is exchanged."""
        others = [which for which in ("next_", "previous_") if self.has(which)]
        # The previous root is the present one when a switch was killed before it began.
        return list(dict.fromkeys(self.certificate(which) for which in ("", *others)))

    def bundle(self) -> bytes:
        """Return the trusted roots as a kit has them."""
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.trusted())

    def switch(self) -> None:
        """Make the next root the present one, and the present one the previous one, which kits still trust.

        A kill between two steps is made good by the next run: a next certificate without its key is half a switch.
        """
        write_atomic(self.folder / "previous_rootCA.pem", self._certificate.read_bytes())
        move(self.folder / "next_rootCA.key", self._key)
        self._complete_switch()

    def retire(self) -> None:
        """Trust the previous root no more."""
        (self.folder / "previous_rootCA.pem").unlink()

    def has(self, which: str) -> bool:
        """Tell whether there is a `next_` or a `previous_` root."""
        return (self.folder / f"{which}rootCA.pem").exists()

    def _complete_switch(self) -> None:
        coming = self.folder / "next_rootCA.pem"
        if coming.exists() and not (self.folder / "next_rootCA.key").exists():
            move(coming, self._certificate)

    def _check_reference(self) -> None:
        if (self.folder / "cert.json").exists() and not self.exists:
            raise CaError(
                f"{self.folder} cannot be used yet",
                why="cert.json is the reference's state, with every key in plain text",
                hint=f"import it first: clouddeploy cert import {self.folder / 'cert.json'}",
            )

    @staticmethod
    def _check_mode(path: Path) -> None:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise CaError(f"{path} is refused", why="it is a symbolic link", hint="put the file itself there")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
            raise CaError(
                f"{path} is refused", why=f"its mode {mode:04o} lets others in", hint=f"chmod {wanted} {path}"
            )


def check_passphrase(passphrase: bytes) -> None:
    """Refuse a passphrase that no key can be encrypted with.

    Raises:
        PassphraseError: it is empty or too long.
    """
    what = "the certificate authority needs a passphrase"
    if not passphrase:
        raise PassphraseError(what, why="it is empty", hint="choose one and keep it safe")
    if len(passphrase) > _MAX_PASSPHRASE_BYTES:
        raise PassphraseError(what, why=f"it has more than {_MAX_PASSPHRASE_BYTES} bytes", hint="choose a shorter one")
