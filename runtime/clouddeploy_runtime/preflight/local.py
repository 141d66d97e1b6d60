"""What stands in `local/`: settings, the policies, and the way jobs are started."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from clouddeploy_runtime import authorization, communication, settings
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job import landlock
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import Kind
from clouddeploy_runtime.preflight.findings import Finding, found, passed
from clouddeploy_runtime.relay.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clouddeploy_runtime.kit.kit import Kit
    from clouddeploy_runtime.settings import Settings

_SETTINGS, _POLICY, _PRIVACY = "Check settings", "Check authorization policy", "Check privacy policy"
_LAUNCHER, _CONFINEMENT = "Check launcher", "Check confinement"
_WITH_JOBS = frozenset({Kind.SERVER, Kind.CLIENT})


def load(kit: Kit) -> tuple[Settings | None, list[Finding]]:
    """Read a kit's settings; None where they are no use."""
    try:
        read = settings.load(kit.local)
        communication.load(kit.local)
        if kit.kind is Kind.RELAY:
            listening(kit)
    except KitError as exc:
        return None, [found(_SETTINGS, "BAD_SETTINGS", str(exc))]
    names = [name for name in settings.FILES if (kit.local / name).exists()]
    if kit.kind in _WITH_JOBS and not names:
        return read, [found(_SETTINGS, "SETTINGS_MISSING", f"neither {' nor '.join(settings.FILES)} is in {kit.local}")]
    return read, [passed(_SETTINGS, f"as in local/{names[0]}" if names else "")]


def policies(kit: Kit) -> list[Finding]:
    """Look at what a server or a site allows."""
    if kit.kind not in _WITH_JOBS:
        return []
    findings = [_authorization(kit)]
    if kit.kind is Kind.CLIENT:
        findings.append(_privacy(kit))
    return findings


def _authorization(kit: Kit) -> Finding:
    problem = authorization.load(kit.local).problem
    if not problem:
        return passed(_POLICY)
    is_there = any((kit.local / name).exists() for name in authorization.FILES)
    return found(_POLICY, "POLICY_BAD" if is_there else "POLICY_MISSING", f"{kit.local}: {problem}")


def _privacy(kit: Kit) -> Finding:
    from clouddeploy_runtime import privacy  # noqa: PLC0415 - knows filters, which may be slow to load

    try:
        policy = privacy.load(kit.local)
    except RuntimeFault as exc:
        return found(_PRIVACY, "PRIVACY_BAD", str(exc))
    return passed(_PRIVACY, "" if policy else f"there is no local/{privacy.FILE}: jobs have no scope")


def launcher(kit: Kit, read: Settings | None) -> list[Finding]:
    """Look at how jobs are started; starts none."""
    if kit.kind not in _WITH_JOBS or read is None:
        return []
    from clouddeploy_runtime import launchers  # noqa: PLC0415 - needs what jobs need

    try:
        with quiet():
            launchers.made(read, kit)
    except RuntimeFault as exc:
        return [found(_LAUNCHER, "BAD_LAUNCHER", str(exc), remedy=exc.hint)]
    made = passed(_LAUNCHER, f"{read.launcher}{settings.LAUNCHER}")
    return [made, _confinement(read)] if read.launcher == "process" else [made]


def _confinement(read: Settings) -> Finding:
    if read.launcher_args.get("confine", True) is not True:
        return found(_CONFINEMENT, "NOT_CONFINED", "local/resources.json switches it off")
    version = landlock.version()
    if not version:
        return found(_CONFINEMENT, "NOT_CONFINED", "the kernel has no Landlock")
    return passed(_CONFINEMENT, f"Landlock {version}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep out of the log what a line of the report says as well."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
