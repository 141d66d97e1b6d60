"""Takes over the root of the reference's `state/cert.json`, so that its kits stay valid beside ours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import attribute
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from clouddeploy_provision import certificates
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import Issued, move
from clouddeploy_provision.ca_store import CaStore, check_passphrase
from clouddeploy_provision.certificate_authority import changing
from clouddeploy_provision.errors import CaError

if TYPE_CHECKING:
    from pathlib import Path

_IMPORTED = "cert.json.imported"
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension)
"""What the library raises for a certificate that is damaged or is no authority's."""


class _ReferencePair(msgspec.Struct):
    """A participant's entry in the reference's state."""

    cert: str
    pri_key: str


def import_reference(file: Path, folder: Path, *, passphrase: bytes, now: datetime | None = None) -> int:
    """Take over the root of the reference's `state/cert.json`, so that its kits stay valid beside ours.

    The root's key is encrypted here. The participants' keys are not taken over: their next kits get new ones, the kits
    they have stay valid until they expire or are revoked. A `cert.json` in `folder` itself is renamed and made private.

    Args:
        file: the reference's file.
        folder: of the new authority, `<workspace>/<project>/state`.
        passphrase: to encrypt the root's key with.
        now: the time; the clock's when not given.

    Returns:
        How many participants' certificates are known now.

    Raises:
        CaError: not such a file, or the folder has an authority already.
    """
    what = f"{file} cannot be imported"
    check_passphrase(passphrase)
    authority, issued = _reference(file, what, now or datetime.now(UTC))
    store = CaStore(folder)
    taken = CaError(what, why=f"{folder} has an authority already", hint="use a new workspace")
    if store.exists:
        raise taken
    is_inside = file.parent.resolve() == folder.resolve()
    try:
        if is_inside:
            file.chmod(0o600)
            folder.chmod(0o700)
    except OSError as exc:
        raise CaError(what, why=f"it cannot be made private: {exc.strerror}", hint="copy it elsewhere first") from exc
    with changing(store, is_import=True):
        if store.exists:
            raise taken
        known = {one.serial for one in store.records.issued()}  # of an import that was killed
        store.records.record([one for one in issued if one.serial not in known])
        store.keep(authority, passphrase)
        # Not earlier: while it has its name, no other run makes a new root instead.
        if is_inside:
            move(file, folder / _IMPORTED)
    return len(issued)


def _reference(file: Path, what: str, now: datetime) -> tuple[Authority, list[Issued]]:
    """Read the reference's state: its root, and what is known of its participants."""
    try:
        state = msgspec.json.decode(file.read_bytes(), type=dict[str, str | _ReferencePair])
        key = keys.from_pem(str(state["root_pri_key"]).encode(), name=str(file))
        root = x509.load_pem_x509_certificate(str(state["root_cert"]).encode())
        may_sign = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        public_key, end = root.public_key(), root.not_valid_after_utc
        issued = [_known(pair) for pair in state.values() if isinstance(pair, _ReferencePair)]
    except KeyError as exc:
        raise CaError(what, why=f"it has no {exc.args[0]}", hint="name <project>/state/cert.json") from exc
    except (OSError, msgspec.MsgspecError, RecursionError, *_UNREADABLE) as exc:
        raise CaError(
            what, why=f"it is not the reference's state: {exc}", hint="name <project>/state/cert.json"
        ) from exc
    if not isinstance(public_key, keys.PublicKey) or keys.public_bytes(public_key) != keys.public_bytes(
        key.public_key()
    ):
        raise CaError(what, why="root_pri_key is not the key of root_cert", hint="restore it from your backup")
    if not may_sign:
        raise CaError(what, why="root_cert may not sign certificates", hint="restore it from your backup")
    if end <= now:
        raise CaError(what, why=f"its root expired on {end:%Y-%m-%d}", hint="start a new project")
    return Authority(root, key), issued


def _known(pair: _ReferencePair) -> Issued:
    """Describe a participant of the reference by its certificate."""
    cert = x509.load_pem_x509_certificate(pair.cert.encode())
    name, role = attribute(cert, NameOID.COMMON_NAME), attribute(cert, certificates.UNSTRUCTURED_NAME)
    return Issued(
        serial=f"{cert.serial_number:x}",
        name=name,
        kind=Kind.ADMIN.value if role else "",  # the certificate of a server looks like that of a client there
        org=attribute(cert, NameOID.ORGANIZATION_NAME),
        role=role,
        not_after=cert.not_valid_after_utc.isoformat(),
        not_before=cert.not_valid_before_utc.isoformat(),
    )
