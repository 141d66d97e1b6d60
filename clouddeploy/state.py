"""What a deployment has made: one JSON document, replaced atomically, held by one run at a time. It holds no secret."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import ResourceRef

from clouddeploy import state_file
from clouddeploy.journal import remembered
from clouddeploy.stores import LocalStore
from clouddeploy.stores.base import STATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from clouddeploy.state_file import RecordBody
    from clouddeploy.stores import StateStore


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
    created: str = ""
    """When it was made or adopted, ISO 8601; empty: before that was recorded."""


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
    pins: dict[str, dict[str, str]] = field(default_factory=dict)
    """By site: the `size` and `image` that were resolved once, so that news from the cloud replaces no machine."""
    expires_at: str = ""
    """When the machines switch themselves off, ISO 8601; empty: never."""
    store: StateStore | None = field(default=None, compare=False, repr=False)
    """Where it is kept; None: in `directory`."""
    version: str | None = field(default=None, compare=False, repr=False)
    """Of what the store has: `save` replaces this one and no other."""
    old: tuple[int, bytes] | None = field(default=None, compare=False, repr=False)
    """Schema and content of an older version's state; the next `save` keeps a copy of it."""

    @classmethod
    def load(cls, directory: Path, *, store: StateStore | None = None) -> State:
        """Returns the recorded state, or a new one with a fresh deployment id. Changes nothing.

        Where only the journal is left, the deployment keeps its id, so that everything is found by its tag.

        Args:
            directory: the deployment's folder.
            store: where the state is kept; default: in the folder.

        Raises:
            StateError: it is damaged or from a newer version.
        """
        store = store or LocalStore(directory)
        stored = store.load()
        if stored is None:
            memory = remembered(store)
            deployment = memory.deployment or secrets.token_hex(4)
            return cls(directory=directory, deployment=deployment, attempts=memory.attempts, store=store)
        body, schema = state_file.parse(stored.body, f"{store.where}/{STATE}")
        return cls(
            directory=directory,
            deployment=body.deployment,
            project=body.project,
            serial=body.serial,
            resources={node: _record(one) for node, one in body.resources.items()},
            attempts=body.attempts,
            sites=body.sites,
            pins=body.pins,
            expires_at=body.expires_at,
            store=store,
            version=stored.version,
            old=(schema, stored.body) if schema != state_file.SCHEMA else None,
        )

    def save(self) -> None:
        """Replaces what is recorded; after it returns, a kill cannot lose what it holds.

        Raises:
            StateError: it could not be written; the old state is still there.
            LockedError: another run has written meanwhile.
        """
        store = self.store or LocalStore(self.directory)
        if self.old is not None:
            schema, body = self.old
            store.keep(f"{STATE}.v{schema}", body)
            self.old = None
        self.serial += 1
        self.version = store.save(state_file.render(self._body()), version=self.version)

    def _body(self) -> dict[str, object]:
        return {
            "schema": state_file.SCHEMA,
            "deployment": self.deployment,
            "project": self.project,
            "serial": self.serial,
            "resources": dict(sorted(self.resources.items())),
            "attempts": dict(sorted(self.attempts.items())),
            "sites": dict(sorted(self.sites.items())),
            "pins": dict(sorted(self.pins.items())),
            "expires_at": self.expires_at,
        }


def _record(body: RecordBody) -> Record:
    ref = body.ref
    return Record(
        ref=ResourceRef(kind=ref.kind, name=ref.name, id=ref.id, outputs=ref.outputs, is_adopted=ref.is_adopted),
        site=body.site,
        provider=body.provider,
        settings=body.settings,
        fingerprint=body.fingerprint,
        created=body.created,
    )


def locked(directory: Path, command: str) -> AbstractContextManager[None]:
    """Holds the deployment in a folder for the time of the `with` block; the kernel lets go when the process dies.

    Raises:
        LockedError: another run holds it; says which.
    """
    return LocalStore(directory).locked(command)
