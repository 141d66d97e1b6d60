"""One running site from one release to another and, where the new one does not become healthy, back by itself."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.waiters import wait_for
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.errors import ConfigError, UpgradeFailed
from clouddeploy.machine_work import PROBE_TIMEOUT_S, READY_TIMEOUT_S, release_of
from clouddeploy.remote import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.machine_work import MachineWork
    from clouddeploy.remote.host import Host

log = logging.getLogger(__name__)

HEALTHY = frozenset({"serving", "registered"})
"""What a runtime says of itself when it does its work."""
POLL_S = 0.5
DEAD_S = 5.0
ENOUGH_STARTS, PID_BYTES = 2, 32
PID_FILES = ("workspace/pid.fl", "supervisor/pid.fl")
"""Where a site's supervisor notes the number of its process."""
"""A supervisor that is away for longer does not come back; systemd's starts again after two seconds."""
SETTLE_S = 3.0
"""How long a healthy site must stay the same process: one that dies after its start is not healthy."""
LOG_LINES = "15"
LOG_S = 15.0
"""For the end of the log: it is good to have, and a site that is stopped waits for it."""


@dataclass(frozen=True)
class Upgraded:
    """How a site came out of an upgrade.

    Attributes:
        release: what it runs.
        is_changed: whether it is another one than before.
        is_healthy: whether its runtime said so at the end.
    """

    release: bootstrap.Release
    is_changed: bool
    is_healthy: bool


