"""The last result: which of its kits can be carried over, told from an index of digests without reading them.

`state/kits.json` holds, for every kit of the last result, what its certificate says and the digest, size, mode and time
of each file. A kit whose files look as they were left is known; any other is verified like at a start, or not used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit import manifest
from clouddeploy_runtime.kit.config import EndpointOverlay
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.kit.verify import issuer_of

from clouddeploy_provision import certificates, kit_tree
from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_provision.errors import ResultError
from clouddeploy_provision.kit_tree import LOCAL, STARTUP, File, Stored

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from cryptography import x509

_RESULT = re.compile(r"prod_([0-9]{2})")
LAST_RESULT = 99
LISTENER_KEY = "startup/server.key"
LISTENER_CERT = "startup/server.crt"
"""Of those who listen without being the server."""
NEVER_EDITED = frozenset({revocation.LIST_PATH})
"""Outside `startup/`, but the authority's word all the same."""
SEALED = ".sealed"
"""How the name of a private file ends that whoever keeps the kits has encrypted where it is, as the dashboard does."""


class CertificateRecord(msgspec.Struct, frozen=True):
    """What is remembered of one certificate."""

    serial: str
    """Hexadecimal."""
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    """Every alternative name, as `certificates.text_of` writes it."""
    issuer: str
    """Fingerprint of the root."""

    @classmethod
    def of(cls, cert: x509.Certificate, root: x509.Certificate) -> CertificateRecord:
        """Describe a certificate."""
        return cls(
            serial=f"{cert.serial_number:x}",
            not_before=cert.not_valid_before_utc,
            not_after=cert.not_valid_after_utc,
            names=tuple(sorted(certificates.text_of(name) for name in certificates.names_of(cert))),
            issuer=fingerprint(root),
        )

    def is_worn(self, now: datetime) -> bool:
        """Tell whether less than a third of its time is left, which is when it is renewed."""
        return self.not_after - now < (self.not_after - self.not_before) / 3


class KitRecord(msgspec.Struct, frozen=True):
    """What is remembered of one kit."""

    kind: str
    certificate: CertificateRecord
    listener: CertificateRecord | None
    """The second certificate, of those who listen without being the server."""
    hosts: tuple[str, ...] | None
    """What the project file said of its names; None: not known."""
    files: dict[str, Stored]
    """Path → what stands there, of everything that provisioning wrote."""


class Index(msgspec.Struct, frozen=True):
    """`state/kits.json`."""

    result: str
    """Name of the `prod_NN` folder."""
    kits: dict[str, KitRecord]
    endpoint: EndpointOverlay | None = None
    """Where a deployment said that clients connect."""
    revoked: int = 0
    """How many certificates were revoked when it was made."""


@dataclass(frozen=True)
class PreviousKit:
    """A kit of the last result that can be carried over."""

    folder: str
    record: KitRecord
    added: tuple[str, ...] = ()
    """Paths under `local/` that provisioning did not write."""
    is_expired: bool = False
    """Only its key can be used again."""
    edited: frozenset[str] = field(default_factory=frozenset)
    """Paths outside `startup/` that differ from what provisioning wrote."""
    missing: frozenset[str] = field(default_factory=frozenset)
    """Paths outside `startup/` that provisioning wrote and somebody removed."""

    def startup_paths(self) -> set[str]:
        """Return the signed paths."""
        return {path for path in self.record.files if path.startswith(STARTUP)} - manifest.OUTSIDE

    def same_startup(self, files: Mapping[str, File], *, but: set[str]) -> bool:
        """Tell whether the kit has exactly these signed files, some paths aside."""
        return self.startup_paths() - but == set(files) and all(
            self.record.files[path].is_file(file) for path, file in files.items()
        )

    def same_rest(self, files: Mapping[str, File]) -> bool:
        """Tell whether the kit has these files outside `startup/`, edits aside, and none that is not made any more."""
        written = {path for path in self.record.files if not path.startswith(STARTUP)}
        return (
            written - set(self.added) <= set(files) <= written - self.missing
            and all(self.record.files[path].is_file(file) for path, file in files.items())
            and not self.edited & NEVER_EDITED
        )

    def carries(self, path: str, file: File) -> bool:
        """Tell whether an edit stays: by hand, in a file that provisioning would write just as it did before."""
        stored = self.record.files.get(path)
        return path in self.edited - NEVER_EDITED and stored is not None and stored.is_file(file)

    def read(self, *paths: str) -> list[bytes]:
        """Read files of the kit, after it was verified once more, byte for byte.

        Raises:
            ResultError: it is not as it was signed any more.
        """
        try:
            kits.verify(Path(self.folder), now=self.record.certificate.not_before)
        except kits.KitRevoked:
            pass  # the key may go on, the certificate is replaced
        except kits.KitError as exc:
            raise ResultError(
                f"{self.folder} cannot be carried over",
                why=str(exc),
                hint=f"remove {self.folder}; its participant gets a new key then",
            ) from exc
        return [Path(self.folder, path).read_bytes() for path in paths]


def results(project_folder: Path) -> list[Path]:
    """Return the `prod_NN` folders, oldest first."""
    return [path for path in _numbered(project_folder) if path.is_dir()]


def next_result(project_folder: Path) -> Path:
    """Return the folder that the next result gets.

    Raises:
        ResultError: there is a `prod_99` already.
    """
    found = _numbered(project_folder)
    number = int(found[-1].name.removeprefix("prod_")) + 1 if found else 0
    if number > LAST_RESULT:
        raise ResultError(
            f"{project_folder} can hold no further result",
            why=f"prod_{LAST_RESULT} exists",
            hint="move old prod_NN folders away; the one with the highest number must stay until a newer one is made",
        )
    return project_folder / f"prod_{number:02d}"


