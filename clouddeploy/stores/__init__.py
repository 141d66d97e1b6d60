"""Where a deployment's state, journal and audit trail are kept: a folder, an S3 bucket or an Azure Blob container."""

from __future__ import annotations

from clouddeploy.stores.base import StateStore, Stored
from clouddeploy.stores.local import LocalStore
from clouddeploy.stores.opening import open_store

__all__ = ["LocalStore", "StateStore", "Stored", "open_store"]
