"""`python -m clouddeploy_rehearsal serve`: a world in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from clouddeploy_rehearsal.isolation import isolate
from clouddeploy_rehearsal.world import Faults, World, save_endpoints


def main() -> None:
    """Serves until SIGTERM; DIRECTORY/endpoints.json appears once everything answers."""
    parser = argparse.ArgumentParser(prog="clouddeploy_rehearsal")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON with the fields of Faults")
    parser.add_argument("--host", action="append", default=[], metavar="ADDRESS=NAME", help="an on-premises host")
    parser.add_argument("--unprivileged", action="store_true", help="hosts without root even for root")
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    as_root = os.geteuid() == 0 and not arguments.unprivileged
    if as_root:
        isolate()
    faults = Faults(**{**arguments.faults, "no_capacity": frozenset(arguments.faults.get("no_capacity", ()))})
    with World(arguments.directory, faults=faults, as_root=as_root) as world:
        for given in arguments.host:
            address, _, name = given.partition("=")
            world.add_host(address, name=name)
        save_endpoints(world.endpoints, arguments.directory / "endpoints.json")
        stop.wait()


main()
