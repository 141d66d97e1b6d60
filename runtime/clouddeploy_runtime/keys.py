"""Private keys: made, written and read so that nobody but their owner ever sees them; signatures with them."""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from clouddeploy_runtime.errors import ExitCode, RuntimeFault

if TYPE_CHECKING:
    from pathlib import Path

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

PRIVATE_MODE = 0o600


class KeyFault(RuntimeFault):
    """A private key is missing, unreadable, of a kind we do not use, or readable by others."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "PRIVATE_KEY"


class KeyAlgorithm(StrEnum):
    """The kinds of key that certificates of a project may have."""

    P256 = "ecdsa-p256"
    """The default: 128-bit security, and a key pair in 20 µs where RSA-2048 takes 100 ms."""
    RSA_2048 = "rsa-2048"
    """What the reference issues; for peers whose TLS stack knows nothing newer."""


def generate(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> PrivateKey:
    """Make a new key pair."""
    if algorithm is KeyAlgorithm.RSA_2048:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(key: PrivateKey, *, passphrase: bytes | None = None) -> bytes:
    """Serialise as PKCS#8 PEM (RFC 5958), encrypted when a passphrase is given."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def from_pem(pem: bytes, *, passphrase: bytes | None = None, name: str = "private key") -> PrivateKey:
    """Parse a PEM private key; `name` is what an error calls it.

    Raises:
        KeyFault: not a key, a wrong passphrase, or a kind of key that is not used here.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError) as exc:
        # The library's words do not tell these two causes apart either.
        why = (
            "the passphrase is wrong or the file is damaged" if passphrase is not None else "it is not a usable PEM key"
        )
        raise KeyFault(f"{name} cannot be read", why=why, hint="give the right passphrase or file") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyFault(f"{name} cannot be used", why=f"{type(key).__name__} is neither ECDSA nor RSA")
    return key


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner may read; it has that mode before it has content.

    Raises:
        FileExistsError: a key is never overwritten in place.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), PRIVATE_MODE)  # an unusual umask can only have removed bits; make the mode exact


def check_private(path: Path) -> None:
    """Refuse a private file that its group or others may touch.

    Raises:
        KeyFault: missing, not a regular file, or a mode looser than 0600.
    """
    try:
        status = path.lstat()
    except OSError as exc:
        raise KeyFault(f"{path} cannot be read", why=exc.strerror or type(exc).__name__) from exc
    _check_status(path, status)


def read_private(path: Path) -> bytes:
    """Read a private file; the very file that is read is checked, as in `check_private`."""
    check_private(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            _check_status(path, os.fstat(handle))
            return file.read()
    except OSError as exc:
        raise KeyFault(f"{path} cannot be read", why=exc.strerror or type(exc).__name__) from exc


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFault(f"{path} cannot be used", why="it is not a regular file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~PRIVATE_MODE:
        raise KeyFault(
            f"{path} is refused",
            why=f"its mode {mode:04o} is looser than 0600",
            hint=f"chmod 600 {path}, and ask who read it",
        )


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> PrivateKey:
    """Read and parse a private key file that nobody else can read."""
    return from_pem(read_private(path), passphrase=passphrase, name=str(path))


def public_bytes(key: PublicKey) -> bytes:
    """Return the SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), by which two keys are compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign with SHA-256: ECDSA (DER), or RSA-PSS with the longest salt."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256())


def is_signed_by(key: object, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` over `data` was made by `sign` with the private half of the public `key`."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            return True
        if isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            key.verify(signature, data, pss, hashes.SHA256())
            return True
    except InvalidSignature:
        return False
    return False
