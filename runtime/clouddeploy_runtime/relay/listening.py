"""Where a relay's clients find it; needs no gRPC."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import MAX_PORT, is_host, is_loopback

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit

FILE = "comm_config.json"


def listening(kit: Kit) -> tuple[str, int]:
    """Return address and port on which a relay's clients find it, as its `local/comm_config.json` says.

    The address is where others find it, which need not be one of this machine: anything but a loopback address means
    all interfaces.

    Raises:
        KitError: the file is missing, or says neither.
    """
    file = kit.local / FILE
    try:
        document: Any = json.loads(file.read_bytes())
        resources = document["internal"]["resources"]
        host, port = resources.get("host", ""), resources["port"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise KitError(
            f"{file} cannot be used", why=f"it does not say where the relay listens ({exc})", hint="Provision it again."
        ) from exc
    if not isinstance(host, str) or (host and not is_host(host)):
        raise KitError(f"{file} cannot be used", why=f"host {host!r} is neither an IP address nor a host name")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= MAX_PORT:
        raise KitError(f"{file} cannot be used", why=f"port {port!r} is not in 1 to {MAX_PORT}")
    return (host if is_loopback(host) else ""), port
