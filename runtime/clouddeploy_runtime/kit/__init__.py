"""The startup kit: its folder, its files, how it is read, and how tampering with it is noticed."""

from __future__ import annotations

from clouddeploy_runtime.kit.config import FedAdmin, FedClient, FedServer
from clouddeploy_runtime.kit.errors import KitError, KitExpired, KitRevoked, KitTampered
from clouddeploy_runtime.kit.kit import Kind, Kit, load
from clouddeploy_runtime.kit.manifest import Manifest
from clouddeploy_runtime.kit.verify import verify

__all__ = [
    "FedAdmin",
    "FedClient",
    "FedServer",
    "Kind",
    "Kit",
    "KitError",
    "KitExpired",
    "KitRevoked",
    "KitTampered",
    "Manifest",
    "load",
    "verify",
]
