"""`python -m clouddeploy_rehearsal serve`: a world in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from clouddeploy_rehearsal.isolation import isolate
from clouddeploy_rehearsal.unmanned import UnmannedFleet
from clouddeploy_rehearsal.world import Faults, World, save_endpoints


def main() -> None:
    """Serves until SIGTERM; DIRECTORY/endpoints.json appears once everything answers."""
    parser = argparse.ArgumentParser(prog="clouddeploy_rehearsal")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON with the fields of Faults")
    parser.add_argument("--host", action="append", default=[], metavar="ADDRESS=NAME", help="an on-premises host")
    parser.add_argument("--unprivileged", action="store_true", help="hosts without root even for root")
    parser.add_argument(
        "--unmanned", type=float, metavar="SECONDS", help="clouds alone; a machine takes so long to boot and is nothing"
    )
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    is_unmanned = arguments.unmanned is not None
    as_root = os.geteuid() == 0 and not arguments.unprivileged and not is_unmanned
    if as_root:
        isolate()
    faults = Faults(**{**arguments.faults, "no_capacity": frozenset(arguments.faults.get("no_capacity", ()))})
    fleet = UnmannedFleet(arguments.directory, boot_s=arguments.unmanned) if is_unmanned else None
    with World(arguments.directory, faults=faults, as_root=as_root, fleet=fleet) as world:
        for given in arguments.host:
            address, _, name = given.partition("=")
            world.add_host(address, name=name)
        save_endpoints(world.endpoints, arguments.directory / "endpoints.json")
        stop.wait()


main()
