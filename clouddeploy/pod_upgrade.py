"""The upgrade of a site in Kubernetes: the newest kit and the deploy file's image, in a new pod instead of the old."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.errors import ConfigError, UpgradeFailed
from clouddeploy.machine_work import release_of
from clouddeploy.site_upgrade import HEALTHY, SiteUpgrade, Upgraded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy.remote import bootstrap


@dataclass(frozen=True)
class PodUpgrade(SiteUpgrade):
    """The work at one site that is a pod; see `SiteUpgrade`."""

    def upgrade(self, dependants: Sequence[SiteUpgrade] = ()) -> Upgraded:
        """Brings the site to the newest kit and to its image; one that has them already is left alone.

        Nothing is put back where that fails: the image before is known to whoever wrote the deploy file.

        Raises:
            UpgradeFailed: it did not become healthy.
        """
        work, before = self.machines.clusters, release_of(self.installed)
        with closing(work.open(self.name, self.machine)) as there:
            release = work.install(self.name, there, self.machines.kit(self.name))
            is_healthy = work.status(self.name, self.machine)[0] in HEALTHY
            if release == before and is_healthy:
                return Upgraded(release, is_changed=False, is_healthy=True)
            try:
                work.start(self.name, there, release)
                work.wait_ready(self.name, there, release, self.machine.outputs.get("address", ""))
                for one in dependants:
                    one.wait_back()
            except ClouddeployError as error:
                raise UpgradeFailed(
                    f"{self.name} could not be upgraded",
                    why=str(error),
                    hint=f"it had the image {before.python}: name that in the deploy file, and `clouddeploy apply`",
                ) from error
        return Upgraded(release, is_changed=release != before, is_healthy=True)

    def roll_back(self) -> bootstrap.Release:
        """Refuses: a cluster keeps no earlier kit.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.name} cannot be rolled back",
            why="it is a pod, and a cluster keeps no kit but the one it has",
            hint="name the image before as `container` in the deploy file, and `clouddeploy apply`",
        )
