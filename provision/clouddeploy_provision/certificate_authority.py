"""What a project admin does with the authority besides making kits: start it, list, revoke, exchange its root."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from clouddeploy_runtime import expiry, keys
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit.kit import attribute, certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from clouddeploy_provision import certificates
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_records import Issued, move
from clouddeploy_provision.ca_store import CaFile, CaStore, check_passphrase
from clouddeploy_provision.errors import CaError, ProvisionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clouddeploy_runtime.enrolment.formats import Profile

_VERSION = re.compile(r"[0-9]{2}")
_BACKUP = "backup_"
_NAME_LIMIT = 64
"""RFC 5280, appendix A.1: ub-common-name and ub-organization-name."""


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
        force: replace an authority of another version; its files go to `backup_<version>`.
        now: the time of issue; the clock's when not given.

    Raises:
        EnrolmentFault: PROFILE_INVALID, CA_ALREADY_EXISTS, CA_VERSION_ALREADY_EXISTS.
    """
    if _VERSION.fullmatch(version) is None:
        raise EnrolmentFault(
            "PROFILE_INVALID", f"version {version!r} is refused", why="it must have two digits", hint="00"
        )
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    for what, text in (("the project's name", profile.name), ("the organisation", org)):
        if len(text.encode()) > _NAME_LIMIT:
            raise EnrolmentFault(
                "PROFILE_INVALID",
                f"{text[:20]}… is refused",
                why=f"{what} is longer than {_NAME_LIMIT} bytes",
                hint="choose a shorter one",
            )
    check_passphrase(passphrase)
    store = CaStore(folder)
    with changing(store):
        # One that nothing is known of and that signed nothing was being made here when the run was killed.
        if store.exists and (store.is_described or store.records.issued()):
            _make_room(store, version, force=force)
        store.create(profile.name, passphrase=passphrase, now=moment, days=days, algorithm=algorithm, org=org)
        return store.describe(profile, version=version, now=moment)


@contextmanager
def changing(store: CaStore, *, is_import: bool = False) -> Iterator[None]:
    """Hold an authority's folder; what the system refuses becomes an error of ours."""
    try:
        with store.locked(is_import=is_import):
            yield
    except OSError as exc:
        raise ProvisionError(
            f"{store.folder} could not be changed",
            why=f"{exc.strerror or exc}",
            hint="remove the cause and run the command again",
        ) from exc


def _make_room(store: CaStore, version: str, *, force: bool) -> None:
    """Set an authority aside, whole: its folder is copied before anything in it goes."""
    if not force:
        raise EnrolmentFault(
            "CA_ALREADY_EXISTS",
            f"{store.folder} has an authority already",
            why="a new root makes every kit of the old one useless",
            hint="use another folder, or --force with another --deploy-version",
        )
    root = store.certificate()
    backups = [path.parent.name for path in store.folder.glob(f"{_BACKUP}*/rootCA.pem")]
    if not any(certificate(store.folder / name / "rootCA.pem") == root for name in backups):
        known = store.ca_file()
        if known.provision_version == version:
            raise EnrolmentFault(
                "CA_VERSION_ALREADY_EXISTS",
                f"{store.folder} has version {version} already",
                why="kits of two roots would get into one folder",
                hint="give a new --deploy-version",
            )
        name = f"{_BACKUP}{known.provision_version}"
        _set_aside(store.folder, name if name not in backups else f"{name}_{root.serial_number:x}")
    # The certificate last: while it is here, a run that was killed is taken up again above.
    for path in sorted(_files(store.folder), key=lambda path: (path.name == "rootCA.pem", path.name)):
        path.unlink()


def _set_aside(folder: Path, name: str) -> None:
    """Link every file of an authority into a folder of its own, which has its name only once it is whole."""
    partial = folder / "setting_aside"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    for path in _files(folder):
        (partial / path.name).hardlink_to(path)
    move(partial, folder / name)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.name != "lock"]


def listing(folder: Path, *, now: datetime | None = None) -> list[CertificateStatus]:
    """Return the roots and every certificate but those that expired and were replaced, what ends first first.

    Raises:
        CaError: the folder has no authority.
    """
    moment = now or datetime.now(UTC)
    store = require(folder)
    revoked = store.records.revoked()
    in_use = store.records.in_use()
    found = []
    for one in store.records.issued():
        end = datetime.fromisoformat(one.not_after)
        line = revoked.get(int(one.serial, 16))
        state = "revoked" if line else _state(end, moment)
        if state != "revoked" and in_use[one.name, one.listener].serial != one.serial:
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
        CaError: there is nothing to revoke under a name; nothing was revoked.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    store = require(folder)
    with changing(store):
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


def signed_list(folder: Path) -> bytes:
    """Return the signed list of revoked certificates, PEM.

    Raises:
        CaError: there is none, or it lacks a revocation.
    """
    store = require(folder)
    made = store.records.signed(store.certificate())
    if not made:
        is_lacking = bool(store.records.revoked())
        raise CaError(
            f"{folder} has no list to show",
            why="a run was killed before it signed the list" if is_lacking else "nothing was revoked yet",
            hint="repeat `clouddeploy cert revoke`" if is_lacking else "see `clouddeploy cert list`",
        )
    return made


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

    with changing(store):
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
            coming = store.open(passphrase, "next_")
            store.switch()
            store.records.crl(coming, now=moment)
        else:
            if store.has("next_") or not store.has("previous_"):
                raise refuse("the root was not switched", "begin with start, then switch")
            store.retire()
        _describe_again(store, moment)
        return fingerprint(store.certificate())


def _describe_again(store: CaStore, now: datetime) -> None:
    try:
        known = store.ca_file()
    except CaError:
        return  # an authority of before that file; the next run of provision writes it
    store.describe(known.project_profile, now=now)
