"""From a machine of some provider to an open, pinned connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_providers.reach import parse_jump

from clouddeploy.remote import host_keys as rotation
from clouddeploy.remote import ssh
from clouddeploy.remote.known_hosts import jump_name, machine_name
from clouddeploy.remote.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.keyring import Keyring
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.known_hosts import HostKeys

CONNECT_TIMEOUT_S = 300.0
"""A cloud machine opens SSH within a minute; slow images and cloud-init take up to a few."""


class Access:
    """Opens hosts of one deployment; every host key is pinned before the first byte."""

    def __init__(self, keyring: Keyring, host_keys: HostKeys, *, timeout_s: float) -> None:
        self._keyring = keyring
        self._host_keys = host_keys
        self._timeout_s = timeout_s

    def open(self, site: str, machine: ResourceRef, cancel: Event) -> Host:
        """Connects to a site's machine and, on first contact with one of ours, replaces its bootstrap host key.

        Raises:
            DeployError: the host is unreachable, unknown, or shows another key than the pinned one.
        """
        outputs = machine.outputs
        if "directory" in outputs:
            return LocalHost(Path(outputs["directory"]))
        is_ours = "identity_file" not in outputs
        name = machine_name(site, machine.id)
        if not is_ours:
            self._pin_given(name, outputs["host_key"])
        elif not self._host_keys.lookup(name):
            self._host_keys.pin(name, self._keyring.bootstrap(site).public)
        target = ssh.Target(
            name=name,
            address=outputs["address"],
            port=int(outputs.get("ssh_port", "22")),
            user=outputs["user"],
            identity_file=self._keyring.operator_file if is_ours else Path(outputs["identity_file"]).expanduser(),
            jump=self._jump(site, outputs),
            retries_login=is_ours,
        )
        host = ssh.connect(target, self._host_keys, timeout_s=self._timeout_s, cancel=cancel)
        if not is_ours:
            return host
        bootstrap = self._keyring.bootstrap(site).public
        return rotation.rotate(host, target, self._host_keys, name, bootstrap=bootstrap, cancel=cancel)

    def _jump(self, site: str, outputs: Mapping[str, str]) -> ssh.Target | None:
        if "jump" not in outputs:
            return None
        jump = parse_jump(outputs["jump"])
        name = jump_name(site, jump.place)
        self._pin_given(name, outputs["jump_host_key"])
        identity_file = Path(outputs["jump_identity_file"]).expanduser()
        return ssh.Target(name, jump.address, jump.port, jump.user, identity_file)

    def _pin_given(self, name: str, key: str) -> None:
        if key.startswith("SHA256:"):
            self._host_keys.pin_fingerprint(name, key)
        else:
            self._host_keys.pin(name, key)
