"""What a site says in `local/comm_config.json`: its HTTP proxy, and whether a server may do without TLS.

The file is the reference's; its other members concern transports that are not used here, so they are ignored.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clouddeploy_runtime.kit.kit import is_loopback
from clouddeploy_runtime.settings import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "comm_config.json"
ALLOW_CLEAR_VARIABLE = "CLOUDDEPLOY_ALLOW_CLEAR"
"""`1` in the server's environment does what `allow_clear` does in its file."""
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""In the order in which gRPC itself looks at them."""
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Communication:
    """The settings of one site.

    Attributes:
        proxy: `http://host:port` through which the server is reached; empty: none; None: what the environment says.
        allow_clear: of a server: that it may listen without TLS.
    """

    proxy: str | None = None
    allow_clear: bool = False


def load(local: Path) -> Communication:
    """Read the settings of a kit's `local` folder; the usual ones when there is no file.

    Raises:
        BadSettings: the file cannot be read, or a value is of the wrong kind.
    """
    path = local / FILE
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Communication()
    except (OSError, ValueError, RecursionError) as exc:
        raise _bad(path, str(exc)) from exc
    if not isinstance(document, dict):
        raise _bad(path, "it is not an object")
    return Communication(proxy=_proxy(path, document), allow_clear=_flag(path, document, "allow_clear"))


def proxy_for(host: str, said: Communication, environment: Mapping[str, str]) -> str:
    """Return the proxy through which a host is reached; empty when it is reached directly.

    A loopback address never has one, as nobody else's machine could reach it.

    Args:
        host: name or address of the server.
        said: the site's settings, which win over the environment.
        environment: may hold `https_proxy` and `no_proxy`, in either case.
    """
    if is_loopback(host) or said.proxy is not None:
        return "" if is_loopback(host) else said.proxy or ""
    found = _first(environment, _PROXIES)
    if urlsplit(found).scheme != "http" or _is_exempt(host, _first(environment, _EXCEPTIONS)):
        return ""
    return found


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((found for name in names for key in (name, name.upper()) if (found := environment.get(key))), "")


def _is_exempt(host: str, exceptions: str) -> bool:
    for entry in (one.strip() for one in exceptions.split(",")):
        if entry == "*" or (entry and (host == entry or host.endswith("." + entry.removeprefix(".")))):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def _proxy(path: Path, document: Mapping[str, Any]) -> str | None:
    found = document.get("proxy")
    if found is None:
        return None
    if found is False or found == "":
        return ""
    parts = urlsplit(found) if isinstance(found, str) else None
    if parts is None or parts.scheme != "http" or not parts.hostname:
        raise _bad(path, f'"proxy" must be http://host:port or false, and is {found!r}')
    return str(found)


def _flag(path: Path, document: Mapping[str, Any], key: str) -> bool:
    found = document.get(key, False)
    if not isinstance(found, bool):
        raise _bad(path, f'"{key}" must be true or false, and is {found!r}')
    return found


def _bad(path: Path, why: str) -> BadSettings:
    return BadSettings(f"{path} cannot be used", why=why, hint="Correct it, or take the member away.")
