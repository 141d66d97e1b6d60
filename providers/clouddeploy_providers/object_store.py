"""The boundary to shared storage: objects that are replaced only by whoever saw the version before."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from clouddeploy_providers.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMES = {
    "s3": ("clouddeploy_providers.aws.objects:open_bucket", "aws", "s3://bucket/prefix"),
    "azblob": ("clouddeploy_providers.azure.objects:open_container", "azure", "azblob://account/container/prefix"),
}
"""By scheme: what opens it, the extra it needs, and what an address looks like."""


@dataclass(frozen=True)
class StoredObject:
    """One object as it was read."""

    body: bytes
    version: str
    """Its entity tag: another one for another content."""
    age_s: float
    """How long ago it was written, by the store's own clock in whole seconds: nobody's clock has to be right."""


class ObjectStore(Protocol):
    """Objects below one prefix. Reads see every write that has returned; methods may be called from several threads.

    Raises:
        ProviderError: of the class that says whether repeating makes sense. After `Transient` a write may be done.
    """

    def get(self, key: str) -> StoredObject | None:
        """Returns an object; None when there is none."""
        ...

    def put(self, key: str, body: bytes, *, version: str | None) -> str:
        """Writes an object if it still has this version; None: if there is none.

        Returns:
            The new version.

        Raises:
            Conflict: it has another version, exists already, or is gone.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Returns the keys that begin with the prefix, sorted."""
        ...


def open_objects(url: str) -> ObjectStore:
    """Returns the storage behind an address; its SDK is imported only now. Contacts nobody.

    Raises:
        InvalidRequest: the address makes no sense, or its SDK is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        examples = " or ".join(example for _, _, example in SCHEMES.values())
        raise InvalidRequest(f"{url} is no address of shared storage", hint=f"write {examples}")
    target, extra, example = SCHEMES[parts.scheme]
    words = [parts.netloc, *(word for word in parts.path.split("/") if word)]
    if len(words) < example.count("/") - 1 or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidRequest(f"{url} is incomplete or has more than an address has", hint=f"write {example}")
    module, _, opener = target.partition(":")
    try:
        opened: ObjectStore = getattr(import_module(module), opener)(words)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"state in {url} needs {error.name}", why="it is not installed", hint=f"pip install 'clouddeploy[{extra}]'"
        ) from error
    return opened


class MemoryObjects:
    """An `ObjectStore` in this process, for tests and trials.

    Args:
        clock: seconds; ages are measured with it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, str, float]] = {}
        self._writes = 0

    def get(self, key: str) -> StoredObject | None:
        """Returns an object."""
        with self._lock:
            if key not in self._objects:
                return None
            body, version, written = self._objects[key]
            return StoredObject(body, version, age_s=self._clock() - written)

    def put(self, key: str, body: bytes, *, version: str | None) -> str:
        """Writes an object on condition."""
        with self._lock:
            there = self._objects.get(key)
            if (there[1] if there else None) != version:
                raise Conflict(f"{key} is not the one that was read")
            self._writes += 1
            self._objects[key] = (body, f"v{self._writes}", self._clock())
            return self._objects[key][1]

    def list(self, prefix: str) -> list[str]:
        """Returns keys."""
        with self._lock:
            return sorted(key for key in self._objects if key.startswith(prefix))


_: type[ObjectStore] = MemoryObjects
