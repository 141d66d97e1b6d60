"""The one way to a deployment's store: a folder, or an address of shared storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.endpoints import REAL

from clouddeploy.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_providers.endpoints import Endpoints

    from clouddeploy.stores.base import StateStore


def open_store(url: str | None, directory: Path, *, endpoints: Endpoints = REAL) -> StateStore:
    """Returns where a deployment's state is kept. Contacts nobody.

    Args:
        url: `s3://bucket/prefix` or `azblob://account/container/prefix`; None: the folder.
        directory: the deployment's own folder; with an address it keeps keys and known hosts only.
        endpoints: where the clouds answer. A rehearsal always keeps its state in the folder: its clouds are emulated,
            and the shared state is that of the real deployment.

    Raises:
        InvalidRequest: the address makes no sense, or what it needs is not installed.
    """
    if url is None or endpoints != REAL:
        return LocalStore(directory)
    from clouddeploy_providers.object_store import open_objects  # noqa: PLC0415 - only those who share a state need it

    from clouddeploy.stores.shared import SharedStore  # noqa: PLC0415

    return SharedStore(open_objects(url), url.rstrip("/"))
