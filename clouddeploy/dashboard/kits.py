"""The kits of the dashboard's project: what the database says becomes a project file, and `provision` does the rest.

    <folder>/project.yml            the project file, written anew for each run
    <folder>/workspace/<project>/   what `provision` makes: state/ with the authority, prod_NN/ with the kits
    <folder>/enrolled/<name>/       the last request of a participant that keeps its own key, and the answer

A kit is made when it is first asked for, so that no valid certificate lies about that nobody wanted. From then on its
owner gets the same one, until it is re-issued: that revokes every earlier certificate of the name first. Between two
runs the private keys in kits are sealed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_provision import approval, asked, certificate_authority, provisioner
from clouddeploy_provision import project as project_file
from clouddeploy_provision.builders import archive
from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.previous import LAST_RESULT, results
from clouddeploy_provision.provisioner import Options
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.formats import Site as RequestedSite

from clouddeploy.dashboard.errors import Conflict, Invalid, NotFound
from clouddeploy.dashboard.sealing import Seal, kits_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_provision.certificate_authority import CertificateStatus

    from clouddeploy.secrets import Secret

_BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
_ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
"""Without signs that look like each other on paper."""
_GROUPS, _GROUP = 5, 5
"""25 signs of 30: 122 bits, since the format of the archives derives its key with 1,000 rounds only."""
_LAST_BUT = 5


@dataclass(frozen=True)
class Member:
    """One participant as the project file has it.

    Attributes:
        kind: client, admin or server.
        name: of the site, or somebody's e-mail address.
        org: the organisation.
        role: of an admin.
        gpus: what a site offers to jobs.
        gib_per_gpu: memory of each.
    """

    kind: str
    name: str
    org: str
    role: str = ""
    gpus: int = 0
    gib_per_gpu: float = 0


@dataclass(frozen=True)
class Federation:
    """The project, as far as kits depend on it, and everybody who may have one."""

    name: str
    description: str
    server: Member
    port: int
    hosts: tuple[str, ...]
    members: tuple[Member, ...]

    def member(self, name: str) -> Member:
        """Returns the participant of a name.

        Raises:
            NotFound: nobody has it, or nobody who is approved.
        """
        for one in (self.server, *self.members):
            if one.name == name:
                return one
        raise NotFound(f"{name} takes no part", why="it is not approved, or not there")


@dataclass(frozen=True)
class Answer:
    """What a site's request is answered with; nothing in it is secret."""

    archive: bytes
    serial: str
    rootca_fingerprint: str
    public_key_sha256: str


