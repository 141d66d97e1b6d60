"""How a run ended, as an error with an exit code: everything failed, some sites did, or it was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy.errors import Interrupted, PartialFailure
from clouddeploy.site_work import KITS

if TYPE_CHECKING:
    from clouddeploy.scheduler import Report
    from clouddeploy.state import State


def raise_for(
    report: Report, command: str, *, sites: frozenset[str], server: str | None, is_cancelled: bool, costs: str
) -> None:
    """Raises what the run came to, unless everything went well.

    Args:
        report: how every step ended.
        command: for messages.
        sites: those that the run was for.
        server: the site without which nothing works; None: each site stands for itself.
        is_cancelled: the user has asked it to stop.
        costs: what is running and costs money, in words; may be empty.

    Raises:
        Interrupted: stopped by request.
        PartialFailure: some sites failed, the others are fine.
        ClouddeployError: the one error that matters.
    """
    errors = report.errors
    if (report.interrupted or errors) and is_cancelled:
        unfinished = [f"{report.sites.get(step, step)}: {error}" for step, error in errors.items()]
        raise Interrupted(
            f"{command} was stopped",
            why="; ".join(["by request, after what was in flight was finished and recorded", *unfinished]),
            hint=f"run {command} again to resume{', or destroy: ' + costs if costs else ''}",
        )
    if not errors:
        return
    failed = {report.sites.get(step, step): error for step, error in reversed(errors.items())}
    first = next(iter(errors.values()))
    decisive = next((errors[step] for step in errors if step == KITS or report.sites.get(step) == server), None)
    if server is not None and decisive is not None:
        raise decisive  # nothing works without the server, so its error is the answer and not one of several
    if sites <= set(failed) or len(sites) == 1:
        raise first
    raise PartialFailure(
        f"{command} failed at {', '.join(sorted(failed))}",
        why="; ".join(f"{site}: {error}" for site, error in sorted(failed.items())),
        hint=f"the other sites are fine and were left alone; mend this and run {command} again",
    ) from first


def raise_if_left(left: tuple[str, ...]) -> None:
    """Raises when the clouds still have something.

    Raises:
        PartialFailure: names it.
    """
    if left:
        raise PartialFailure(f"{len(left)} resource(s) are still there", why=", ".join(left), hint="run destroy again")


def running(recorded: State) -> str:
    """Returns what is running and costs money, in words; empty for nothing."""
    machines = [
        record.ref.name
        for record in recorded.resources.values()
        if record.ref.kind is Kind.MACHINE and not record.ref.is_adopted and "size" in record.ref.outputs
    ]
    if not machines:
        return ""
    return f"{', '.join(machines)} {'is running and costs' if len(machines) == 1 else 'are running and cost'} money"
