"""The few keys of a cloud-config that the emulated machines honour."""

from __future__ import annotations

import base64
import re
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_providers.cloud_init import generate_host_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ON_CALENDAR = re.compile(r"^OnCalendar=(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC$", re.MULTILINE)
POWER_OFF = re.compile(r"^ExecStart=\S*systemctl poweroff$", re.MULTILINE)


@dataclass(frozen=True)
class UserData:
    """What a machine is born with."""

    user: str
    authorized_keys: tuple[str, ...]
    host_private_key: str = field(repr=False)
    host_public_key: str
    commands: tuple[str, ...] = field(default=(), repr=False)
    """Shell lines run once as root, before sshd answers."""
    expires_at: datetime | None = None
    """When a timer of the document switches the machine off; None: never."""


def parse(text: str, *, user: str, authorized_keys: tuple[str, ...] = ()) -> UserData:
    """Reads `users`, `ssh_authorized_keys`, `ssh_keys`, `write_files` and `runcmd` of a cloud-config document.

    As with a real machine, what is no cloud-config is not an error: it is ignored, and the machine makes its own keys.
    The machines have no systemd, so of its units one thing is honoured: a timer that is enabled and whose service
    switches the machine off (the fleet does it); no line that calls `systemctl` is run.

    Args:
        text: the user data, decoded; may be empty.
        user: the account that the image or the cloud's API names; the document's first user replaces it.
        authorized_keys: keys that the cloud's API names, in addition to the document's.

    Raises:
        ValueError: it calls itself a cloud-config and is none; cloud-init would leave a machine nobody can reach.
    """
    document = _document(text)
    users = [one for one in document.get("users", []) if isinstance(one, dict)]
    first: dict[str, Any] = users[0] if users else {}
    keys = document.get("ssh_keys", {})
    if "ed25519_private" in keys and "ed25519_public" in keys:
        private, public = str(keys["ed25519_private"]), str(keys["ed25519_public"])
    else:
        made = generate_host_key()
        private, public = made.private, made.public
    own = (*first.get("ssh_authorized_keys", []), *document.get("ssh_authorized_keys", []))
    lines = [line if isinstance(line, str) else shlex.join(map(str, line)) for line in document.get("runcmd", [])]
    files = document.get("write_files", [])
    return UserData(
        user=str(first.get("name", user)),
        authorized_keys=tuple(dict.fromkeys([*authorized_keys, *map(str, own)])),
        host_private_key=private,
        host_public_key=public,
        commands=(*map(_write, files), *(line for line in lines if not line.startswith("systemctl "))),
        expires_at=_expiry(files, lines),
    )


def _expiry(files: Sequence[Mapping[str, Any]], lines: Sequence[str]) -> datetime | None:
    """Returns the time of the first enabled timer whose service is `systemctl poweroff`."""
    units = {PurePosixPath(str(file["path"])).name: str(file.get("content", "")) for file in files}
    for name, content in units.items():
        time = ON_CALENDAR.search(content)
        is_enabled = any("enable" in line.split() and name in line.split() for line in lines)
        service = re.search(r"^Unit=(.+)$", content, re.MULTILINE)
        started = units.get(service[1] if service else name.removesuffix(".timer") + ".service", "")
        if name.endswith(".timer") and is_enabled and time and POWER_OFF.search(started):
            return datetime.fromisoformat(time[1]).replace(tzinfo=UTC)
    return None


def _document(text: str) -> dict[str, Any]:
    if not text.startswith("#cloud-config"):
        return {}
    try:
        document = yaml.load(text, Loader=LOADER)  # noqa: S506 - either of them is a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"the cloud-config is no YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError("the cloud-config is no mapping")  # noqa: TRY004 - the document is wrong, not the program
    return document


def _write(file: dict[str, Any]) -> str:
    """Returns the shell line that writes one entry of `write_files`."""
    path, content = shlex.quote(str(file["path"])), str(file.get("content", ""))
    if "encoding" in file:
        if str(file["encoding"]) not in {"b64", "base64"}:
            raise ValueError(f"write_files: the encoding {file['encoding']} of {file['path']} is not emulated")
        encoded = content
    else:
        encoded = base64.b64encode(content.encode()).decode()
    mode = shlex.quote(str(file.get("permissions", "0644")))
    line = f"install -D -m {mode} /dev/null {path} && printf %s {shlex.quote(encoded)} | base64 -d >{path}"
    return f"{line} && chown {shlex.quote(str(file['owner']))} {path}" if "owner" in file else line