def code() -> str:
    """Returns a code for one archive; it is shown once and stored nowhere."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


class Kits:
    """Makes them; safe for several threads, which wait for each other.

    Args:
        folder: the dashboard's.
        passphrase: of the certificate authority; the first kit sets it.
        now: the clock.
    """

    def __init__(self, folder: Path, *, passphrase: Secret, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._workspace = folder / "workspace"
        self._passphrase = passphrase
        self._now = now
        self._lock = threading.Lock()
        self._seal = Seal(folder, passphrase)

    @property
    def passphrase(self) -> Secret:
        """Of the certificate authority; deployments of the dashboard have it too."""
        return self._passphrase

    def check(self, project: str) -> None:
        """Refuses a passphrase that is not the one of the project's authority, if there is one yet.

        Also seals what a run that was killed left open.

        Raises:
            ProvisionError: it is not, or the authority is damaged.
        """
        store = self._store(project)
        if project and store.exists:
            store.open(self._passphrase.reveal_bytes())
            self._tidy(project)

    def start(self, federation: Federation) -> str:
        """Makes the authority and the server's kit, so that every mistake of the project shows before it is frozen.

        Returns:
            The root's fingerprint.
        """
        with self._lock:
            self._provision(federation, {federation.server.name})
            return fingerprint(self._store(federation.name).certificate())

    def hand_out(self, federation: Federation, name: str, *, target: Path, password: str) -> str:
        """Writes a participant's kit, made if there is none yet, as an archive that only the password opens (AES-256).

        Returns:
            The serial number of its certificate.

        Raises:
            Conflict: its key was made at the site.
        """
        federation.member(name)
        with self._lock:  # also while it is read: the next run removes this result
            if name in self._by_request(federation.name):
                raise Conflict(
                    f"there is no kit of {name} here",
                    why="its private key was made where it runs, and is there alone",
                    hint="make the kit there with `clouddeploy-runtime package`, or re-issue it",
                )
            known = self._known(federation)
            kit = known[name] if name in known else self._provision(federation, {name})[name]
            archive.write(target, name, self._seal.read(kit), password)
            return self._store(federation.name).records.last_issued()[name].serial

    def lay_out(self, federation: Federation, name: str, *, target: Path) -> None:
        """Copies a participant's kit to a folder of its own, replacing what is there; made if there is none yet."""
        federation.member(name)
        place = target.with_name(f".{target.name}.new")
        with self._lock:
            known = self._known(federation)
            kit = known[name] if name in known else self._provision(federation, {name})[name]
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700, parents=True)
            fresh = place / kit.name
            shutil.copytree(kit, fresh)  # keeps modes: keys stay their owner's
            self._seal.open([fresh])
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        place.rmdir()

    def revoke(self, project: str, name: str, *, reason: str) -> bool:
        """Revokes every valid certificate of a name; returns whether there was one."""
        with self._lock:
            return self._revoke(project, name, reason=reason)

    def answer(self, federation: Federation, name: str, request: bytes) -> Answer:
        """Answers the request of a participant that made its key itself; whatever it had before is revoked.

        Raises:
            Conflict: the request is somebody else's.
            EnrolmentFault: it is not sound.
        """
        member = federation.member(name)
        with self._lock:
            folder = self._folder / "enrolled" / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            request_zip = folder / f"{name}.request.zip"
            write_atomic(request_zip, request)
            found = asked.read(request_zip)
            wanted = RequestedSite(federation.name, name, member.org, member.kind, member.role)
            if msgspec.structs.replace(found.site, host_names=()) != wanted:
                raise Conflict(
                    f"the request is not one of {name}",
                    why=f"it is for the {found.site.type} {found.site.name} of {found.site.org}",
                    hint=f"clouddeploy-runtime request --project {federation.name} --name {name} --org {member.org}",
                )
            if member.kind == "server" and not set(found.site.host_names) <= set(federation.hosts):
                raise Invalid(
                    "the request asks for names that the project does not have", hint="enter them as the server's first"
                )
            self._revoke(federation.name, name, reason="superseded")
            made = approval.approve(
                request_zip,
                self._state(federation.name),
                passphrase=self._passphrase.reveal_bytes(),
                force=True,
                now=self._now(),
            )
            return Answer(made.archive.read_bytes(), made.serial, made.rootca_fingerprint, made.public_key_sha256)

    def certificates(self, project: str) -> list[CertificateStatus]:
        """Returns every certificate of the project, what ends first first."""
        store = self._store(project)
        return certificate_authority.listing(store.folder, now=self._now()) if project and store.exists else []

    def list_of(self, project: str) -> Path:
        """Returns where the authority keeps the signed list of revoked certificates; there is none before the first."""
        return self._state(project) / "crl.pem"

    def _state(self, project: str) -> Path:
        return self._workspace / project / "state"

    def _store(self, project: str) -> CaStore:
        return CaStore(self._state(project))

    def _by_request(self, project: str) -> frozenset[str]:
        records = self._store(project).records
        revoked = records.revoked()
        return frozenset(
            name for name, one in records.last_issued().items() if one.by_request and int(one.serial, 16) not in revoked
        )

    def _revoke(self, project: str, name: str, *, reason: str) -> bool:
        store = self._store(project)
        if not store.exists:
            return False
        revoked, now = store.records.revoked(), self._now()
        valid = [
            one
            for one in store.records.issued()
            if one.name == name and int(one.serial, 16) not in revoked and datetime.fromisoformat(one.not_after) > now
        ]
        if valid:
            certificate_authority.revoke(
                store.folder, [name], passphrase=self._passphrase.reveal_bytes(), reason=reason, now=now
            )
        return bool(valid)

    def _holders(self, federation: Federation) -> set[str]:
        """Returns who has a kit that was made here and is not revoked."""
        records = self._store(federation.name).records
        revoked = records.revoked()
        return {
            name
            for name, one in records.last_issued().items()
            if not one.by_request and int(one.serial, 16) not in revoked
        }

    def _known(self, federation: Federation) -> Mapping[str, Path]:
        """Returns the kits of the last result, when nothing that they depend on has changed since and it is recent."""
        found = results(self._workspace / federation.name)
        if not found:
            return {}
        mark = self._mark(self._document(federation, self._holders(federation)))
        try:
            if json.loads((self._folder / "kits.json").read_bytes()) != {"result": found[-1].name, "mark": mark}:
                return {}
        except (OSError, ValueError):
            return {}
        return {path.name: path for path in found[-1].iterdir() if (path / "startup").is_dir()}

    def _mark(self, document: str) -> str:
        # A certificate that nears its end is renewed by a run, so each day has one of its own.
        return hashlib.sha256(f"{self._now():%Y-%m-%d}\n{document}".encode()).hexdigest()

    def _provision(self, federation: Federation, wanted: set[str]) -> Mapping[str, Path]:
        revoked = self._store(federation.name).records.revoked()
        last = self._store(federation.name).records.last_issued()
        again = {name for name in wanted if name in last and int(last[name].serial, 16) in revoked}
        document = self._document(federation, self._holders(federation) | wanted)
        path = self._folder / "project.yml"
        write_atomic(path, document.encode())
        place = self._workspace / federation.name
        with self._seal.alone():
            try:
                self._make_room(federation.name)
                self._seal.open(kits_in(results(place)[-1:]))
                report = provisioner.provision(
                    project_file.load(path),
                    self._workspace,
                    passphrase=self._passphrase.reveal_bytes(),
                    reuse_result=not again,
                    options=Options(renewal=Renewal(frozenset(again), new_key=True)),
                    now=self._now(),
                )
                mark = {"result": report.result.name, "mark": self._mark(document)}
                write_atomic(self._folder / "kits.json", json.dumps(mark).encode())
                for old in results(place)[:-1]:
                    shutil.rmtree(old, ignore_errors=True)  # private keys of kits that are not handed out any more
            finally:
                self._seal.close(kits_in(results(place)))
        return report.kits

    def _tidy(self, project: str) -> None:
        """Seals the kits that a run left open when it was killed, and removes what it had begun."""
        place = self._workspace / project
        with self._seal.alone(wait=False) as is_alone:
            if is_alone:  # else somebody makes kits right now, and seals them
                shutil.rmtree(place / "wip", ignore_errors=True)
                self._seal.close(kits_in(results(place)))

    def _make_room(self, project: str) -> None:
        """Begins to count results at 0 again before their numbers are used up; every earlier one is gone already."""
        found = results(self._workspace / project)
        if len(found) == 1 and int(found[0].name.removeprefix("prod_")) > LAST_RESULT - _LAST_BUT:
            found[0].rename(found[0].with_name("prod_00"))

    def _document(self, federation: Federation, names: set[str]) -> str:
        """Writes the project file: the server, and of the others those who have a kit or are to get one."""
        entries: list[dict[str, object]] = []
        away = self._by_request(federation.name)
        for one in (federation.server, *federation.members):
            if one.kind != "server" and (one.name not in names or one.name in away):
                continue
            entry: dict[str, object] = {"name": one.name, "type": one.kind, "org": one.org}
            if one.kind == "server":
                entry |= {"fed_learn_port": federation.port, "host_names": list(federation.hosts)}
            if one.kind == "admin":
                entry["role"] = one.role
            if one.gpus:
                entry["capacity"] = {"num_of_gpus": one.gpus, "mem_per_gpu_in_GiB": one.gib_per_gpu}
            entries.append(entry)
        document = {
            "api_version": 3,
            "name": federation.name,
            # In no kit; what YAML cannot have goes.
            "description": "".join(sign for sign in federation.description if sign.isprintable()),
            "participants": entries,
            "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in _BUILDERS],
        }
        return json.dumps(document, indent=1, ensure_ascii=False)  # which is YAML too
