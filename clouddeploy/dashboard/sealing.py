"""Private keys of kits while nobody needs them: encrypted, with a key that only the authority's passphrase opens.

    startup/client.key          while a kit is made
    startup/client.key.sealed   otherwise: a nonce, and the file encrypted with AES-256-GCM, for this kit and path alone
    <folder>/kits.key           the key of them all, encrypted with one that scrypt (RFC 7914) makes of the passphrase

Names and times stay as they were, so that `provision` knows a kit again after it was opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_provision.kit_tree import File, read, scan
from clouddeploy_provision.previous import SEALED
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from clouddeploy.dashboard.errors import DashboardState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from clouddeploy.secrets import Secret

_BEGUN = ".sealing"
_PRIVATE = 0o600
_NONCE, _SALT, _KEY = 12, 16, 32
_COST = 1 << 15
"""scrypt's N: 32 MiB and about 0.1 s, once for each start."""
_ABOUT = b"clouddeploy kits"


class Seal:
    """Closes and opens the private files of kits; for one thread at a time.

    Args:
        folder: the dashboard's.
        passphrase: of the certificate authority.
    """

    def __init__(self, folder: Path, passphrase: Secret) -> None:
        self._file = folder / "kits.key"
        self._lock_file = folder / "kits.lock"
        self._passphrase = passphrase
        self._known: AESGCM | None = None

    def read(self, kit: Path) -> dict[str, File]:
        """Returns the files of a kit as its owner gets them, whether it is closed or not.

        Raises:
            DashboardState: what is closed cannot be opened.
        """
        files = read(kit, sorted(scan(str(kit))))
        sealed = [path for path in files if path.endswith(SEALED)]
        for path in sealed:
            name = path.removesuffix(SEALED)
            files[name] = File(self._opened(kit, name, files.pop(path).content), _PRIVATE)
        return dict(sorted(files.items()))

    def close(self, kits: Iterable[Path]) -> None:
        """Encrypts every private file of some kits; may be repeated."""
        done: list[Path] = []
        for kit in kits:
            (kit / _BEGUN).unlink(missing_ok=True)  # of a run that was killed; it may be a key in plain text
            for path, status in scan(str(kit)).items():
                if stat.S_IMODE(status.st_mode) & 0o077 or path.endswith(SEALED):
                    continue
                # What is sealed already can be trusted, the other form is what a power cut left of it.
                if not self._is_sealed(kit, path):
                    nonce = os.urandom(_NONCE)
                    content = self._cipher().encrypt(nonce, (kit / path).read_bytes(), _name(kit, path))
                    _put(kit, path + SEALED, nonce + content, mtime_ns=status.st_mtime_ns)
                done.append(kit / path)
        _replaced(done)

    def open(self, kits: Iterable[Path]) -> None:
        """Decrypts the private files of some kits where they are; may be repeated.

        Raises:
            DashboardState: one cannot be opened; every sealed form is still there.
        """
        done: list[Path] = []
        for kit in kits:
            for path, status in scan(str(kit)).items():
                if not path.endswith(SEALED):
                    continue
                sealed, name = kit / path, path.removesuffix(SEALED)
                plain = self._opened(kit, name, sealed.read_bytes())
                _put(kit, name, plain, mtime_ns=status.st_mtime_ns)
                done.append(sealed)
        _replaced(done)

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Holds kits against other processes of the same folder; yields whether it does.

        Args:
            wait: for whoever holds them.
        """
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def _is_sealed(self, kit: Path, path: str) -> bool:
        """Tells whether there is a sealed form of a file that opens."""
        with contextlib.suppress(FileNotFoundError, DashboardState):
            self._opened(kit, path, (kit / (path + SEALED)).read_bytes())
            return True
        return False

    def _opened(self, kit: Path, path: str, content: bytes) -> bytes:
        try:
            return self._cipher().decrypt(content[:_NONCE], content[_NONCE:], _name(kit, path))
        except (InvalidTag, ValueError) as error:
            raise DashboardState(
                f"{path} of {kit.name} cannot be opened",
                why=f"it is damaged, or {self._file.name} is of another folder",
                hint=f"restore the whole folder from your backup; or remove {kit}, and a new key is made",
            ) from error

    def _cipher(self) -> AESGCM:
        if self._known is None:
            self._known = AESGCM(self._read_key() if self._file.exists() else self._make_key())
        return self._known

    def _make_key(self) -> bytes:
        key, salt, nonce = AESGCM.generate_key(8 * _KEY), os.urandom(_SALT), os.urandom(_NONCE)
        sealed = AESGCM(self._derived(salt, _COST)).encrypt(nonce, key, _ABOUT)
        document = {"scrypt_n": _COST, "salt": salt.hex(), "nonce": nonce.hex(), "key": sealed.hex()}
        write_atomic(self._file, json.dumps(document).encode())
        return key

    def _read_key(self) -> bytes:
        try:
            found = json.loads(self._file.read_bytes())
            salt, nonce, sealed = (bytes.fromhex(found[name]) for name in ("salt", "nonce", "key"))
            return AESGCM(self._derived(salt, found["scrypt_n"])).decrypt(nonce, sealed, _ABOUT)
        except (OSError, ValueError, TypeError, KeyError, InvalidTag) as error:
            raise DashboardState(
                "the private keys of kits cannot be opened",
                why=f"{self._file} is damaged, or of another passphrase",
                hint="restore it from your backup",
            ) from error

    def _derived(self, salt: bytes, cost: int) -> bytes:
        return Scrypt(salt=salt, length=_KEY, n=cost, r=8, p=1).derive(self._passphrase.reveal_bytes())


def kits_in(results: Iterable[Path]) -> list[Path]:
    """Returns the kits of some results."""
    found: list[Path] = []
    for result in results:
        with contextlib.suppress(FileNotFoundError):
            found += sorted(path for path in result.iterdir() if (path / "startup").is_dir())
    return found


def _put(kit: Path, path: str, content: bytes, *, mtime_ns: int) -> None:
    """Writes a private file at once; what a kill leaves is not in a folder whose every file is part of the kit."""
    begun = kit / _BEGUN
    begun.unlink(missing_ok=True)
    with os.fdopen(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE), "wb") as file:
        file.write(content)
    os.utime(begun, ns=(mtime_ns, mtime_ns))
    begun.replace(kit / path)


def _replaced(done: list[Path]) -> None:
    """Removes what there is another form of by now."""
    if done:
        os.sync()  # once for all: a power cut must not find neither form of a key, and there may be thousands
    for one in done:
        one.unlink()


def _name(kit: Path, path: str) -> bytes:
    """Says what a sealed file is, so that none can be put in the place of another."""
    return f"{kit.name}/{path}".encode()
