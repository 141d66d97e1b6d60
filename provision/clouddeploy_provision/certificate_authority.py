"""What a project admin does with the authority besides making kits: start it, list, revoke, exchange its root."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import expiry, keys
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import attribute
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from clouddeploy_provision import certificates
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import Issued
from clouddeploy_provision.ca_store import CaFile, CaStore
from clouddeploy_provision.errors import CaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clouddeploy_runtime.enrolment.formats import Profile

_VERSION = re.compile(r"[0-9]{2}")
_IMPORTED = "cert.json.imported"


class Phase(StrEnum):
    """The steps of exchanging the root; kits must be handed out between them."""

    START = "start"
    """Make the next root; kits trust both from then on."""
    SWITCH = "switch"
    """Let the next root sign; kits still trust both."""
    FINISH = "finish"
    """Trust the old root no more."""


@dataclass(frozen=True)
class CertificateStatus:
    """One certificate and how it is."""

    name: str
    kind: str
    org: str
    role: str
    serial: str
    not_after: datetime
    state: str
    """valid, expires-soon (30 days), expires-now (7 days), expired, revoked, or replaced by a newer one."""
    reason: str = ""
    """Of a revocation."""


def require(folder: Path) -> CaStore:
    """Return the store in a folder.

    Raises:
        CaError: it has no authority.
    """
    store = CaStore(folder)
    if not store.exists:
        raise CaError(
            f"{folder} has no certificate authority",
            why="rootCA.pem is missing",
            hint="name a project's state folder, <workspace>/<project>/state, or one made by `clouddeploy cert init`",
        )
    return store


def init(
    profile: Profile,
    folder: Path,
    *,
    passphrase: bytes,
    org: str = "",
    days: int = certificates.ROOT_DAYS,
    version: str = "00",
    algorithm: keys.KeyAlgorithm = keys.KeyAlgorithm.P256,
    force: bool = False,
    now: datetime | None = None,
) -> CaFile:
    """Start an authority whose kits are made from requests.

    Args:
        profile: whose.
        folder: where it is kept.
        passphrase: to encrypt its key with.
        org: the organisation that runs it.
        days: how long the root is valid.
        version: number of the `prod_NN` folder for kits of this authority, two digits.
        algorithm: of its key.
        force: replace an authority of another version; its files are moved to `backup_<version>`.
        now: the time of issue; the clock's when not given.

    Raises:
        EnrolmentFault: PROFILE_INVALID, CA_ALREADY_EXISTS, CA_VERSION_ALREADY_EXISTS.
    """
    if _VERSION.fullmatch(version) is None:
        raise EnrolmentFault(
            "PROFILE_INVALID", f"version {version!r} is refused", why="it must have two digits", hint="00"
        )
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    store = CaStore(folder)
    with store.locked():
        if store.exists:
            _make_room(store, version, force=force)
        authority = Authority.create(profile.name, now=moment, days=days, algorithm=algorithm, org=org)
        store.keep(authority, passphrase)
        return store.describe(profile, version=version, now=moment)


def _make_room(store: CaStore, version: str, *, force: bool) -> None:
    known = store.ca_file()
    if not force:
        raise EnrolmentFault(
            "CA_ALREADY_EXISTS",
            f"{store.folder} has an authority already",
            why="a new root makes every kit of the old one useless",
            hint="use another folder, or --force with another --deploy-version",
        )
    if known.provision_version == version:
        raise EnrolmentFault(
            "CA_VERSION_ALREADY_EXISTS",
            f"{store.folder} has version {version} already",
            why="kits of two roots would get into one folder",
            hint="give a new --deploy-version",
        )
    backup = store.folder / f"backup_{known.provision_version}"
    backup.mkdir(mode=0o700, exist_ok=True)
    # The certificate last: while it is here, the old authority is the one in force.
    for name in ("issued.jsonl", "revoked.jsonl", "crl.pem", "ca.json", "rootCA.key", "rootCA.pem"):
        if (store.folder / name).exists():
            (store.folder / name).rename(backup / name)


def listing(folder: Path, *, now: datetime | None = None) -> list[CertificateStatus]:
    """Return the roots and every certificate that is not expired for good, what ends first first.

    Raises:
        CaError: the folder has no authority.
    """
    moment = now or datetime.now(UTC)
    store = require(folder)
    revoked = store.records.revoked()
    last = {(one.name, one.kind): one.serial for one in store.records.issued()}
    found = []
    for one in store.records.issued():
        end = datetime.fromisoformat(one.not_after)
        line = revoked.get(int(one.serial, 16))
        state = "revoked" if line else _state(end, moment)
        if state != "revoked" and last[one.name, one.kind] != one.serial:
            state = "replaced" if end > moment else ""  # an expired one that was replaced is nobody's concern
        if state:
            reason = line.reason if line else ""
            found.append(CertificateStatus(one.name, one.kind, one.org, one.role, one.serial, end, state, reason))
    roots = [
        CertificateStatus(
            attribute(root, NameOID.COMMON_NAME),
            "root",
            attribute(root, NameOID.ORGANIZATION_NAME),
            "",
            f"{root.serial_number:x}",
            root.not_valid_after_utc,
            _state(root.not_valid_after_utc, moment),
        )
        for root in store.trusted()
    ]
    return sorted([*roots, *found], key=lambda one: (one.not_after, one.name))


def _state(end: datetime, now: datetime) -> str:
    left = end - now
    if left.total_seconds() <= 0:
        return "expired"
    if left <= expiry.URGENT:
        return "expires-now"
    return "expires-soon" if left <= expiry.WARN else "valid"


def revoke(
    folder: Path,
    names: Sequence[str],
    *,
    passphrase: bytes,
    reason: str = "unspecified",
    serial: str | None = None,
    now: datetime | None = None,
) -> bytes:
    """Revoke every valid certificate of some participants, or the one with a serial number.

    Args:
        folder: the authority's.
        names: participants.
        passphrase: of the authority.
        reason: one of `certificates.REASONS`.
        serial: hexadecimal; only this certificate of the one name.
        now: the time; the clock's when not given.

    Returns:
        The signed list, PEM; also kept in the folder, and put into every kit from then on.

    Raises:
        CaError: there is nothing to revoke under a name.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    store = require(folder)
    with store.locked():
        authority = store.open(passphrase)
        wanted: list[Issued] = []
        issued = store.records.issued()
        for name in names:
            mine = [one for one in issued if one.name == name and (serial is None or _same(one.serial, serial))]
            live = [one for one in mine if datetime.fromisoformat(one.not_after) > moment]
            if not live:
                raise CaError(
                    f"{name} cannot be revoked",
                    why="it has no valid certificate" + (f" with serial number {serial}" if serial else ""),
                    hint="see `clouddeploy cert list`; nothing was revoked",
                )
            wanted += live
        return store.records.revoke(wanted, reason=reason, authority=authority, now=moment)