def _numbered(project_folder: Path) -> list[Path]:
    if not project_folder.is_dir():
        return []
    return sorted(path for path in project_folder.iterdir() if _RESULT.fullmatch(path.name))


def check_open(project_folder: Path) -> None:
    """Refuse a last result whose private keys are encrypted where they are: every participant would get a new one.

    Raises:
        ResultError: one is.
    """
    for result in results(project_folder)[-1:]:
        sealed = min(result.glob(f"*/{STARTUP}*{SEALED}"), default=None)
        if sealed is not None:
            raise ResultError(
                f"the kits in {result} cannot be carried over",
                why=f"{sealed.relative_to(result)} is encrypted, as the dashboard keeps the keys of its kits",
                hint="let the dashboard hand them out; or choose another workspace (-w, `workspace` in a deploy file)",
            )


class Previous:
    """The last result of a project.

    Args:
        folder: `<workspace>/<project>`.
        project: the project's name.
        trusted: the roots that kits trust now.
        now: the time of the run.
    """

    def __init__(self, folder: Path, *, project: str, trusted: list[x509.Certificate], now: datetime) -> None:
        found = results(folder)
        self.result = found[-1] if found else None
        self._index_file = folder / "state" / "kits.json"
        self._project = project
        self._trusted = trusted
        self._now = now
        self._index = self._read_index()
        self.refused: dict[str, str] = {}
        """Participant → why its kit cannot be carried over."""

    @property
    def revoked(self) -> int:
        """How many certificates were revoked when the last result was made."""
        return self._index.revoked

    @cached_property
    def names(self) -> frozenset[str]:
        """The participants that have a kit in the last result."""
        if self.result is None:
            return frozenset()
        return frozenset(path.name for path in self.result.iterdir() if (path / "startup").is_dir())

    def kit(self, name: str) -> PreviousKit | None:
        """Return a kit of the last result; `None` when there is none, or none that is as it was signed.

        A kit that was tampered with is not carried over, and neither is its key: it may have been replaced by a known
        one.
        """
        if self.result is None:
            return None
        folder = f"{self.result}/{name}"
        record = self._index.kits.get(name)
        if record is not None:
            found = kit_tree.scan(folder)
            kit = _recognise(folder, record, found, is_expired=record.certificate.not_after < self._now)
            if kit is not None:
                return kit
        path = Path(folder)
        return self._verify(path) if (path / "startup").is_dir() else None

    def endpoint(self) -> EndpointOverlay | None:
        """Return where the clients of the last result connect, when a deployment said so."""
        if self.result is None or self._index.kits:
            return self._index.endpoint
        for name in sorted(self.names):  # without an index, as the first kit says
            file = self.result / name / "local" / "endpoint.json"
            try:
                overlay = msgspec.json.decode(file.read_bytes(), type=EndpointOverlay)
            except FileNotFoundError:
                continue
            except msgspec.MsgspecError as exc:
                raise ResultError(f"{file} cannot be used", why=str(exc), hint="remove or correct it") from exc
            if overlay.host is not None:
                return overlay
        return None

    def keep(self, index: Index) -> None:
        """Write the index of a new result."""
        write_atomic(self._index_file, msgspec.json.encode(index))

    def _read_index(self) -> Index:
        """Read the index; one that is missing, damaged or of another result only costs time."""
        try:
            index = msgspec.json.decode(self._index_file.read_bytes(), type=Index)
        except (OSError, msgspec.MsgspecError):
            return Index("", {})
        return index if self.result is not None and index.result == self.result.name else Index("", {})

    def _verify(self, folder: Path) -> PreviousKit | None:
        is_expired = False
        try:
            try:
                kits.verify(folder, now=self._now)
            except kits.KitExpired:
                is_expired = True
            except kits.KitRevoked:
                return None
            kit = kits.load(folder)
            cert = certificate(kit.cert_file)
            root = issuer_of(cert, authorities(kit.root_cert_file))
            if root is None or root not in self._trusted:
                raise kits.KitError("it is of another authority")
            if (kit.project, kit.name) != (self._project, folder.name):
                raise kits.KitError(f"it is the kit of {kit.name} in {kit.project}")
            listener = None
            if kit.kind is not kits.Kind.SERVER and (folder / LISTENER_CERT).is_file():
                listener = CertificateRecord.of(certificate(folder / LISTENER_CERT), root)
        except (kits.KitError, keys.KeyFault) as exc:
            self.refused[folder.name] = str(exc)
            return None
        files = {
            path: Stored(file.sha256, len(file.content), file.mode, 0)
            for path, file in kit_tree.read(folder, kit_tree.scan(str(folder))).items()
        }
        record = KitRecord(kit.kind.value, CertificateRecord.of(cert, root), listener, None, files)
        local = tuple(path for path in files if path.startswith(LOCAL))
        return PreviousKit(str(folder), record, local, is_expired)


def _recognise(
    folder: str, record: KitRecord, found: Mapping[str, os.stat_result], *, is_expired: bool
) -> PreviousKit | None:
    """Return a kit whose signed files look as they were left; None when one does not."""
    edited: set[str] = set()
    missing: set[str] = set()
    for path, stored in record.files.items():
        status = found.get(path)
        if status is not None and stored.is_untouched(status):
            continue
        if path.startswith(STARTUP):
            return None
        (missing if status is None else edited).add(path)
    added = [path for path in found if path not in record.files]
    if any(path.startswith(STARTUP) for path in added):
        return None
    return PreviousKit(folder, record, tuple(added), is_expired, frozenset(edited), frozenset(missing))
