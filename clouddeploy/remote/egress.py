"""Whether a client's machine has a way out to the server, tried from there before the client is started.

Without it a firewall in a site's network looks like a client that does not register, two minutes later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy.errors import RemoteCommandFailed, ServerNotReached
from clouddeploy.remote import commands
from clouddeploy.remote.dial import UNREACHED

if TYPE_CHECKING:
    from clouddeploy.remote.bootstrap import Release
    from clouddeploy.remote.host import Host

REACH_S = 20.0
"""Firewall rules of clouds, which were made just before, take some seconds."""
STEP_S = 30.0


def check(
    host: Host, site: str, release: Release, *, place: tuple[str, int] | None = None, timeout_s: float = REACH_S
) -> None:
    """Connects from a client's machine to where its installed kit says that the server is.

    Args:
        host: the machine.
        site: its site.
        release: what is installed there.
        place: host and port of the server; None: as the installed kit says.
        timeout_s: how long to try.

    Raises:
        ServerNotReached: there is no way out; names server and port.
    """
    words = (place[0], str(place[1])) if place else ()
    command = commands.dial(release.root, *words, timeout_s=timeout_s)
    done = host.run(command, timeout_s=timeout_s + STEP_S, check=False)
    if done.status == UNREACHED:
        there, why = [*done.output.splitlines(), "", ""][:2]
        raise ServerNotReached(
            f"{site} cannot reach the server at {there}",
            why=f"a connection from its machine failed: {why}",
            hint=f"let TCP out to {there} in the site's network, and in at the server; then run the same command again",
        )
    if done.status:
        raise RemoteCommandFailed(
            f"the way from {site} to the server was not tried", status=done.status, tail=done.output
        )
