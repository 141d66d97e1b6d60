"""Replaces pinned host keys: that of the user data by one that the machine made itself, any by one that a person names.

User data can be read on the machine and through the cloud's API, so the key in it is good for one first contact only.
"""

from __future__ import annotations

import re
import time
from importlib import resources
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError, HostUnreachable, RemoteCommandFailed
from clouddeploy.remote import commands, ssh
from clouddeploy.remote.known_hosts import fingerprint, machine_name

if TYPE_CHECKING:
    from threading import Event

    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.remote.ssh import SshHost, Target

STEP_S = 30.0
PROOF_S = 20.0
POLL_S = 0.1
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def rotate(host: SshHost, target: Target, host_keys: HostKeys, name: str, *, bootstrap: str, cancel: Event) -> SshHost:
    """Makes the machine's own key the only accepted one and returns a connection that proves it.

    May be killed between any two steps: both keys stay pinned until the new one is proven.

    Args:
        host: connected under a pinned key; closed when another connection is returned.
        target: where `host` is.
        host_keys: the pins.
        name: what the host is pinned under.
        bootstrap: the public key of the user data.
        cancel: ends the wait for the proof.

    Raises:
        DeployError: a step failed; the machine stays reachable under the old pin.
    """
    pinned = host_keys.lookup(name)
    if fingerprint(bootstrap) not in pinned:
        return host
    script = resources.files("clouddeploy.remote").joinpath("rekey.sh").read_bytes()
    made = host.run(commands.script("make"), timeout_s=STEP_S, sudo=True, input=script).output
    public = next((line for line in made.splitlines() if line.startswith("ssh-ed25519 ")), None)
    if public is None:
        raise RemoteCommandFailed(
            f"{name} made no host key", status=0, tail=made, hint="is ssh-keygen installed there?"
        )
    final = " ".join(public.split()[:2])
    host_keys.add(name, final)
    host.run(commands.script("switch"), timeout_s=STEP_S, sudo=True, input=script)
    host.close()
    deadline = time.monotonic() + PROOF_S
    while True:
        proven = ssh.connect(target, host_keys, timeout_s=PROOF_S, cancel=cancel)
        if proven.shown == fingerprint(final):
            host_keys.pin(name, final)
            return proven
        proven.close()  # sshd has not read its new key yet
        if time.monotonic() > deadline or cancel.wait(POLL_S):
            raise HostUnreachable(f"{name} goes on showing its first host key", hint="run the same command again")


def forget_and_repin(host_keys: HostKeys, site: str, machine: str, *, host_key: str) -> tuple[str, ...]:
    """Makes a key that a person has vouched for the only accepted one of a site, whatever was pinned before.

    Contacts nobody, and never takes the key from the host itself: that would be trust on first use.

    Args:
        host_keys: the pins.
        site: the participant's name; the pins of its earlier machines go too.
        machine: the id of its machine.
        host_key: `SHA256:…`, read on the machine's console.

    Returns:
        What was pinned for this machine before.

    Raises:
        ConfigError: that is no fingerprint.
    """
    if _FINGERPRINT.fullmatch(host_key) is None:
        raise ConfigError(
            f"{host_key!r} is no fingerprint of a host key",
            why="it must be SHA256: and 43 characters",
            hint="on the machine's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
        )
    name = machine_name(site, machine)
    before = host_keys.lookup(name)
    host_keys.repin(name, host_key, forget=f"{site}/")
    return before
