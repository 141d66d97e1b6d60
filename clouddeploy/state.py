"""What a deployment has made: one JSON file, replaced atomically, held by one run at a time. It holds no secret."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy import durable
from clouddeploy.errors import LockedError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One resource as it was made."""

    ref: ResourceRef
    site: str
    provider: str
    settings: Mapping[str, str]
    """With `provider`: where to find it again, even when the site has left deploy.yml."""
    fingerprint: Mapping[str, str]
    """The wanted properties it was made from."""


@dataclass
class State:
    """Everything known about one deployment; `save` makes it durable."""

    directory: Path
    deployment: str
    project: str = ""
    serial: int = 0
    resources: dict[str, Record] = field(default_factory=dict)
    """By node, `<site>/<kind>`."""
    attempts: dict[str, int] = field(default_factory=dict)
    """By node; part of the idempotency token, so a failed or deleted thing can be made anew."""
    sites: dict[str, dict[str, str]] = field(default_factory=dict)
    """By site: `release`, `root`, `python` of what is installed there."""

    @classmethod
    def load(cls, directory: Path) -> State:
        """Returns the recorded state, or a new one with a fresh deployment id.

        Raises:
            StateError: the file is damaged or from a newer version.
        """
        path = directory / "state.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(directory=directory, deployment=secrets.token_hex(4))
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot read the state {path}",
                why=str(error),
                hint="restore it from a backup; the journal beside it is intact",
            ) from error
        if raw.get("schema") != SCHEMA:
            raise StateError(
                f"{path} has schema {raw.get('schema')}, this version knows {SCHEMA}",
                hint="use the version that wrote it",
            )
        return cls(
            directory=directory,
            deployment=raw["deployment"],
            project=raw["project"],
            serial=raw["serial"],
            resources={node: _record(body) for node, body in raw["resources"].items()},
            attempts=dict(raw["attempts"]),
            sites={name: dict(body) for name, body in raw["sites"].items()},
        )

    def save(self) -> None:
        """Replaces the file; after it returns, a kill cannot lose what it holds."""
        self.serial += 1
        body = {
            "schema": SCHEMA,
            "deployment": self.deployment,
            "project": self.project,
            "serial": self.serial,
            "resources": {node: _as_json(record) for node, record in sorted(self.resources.items())},
            "attempts": dict(sorted(self.attempts.items())),
            "sites": dict(sorted(self.sites.items())),
        }
        path = self.directory / "state.json"
        try:
            durable.replace(path, json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise StateError(f"cannot write the state {path}", why=str(error), hint="make room, then repeat") from error


def _record(body: Mapping[str, Any]) -> Record:
    ref = body["ref"]
    return Record(
        ref=ResourceRef(kind=Kind(ref["kind"]), name=ref["name"], id=ref["id"], outputs=dict(ref["outputs"])),
        site=body["site"],
        provider=body["provider"],
        settings=dict(body["settings"]),
        fingerprint=dict(body["fingerprint"]),
    )


def _as_json(record: Record) -> dict[str, Any]:
    ref = record.ref
    return {
        "ref": {"kind": ref.kind.value, "name": ref.name, "id": ref.id, "outputs": dict(ref.outputs)},
        "site": record.site,
        "provider": record.provider,
        "settings": dict(record.settings),
        "fingerprint": dict(record.fingerprint),
    }


@contextmanager
def locked(directory: Path, command: str) -> Iterator[None]:
    """Holds the deployment for the time of the `with` block; the kernel lets go when the process dies.

    Raises:
        LockedError: another run holds it; says which.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
            raise LockedError(
                f"another run holds the deployment in {directory}",
                why=holder or "its holder has not said who it is yet",
                hint="wait until it ends; the lock goes with its process",
            ) from error
        holder = (
            f"{command}, pid {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)