@dataclass(frozen=True)
class SiteUpgrade:
    """The work at one site; called in a worker, so it writes no records.

    Attributes:
        name: of the site.
        machine: its machine.
        installed: what the state says of it.
        machines: what is done on machines. Its `cancel` is not that of the run: what began is brought to an end, which
            takes a few minutes at most, because half an upgrade is a stopped site.
    """

    name: str
    machine: ResourceRef
    installed: Mapping[str, str]
    machines: MachineWork

    def upgrade(self, dependants: Sequence[SiteUpgrade] = ()) -> Upgraded:
        """Brings the site to the newest release; one that runs it already is left alone.

        Args:
            dependants: sites that were healthy before and must be so again; those of a server.

        Raises:
            UpgradeFailed: it did not become healthy; says whether the release before runs again.
            DeployError: the machine is unreachable; nothing was changed.
        """
        host = self.machines.open(self.name, self.machine)
        release = release_of(self.installed)
        try:
            try:
                release = self.machines.renew(self.name, host, release.digest)
                now = bootstrap.releases(host, release.root)
                if now.current == now.good == now.started and bootstrap.is_running(host, release):
                    return Upgraded(release, is_changed=False, is_healthy=self._state(host, release) in HEALTHY)
                self._run(host, release)
                for one in dependants:
                    one.wait_back()
                bootstrap.confirm(host, release)
            except ClouddeployError as error:
                raise self._undone(release, error) from error
        finally:
            host.close()
        return Upgraded(release, is_changed=True, is_healthy=True)

    def roll_back(self) -> bootstrap.Release:
        """Brings the site to the release before, or finishes a rollback that was cut off.

        Raises:
            ConfigError: there is none.
            UpgradeFailed: it did not become healthy; it stays installed.
        """
        host = self.machines.open(self.name, self.machine)
        release = release_of(self.installed)
        try:
            now = bootstrap.releases(host, release.root)
            to = now.rolling_back or (now.previous if now.current == now.good else now.good)
            if not to:
                raise ConfigError(
                    f"{self.name} cannot be rolled back",
                    why="no other release was ever healthy there",
                    hint="`clouddeploy upgrade` or `apply` installs another one",
                )
            try:
                return self._back(host, release, to)
            except ClouddeployError as error:
                raise UpgradeFailed(
                    f"{self.name} was rolled back and is not healthy",
                    why=self._why(release, error),
                    hint=f"look at it: clouddeploy logs {self.name}; `clouddeploy upgrade` goes forward again",
                ) from error
        finally:
            host.close()

    def wait_back(self) -> None:
        """Returns once the site says that it is healthy, over a connection of its own."""
        wait_for(
            lambda: self.machines.status(self.name, self.machine, self.installed)[0] in HEALTHY,
            timeout_s=READY_TIMEOUT_S,
            interval_s=POLL_S,
            cancel=self.machines.cancel,
            what=f"{self.name} to register again",
        )

    def _run(self, host: Host, release: bootstrap.Release) -> None:
        """Starts what is current and returns once it is healthy and stays so."""
        bootstrap.start(host, release)
        wait_for(
            self._watch(host, release),
            timeout_s=READY_TIMEOUT_S,
            interval_s=POLL_S,
            cancel=self.machines.cancel,
            what=f"{self.name} to be healthy",
        )
        self.machines.wait_ready(self.name, host, release, self.machine.outputs.get("address", ""))
        before = bootstrap.status(host, release) or {}
        threading.Event().wait(SETTLE_S)
        after = bootstrap.status(host, release) or {}
        # Each process of a site in a container has the same number there.
        is_same = all(after.get(key) == before.get(key) for key in ("pid", "since"))
        if not is_same or after.get("state") not in HEALTHY:
            raise UpgradeFailed(f"{self.name} did not stay healthy", why=f"after {SETTLE_S:.0f} s it had ended")

    def _watch(self, host: Host, release: bootstrap.Release) -> Callable[[], bool]:
        """Returns what tells whether the site is healthy, and raises once its supervisor has given up."""
        seen = [time.monotonic()]
        starts: set[bytes] = set()

        def is_healthy() -> bool:
            if bootstrap.is_running(host, release):
                seen[0] = time.monotonic()
            # Its supervisor tries for a minute and a half, with growing pauses; three starts say as much.
            starts.update(filter(None, (host.read(f"{release.root}/{file}", limit=PID_BYTES) for file in PID_FILES)))
            if len(starts) > ENOUGH_STARTS or time.monotonic() - seen[0] > DEAD_S:
                raise UpgradeFailed(f"{self.name} does not run", why="it ended after its start, again and again")
            return self._state(host, release) in HEALTHY

        return is_healthy

    @staticmethod
    def _state(host: Host, release: bootstrap.Release) -> str:
        return str((bootstrap.status(host, release) or {}).get("state", ""))

    def _back(self, host: Host, release: bootstrap.Release, to: str) -> bootstrap.Release:
        """Makes a release current that was healthy once, and returns it once it is so again."""
        earlier = bootstrap.roll_back(host, release, to)
        self._run(host, earlier)
        bootstrap.confirm(host, earlier)
        return earlier

    def _undone(self, release: bootstrap.Release, error: ClouddeployError) -> UpgradeFailed:
        """Goes back where there is something to go back to; returns the error that says how it ended.

        Over a connection of its own: that of the upgrade may be what failed.
        """
        again = "mend this and run `clouddeploy upgrade` again"
        is_replaced = True
        try:
            with contextlib.closing(self.machines.open(self.name, self.machine)) as host:
                now = bootstrap.releases(host, release.root)
                is_replaced = now.current != now.good != ""
                if not is_replaced:
                    kept = self._kept(host, release, now)
                    return UpgradeFailed(
                        f"{self.name} could not be upgraded", why=f"{self._why(release, error)}. {kept}", hint=again
                    )
                log.warning("%s: the new release failed, going back: %s", self.name, error, extra={"site": self.name})
                earlier = bootstrap.roll_back(host, release, now.good)
                why = self._why(release, error)  # before the start, after which the log tells of another release
                self._run(host, earlier)
                bootstrap.confirm(host, earlier)
        except ClouddeployError as second:
            goal = f"`clouddeploy rollback --site {self.name}` tries again" if is_replaced else again
            return UpgradeFailed(
                f"the new release of {self.name} failed and the one before could not be brought back"
                if is_replaced
                else f"{self.name} could not be upgraded and does not run",
                why=f"{error}; then: {second}",
                hint=f"look at it: clouddeploy logs {self.name}; {goal}",
            )
        return UpgradeFailed(
            f"the new release of {self.name} failed and was rolled back",
            why=why,
            hint=f"{self.name} runs the release that it had; {again}",
        )

    def _kept(self, host: Host, release: bootstrap.Release, now: bootstrap.Releases) -> str:
        """Sees to it that a site runs that has its release still; returns what is to be said of it."""
        if bootstrap.is_running(host, release):
            return "There was nothing to roll back: it runs the release that it has"
        if not now.good:
            return "There was nothing to roll back to, and it does not run"
        self._run(host, release)
        return "There was nothing to roll back: it has the release that it had, and was started again"

    def _why(self, release: bootstrap.Release, error: ClouddeployError) -> str:
        """Returns the error and, where it can be had, the end of the site's log."""
        words = ("said", release.root, release.service, LOG_LINES)
        try:
            with contextlib.closing(self.machines.open(self.name, self.machine, timeout_s=PROBE_TIMEOUT_S)) as host:
                tail = bootstrap.run(host, LOG_S, *words).strip()
        except ClouddeployError:
            return str(error)
        return f"{error}; the end of its log:\n{tail}" if tail else str(error)