def _same(one: str, other: str) -> bool:
    return one.lower().lstrip("0") == other.lower().replace(":", "").lstrip("0")


def rollover(folder: Path, phase: Phase, *, passphrase: bytes, now: datetime | None = None) -> str:
    """Take one step of exchanging the root; each is followed by `provision` and handing out the kits.

    Any two neighbouring steps' kits understand each other: from `start` on kits trust both roots, so it does not matter
    in which order they reach their sites.

    Returns:
        The fingerprint of the root that signs from now on.

    Raises:
        CaError: it is not this step's turn.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    store = require(folder)

    def refuse(why: str, hint: str) -> CaError:
        return CaError(f"the root cannot be exchanged: {phase}", why=why, hint=hint)

    with store.locked():
        authority = store.open(passphrase)
        if phase is Phase.START:
            if store.has("next_") or store.has("previous_"):
                raise refuse("an exchange is under way", "go on with switch or finish")
            root = authority.certificate
            days = (root.not_valid_after_utc - root.not_valid_before_utc).days
            is_rsa = isinstance(authority.key, rsa.RSAPrivateKey)
            following = Authority.create(
                attribute(root, NameOID.COMMON_NAME),
                now=moment,
                days=days,
                algorithm=keys.KeyAlgorithm.RSA_2048 if is_rsa else keys.KeyAlgorithm.P256,
                org=attribute(root, NameOID.ORGANIZATION_NAME),
            )
            store.keep(following, passphrase, "next_")
        elif phase is Phase.SWITCH:
            if not store.has("next_"):
                raise refuse("there is no next root", "begin with start")
            store.open(passphrase, "next_")
            store.switch()
        else:
            if not store.has("previous_"):
                raise refuse("no old root is trusted any more", "begin with start, then switch")
            store.retire()
        _describe_again(store, moment)
        return fingerprint(store.certificate())


def _describe_again(store: CaStore, now: datetime) -> None:
    try:
        known = store.ca_file()
    except CaError:
        return  # an authority of before that file; the next run of provision writes it
    store.describe(known.project_profile, now=now)


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
    try:
        state = msgspec.json.decode(file.read_bytes(), type=dict[str, str | _ReferencePair])
        root = x509.load_pem_x509_certificate(str(state["root_cert"]).encode())
        key = keys.from_pem(str(state["root_pri_key"]).encode(), name=str(file))
    except (OSError, KeyError, ValueError, msgspec.MsgspecError) as exc:
        raise CaError(
            what, why=f"it is not the reference's state: {exc}", hint="name <project>/state/cert.json"
        ) from exc
    public_key = root.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or keys.public_bytes(
        public_key
    ) != keys.public_bytes(key.public_key()):
        raise CaError(what, why="root_pri_key is not the key of root_cert", hint="restore it from your backup")
    if root.not_valid_after_utc <= (now or datetime.now(UTC)):
        raise CaError(what, why=f"its root expired on {root.not_valid_after_utc:%Y-%m-%d}", hint="start a new project")
    issued = [_known(pair) for pair in state.values() if isinstance(pair, _ReferencePair)]
    if file.parent.resolve() == folder.resolve():
        file.chmod(0o600)
        folder.chmod(0o700)
        file = file.rename(folder / _IMPORTED)
    store = CaStore(folder)
    with store.locked():
        if store.exists:
            raise CaError(what, why=f"{folder} has an authority already", hint="use a new workspace")
        store.records.record([one for one in issued if one is not None])
        store.keep(Authority(root, key), passphrase)
    return len(issued)


def _known(pair: _ReferencePair) -> Issued | None:
    """Describe a participant of the reference by its certificate."""
    try:
        cert = x509.load_pem_x509_certificate(pair.cert.encode())
    except ValueError:
        return None
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
