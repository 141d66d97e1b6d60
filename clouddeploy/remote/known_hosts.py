"""The pinned host keys of one deployment. Unknown or changed: refused before a byte is sent."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
from typing import TYPE_CHECKING

from clouddeploy import durable
from clouddeploy.errors import HostKeyChanged, HostKeyUnknown, StateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Pins = dict[str, list[str]]


def fingerprint(public_key: str) -> str:
    """Returns `SHA256:…` of a public key line, as ssh-keygen -l prints it."""
    blob = base64.b64decode(public_key.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def machine_name(site: str, machine: str) -> str:
    """Returns what a machine's pins are kept under; `machine` is its id, since addresses are given out again."""
    return f"{site}/{machine}"


def jump_name(site: str, place: str) -> str:
    """Returns what the pin of a site's jump host at `address:port` is kept under; each site says its own."""
    return f"{site}/jump host {place}"


class HostKeys:
    """A file of pins by host name; a name is the machine's identity, since addresses are given out again.

    While a machine changes its key both are pinned, so that a kill between two steps locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def pin(self, name: str, public_key: str) -> None:
        """Makes this public key (`type base64`) the only accepted one of the host."""
        self._accept(name, fingerprint(public_key), beside=False)

    def pin_fingerprint(self, name: str, fingerprint: str) -> None:
        """Makes the key with this fingerprint the only accepted one of the host."""
        self._accept(name, fingerprint, beside=False)

    def add(self, name: str, public_key: str) -> None:
        """Accepts this key too, until `pin` decides."""
        self._accept(name, fingerprint(public_key), beside=True)

    def forget(self, prefix: str) -> None:
        """Drops the pins of every host whose name begins so: their machines are gone, and their names may come back."""
        self._change(lambda pins: {name: keys for name, keys in pins.items() if not name.startswith(prefix)})

    def repin(self, name: str, fingerprint: str, *, forget: str) -> None:
        """Drops the pins of every host whose name begins with `forget`, and pins this one, in one step."""

        def changed(pins: Pins) -> Pins:
            return {other: keys for other, keys in pins.items() if not other.startswith(forget)} | {name: [fingerprint]}

        self._change(changed)

    def lookup(self, name: str) -> tuple[str, ...]:
        """Returns the accepted fingerprints of a host, none when it is unknown."""
        return tuple(self._read().get(name, ()))

    def check(self, name: str, public_key: str) -> None:
        """Accepts the key that a host shows, or refuses.

        Raises:
            HostKeyUnknown: nothing is pinned for this host.
            HostKeyChanged: it shows another key.
        """
        pinned = self.lookup(name)
        shown = fingerprint(public_key)
        if not pinned:
            raise HostKeyUnknown(
                f"no host key is pinned for {name}", why=f"it shows {shown}", hint="give host_key in the deploy file"
            )
        if shown not in pinned:
            raise HostKeyChanged(
                f"{name} shows another host key than the pinned one",
                why=f"pinned {', '.join(pinned)}, shown {shown}; nothing was sent",
                hint="find out who changed it; someone may be in between. Then correct host_key or replace the machine",
            )

    def _read(self) -> Pins:
        try:
            pins: Pins = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot read the pinned host keys {self.path}", why=str(error), hint="restore the file"
            ) from error
        return pins

    def _accept(self, name: str, fingerprint: str, *, beside: bool) -> None:
        def changed(pins: Pins) -> Pins:
            return {**pins, name: list(dict.fromkeys([*(pins.get(name, []) if beside else []), fingerprint]))}

        self._change(changed)

    def _change(self, change: Callable[[Pins], Pins]) -> None:
        """Reads, changes and replaces the file under a lock on it: sites connect at once, each with its own object."""
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            durable.replace(self.path, json.dumps(change(self._read()), indent=2) + "\n")
