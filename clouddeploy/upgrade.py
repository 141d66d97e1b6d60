"""All sites of a deployment to the newest release: one first, checked; then the others; back where a check fails.

Clients go before the server. A federation must bear both orders, since a site that was away is upgraded later; but
nobody trains without the server, so it is touched last, when its release has proved itself everywhere else.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy import verdict
from clouddeploy.errors import ConfigError, PartialFailure
from clouddeploy.pod_upgrade import PodUpgrade
from clouddeploy.scheduler import Outcome, Step
from clouddeploy.site_upgrade import SiteUpgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from clouddeploy.deployment import Deployment
    from clouddeploy.ledger import Ledger
    from clouddeploy.remote.bootstrap import Release
    from clouddeploy.scheduler import Event, Report
    from clouddeploy.site_upgrade import Upgraded


def upgrade(
    deployment: Deployment,
    *,
    sites: frozenset[str] = frozenset(),
    canary: str | None = None,
    on_event: Callable[[Event], None] = lambda _event: None,
) -> dict[str, Upgraded]:
    """Brings sites that run to this version of the runtime and the newest kit that the workspace has. May be repeated.

    Signs nothing and makes nothing in clouds. After a kill the next run finishes what was begun, or rolls it back.

    Args:
        deployment: whose sites.
        sites: only these; empty: all that are deployed.
        canary: the site that goes first, alone; default: the first client.
        on_event: called as things happen, in this thread.

    Returns:
        By site, how it came out.

    Raises:
        UpgradeFailed: the only site that was to be upgraded failed; says whether it was rolled back.
        PartialFailure: a site failed and was rolled back, and no further one was begun.
        Interrupted: cancelled; the same call resumes.
    """
    with deployment.held("upgrade", on_event) as (ledger, tell):
        there = _deployed(deployment, ledger, sites)
        order = _order(tuple(there), server=deployment.server, canary=canary)
        ledger.journal.note("upgrade", deployment=ledger.state.deployment)
        done: dict[str, Upgraded] = {}
        steps: list[Step] = []
        for stage in order:
            before = tuple(step.name for step in steps)
            steps += [
                _upgrade_step(there, site, server=deployment.server, needs=before, ledger=ledger, done=done)
                for site in stage
            ]
        report = ledger.run(steps, cancel=deployment.cancel, on_event=tell)
    _raise_for(report, there, done, is_cancelled=deployment.cancel.is_set())
    return done


def rollback(deployment: Deployment, site: str, *, on_event: Callable[[Event], None] = lambda _event: None) -> Release:
    """Brings a site to the release that it had before, kit and environment. May be repeated after a kill.

    The next `apply` or `upgrade` goes forward again, to what this version and the workspace have.

    Raises:
        ConfigError: there is no such site, or it has no earlier release.
        UpgradeFailed: the earlier release does not become healthy.
    """
    with deployment.held("rollback", on_event) as (ledger, tell):
        there = _deployed(deployment, ledger, frozenset({site}))
        made: list[Release] = []

        def after(release: Release) -> None:
            made.append(release)
            _record(ledger, "rolled back", site, release)

        step = Step(f"{site}/rollback", site, "roll back", work=there[site].roll_back, after=after)
        report = ledger.run([step], cancel=deployment.cancel, on_event=tell)
    verdict.raise_for(
        report,
        "rollback",
        sites=frozenset({site}),
        server=None,
        is_cancelled=deployment.cancel.is_set(),
        costs="",
    )
    return made[0]


def _deployed(deployment: Deployment, ledger: Ledger, sites: frozenset[str]) -> dict[str, SiteUpgrade]:
    """Returns the sites that can be upgraded, in the order of the deploy file."""
    recorded = ledger.state
    machines = replace(deployment.installation, cancel=threading.Event())
    there = {
        site.name: (PodUpgrade if machines.clusters.has(site.name) else SiteUpgrade)(
            site.name,
            recorded.resources[f"{site.name}/{Kind.MACHINE.value}"].ref,
            recorded.sites[site.name],
            machines,
        )
        for site in deployment.config.sites
        if recorded.sites.get(site.name) and f"{site.name}/{Kind.MACHINE.value}" in recorded.resources
    }
    missing = sorted(sites - there.keys())
    if missing or not there:
        raise ConfigError(
            f"{', '.join(missing)} is not deployed" if missing else "nothing is deployed",
            why="only a site that was installed has a release that can be changed",
            hint=f"deployed are {', '.join(there)}" if there else "run `clouddeploy apply` first",
        )
    return {name: one for name, one in there.items() if not sites or name in sites}


def _order(sites: Sequence[str], *, server: str | None, canary: str | None) -> list[list[str]]:
    """Returns stages: the sites of one are upgraded together, once those of the stages before are healthy."""
    if canary is not None and canary not in sites:
        raise ConfigError(
            f"{canary} cannot go first", why="it is none of the sites to be upgraded", hint=f"one of {', '.join(sites)}"
        )
    clients = [site for site in sites if site != server]
    first = canary or next(iter(clients), sites[0])
    stages = [[first], [site for site in clients if site != first], [site for site in sites if site == server]]
    stages[2] = [site for site in stages[2] if site != first]
    return [stage for stage in stages if stage]


def _upgrade_step(
    there: dict[str, SiteUpgrade],
    site: str,
    *,
    server: str | None,
    needs: tuple[str, ...],
    ledger: Ledger,
    done: dict[str, Upgraded],
) -> Step:
    def work() -> Upgraded:
        # Read by a worker, written by the owning thread before this step has begun: it needs those steps.
        waiting = [there[name] for name, one in done.items() if site == server and one.is_healthy]
        return there[site].upgrade(waiting)

    def after(upgraded: Upgraded) -> None:
        done[site] = upgraded
        if upgraded.is_changed:
            _record(ledger, "upgraded", site, upgraded.release)

    return Step(f"{site}/upgrade", site, "upgrade", needs=needs, work=work, after=after)


def _record(ledger: Ledger, event: str, site: str, release: Release) -> None:
    ledger.installed(site, release)
    ledger.journal.note(event, site=site, release=release.digest)


def _raise_for(report: Report, there: Collection[str], done: dict[str, Upgraded], *, is_cancelled: bool) -> None:
    errors = {report.sites[step]: error for step, error in report.errors.items()}
    if is_cancelled or len(there) == 1:
        verdict.raise_for(report, "upgrade", sites=frozenset(there), server=None, is_cancelled=is_cancelled, costs="")
        return
    if not errors:
        return
    untouched = sorted(report.sites[step] for step, how in report.outcomes.items() if how is Outcome.SKIPPED)
    changed = sorted(site for site, one in done.items() if one.is_changed)
    words = [
        f"{', '.join(changed)} run the new release" if changed else "",
        f"{', '.join(untouched)} were not touched" if untouched else "",
        "mend this and run `clouddeploy upgrade` again",
    ]
    raise PartialFailure(
        "; ".join(getattr(error, "what", str(error)) for error in errors.values()),
        why="; ".join(f"{site}: {getattr(error, 'why', '')}" for site, error in sorted(errors.items())),
        hint="; ".join(word for word in words if word),
    ) from next(iter(errors.values()))
