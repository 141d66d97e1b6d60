"""One object of shared storage that a single run writes, and how it tells a lost answer from a lost race."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.errors import Conflict

if TYPE_CHECKING:
    from clouddeploy_providers.object_store import ObjectStore


class Cell:
    """Replaces an object on condition that nobody else has, time after time.

    A write whose answer was lost may have been done, by us or by the SDK that repeated it. What is found then is
    compared with everything of which that is not known: equal content is ours, since each holder's differs.

    Args:
        objects: the storage.
        key: of the object.
        version: of what is there; None: nothing.
    """

    def __init__(self, objects: ObjectStore, key: str, *, version: str | None = None) -> None:
        self.version = version
        self._objects = objects
        self._key = key
        self._unsure: set[bytes] = set()

    def write(self, body: bytes) -> None:
        """Replaces the object. May be repeated after an error.

        Raises:
            Conflict: somebody else has written it.
            ProviderError: it may have been written or not.
        """
        self._unsure.add(body)
        try:
            version = self._objects.put(self._key, body, version=self.version)
        except Conflict:
            there = self._objects.get(self._key)
            if there is None or there.body not in self._unsure:
                raise
            version = there.version
            if there.body != body:
                version = self._objects.put(self._key, body, version=version)
        self.version = version
        self._unsure.clear()
