"""Who connects to whom: the server, relays between it and the clients, clients below other clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SERVER_FQCN = "server"
"""What the reference calls the server in the fully qualified names of relays."""


def upstream_name(entry: Mapping[str, Any]) -> str:
    """Return the relay or server that a raw participant says it connects to; empty when it says none."""
    given = entry.get("connect_to")
    if isinstance(given, dict):
        given = given.get("name")
    elif entry.get("type") != "relay":
        return ""  # a plain text is a host there
    return given if isinstance(given, str) else ""


def chain(name: str, step: Callable[[str], str]) -> list[str]:
    """Follow `step` from a name to its end: the last name first.

    Raises:
        ValueError: it leads back to a name that was passed.
    """
    found = [name]
    while name := step(name):
        if name in found:
            raise ValueError(name)
        found.append(name)
    return found[::-1]


def problems(  # noqa: C901 - one loop, one check a line
    entries: Sequence[Any],
) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Yield (index of the participant, key, rule) for every connection that leads nowhere or in a circle."""
    known = {
        str(entry["name"]): entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry.get("type") != "overseer"
    }
    kinds = {name: str(entry.get("type")) for name, entry in known.items()}

    def above(name: str) -> str:
        found = upstream_name(known.get(name, {}))
        return found if kinds.get(found) == "relay" else ""

    def parent(name: str) -> str:
        found = known.get(name, {}).get("parent")
        return found if isinstance(found, str) else ""

    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            continue
        name, target = entry["name"], upstream_name(entry)
        at = ("connect_to", "name") if isinstance(entry.get("connect_to"), dict) else ("connect_to",)
        if target and kinds.get(target) not in {"server", "relay"}:
            yield index, at, f"{target} is neither the server nor a relay of this project"
        elif kinds.get(target) == "relay" and _port(known[target]) == 0 and _given_port(entry) is None:
            yield index, at, f"{target} listens on any free port; give its listening_host a port to connect to"
        if _circles(name, above):
            yield index, at, "leads back to itself"
        if entry.get("type") != "client" or not parent(name):
            continue
        if kinds.get(parent(name)) != "client":
            yield index, ("parent",), f"{parent(name)} is not a client of this project"
        elif _circles(name, parent):
            yield index, ("parent",), "leads back to itself"


def _circles(name: str, step: Callable[[str], str]) -> bool:
    try:
        chain(name, step)
    except ValueError:
        return True
    return False


def _port(relay: Mapping[str, Any]) -> Any:
    listening = relay.get("listening_host")
    return listening.get("port", 0) if isinstance(listening, dict) else 0


def _given_port(entry: Mapping[str, Any]) -> Any:
    given = entry.get("connect_to")
    return given.get("port") if isinstance(given, dict) else None
