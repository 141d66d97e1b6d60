"""Tries a site's way to its server from the site's machine: `python3 -c THIS ROOT SECONDS [HOST PORT]`.

It needs nothing but Python. Where the server is says the installed kit, whose `local/endpoint.json` the client follows
too, unless the command line does. A server that refuses
the connection counts as not reached: this runs once it is known to answer. The first line of what it prints is the
server's `host:port`, the second what is in the way. `clouddeploy.remote.egress` is the other half.
"""

from __future__ import annotations

import json
import socket
import sys
import time

UNREACHED = 4
"""The exit status when there is no way."""
TRY_S = 5.0
POLL_S = 0.2


def dial(host: str, port: int, *, timeout_s: float) -> str:
    """Connects to the server; returns what is in the way, or an empty text. A new firewall rule may take a moment."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, port), timeout=min(TRY_S, timeout_s)).close()
        except OSError as error:
            if time.monotonic() + POLL_S > deadline:
                return str(error) or type(error).__name__
        else:
            return ""
        time.sleep(POLL_S)


def endpoint(root: str) -> tuple[str, int]:
    """Returns where the installed kit says that the server is; no host when it says nothing."""
    try:
        with open(f"{root}/current/kit/local/endpoint.json", encoding="utf-8") as file:
            there = json.load(file)
    except FileNotFoundError:
        return "", 0
    return there.get("host", ""), there.get("port", 0)


def main() -> None:
    """Does what the command line says."""
    root, timeout_s, *said = sys.argv[1:]
    host, port = said or endpoint(root)
    why = dial(host, int(port), timeout_s=float(timeout_s)) if host else ""
    if why:
        sys.stdout.write(f"{host}:{port}\n{why}\n")
        sys.exit(UNREACHED)


if __name__ == "__main__":
    main()
