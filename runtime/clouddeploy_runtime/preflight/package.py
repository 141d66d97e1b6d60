"""Checks a whole startup kit and the machine that it is to run on; finds, and changes nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import Kind, folder_of
from clouddeploy_runtime.preflight import kit as kits
from clouddeploy_runtime.preflight import local, machine, network
from clouddeploy_runtime.preflight.findings import Finding, Report, Status, found, passed, skipped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy_runtime.kit.kit import Kit
    from clouddeploy_runtime.settings import Settings

_PARENTS = {
    Kind.SERVER: "clouddeploy_runtime.server.parent",
    Kind.CLIENT: "clouddeploy_runtime.client.agent",
    Kind.RELAY: "clouddeploy_runtime.relay.parent",
    Kind.ADMIN: "clouddeploy_runtime.admin.session",
}
_JOB = "clouddeploy_runtime.job.enter"
_DRY_RUN, _PACKAGE = "Check dry run", "Check package"
_UNTRUSTED = "nothing in this kit can be believed"
_EXPECTED = (RuntimeFault, OSError, ValueError, ImportError, KeyError, TypeError)
"""What a kit that is not as it should be may bring about in a check that did not expect it."""


def check(root: Path, *, workspace: Path | None = None, offline: bool = False, now: datetime | None = None) -> Report:
    """Check a kit; may be done at any time, also while its participant runs.

    Args:
        root: the kit's folder.
        workspace: where the participant works; default: what the environment says, else the kit.
        offline: connect to nobody.
        now: the time to judge by; the clock's when not given.

    Raises:
        KitError: there is no such folder, or it has no `startup/`.
    """
    folder = _folder(root)
    offset = now - datetime.now(UTC) if now is not None else timedelta(0)
    try:
        looked = kits.look(folder, workspace=workspace, now=now or datetime.now(UTC))
    except _EXPECTED as exc:
        looked = kits.Looked((_broke(exc),))
    findings = [*machine.software(), *looked.findings]
    if looked.kit is None:
        findings += [skipped(one, _UNTRUSTED) for one in (network.SERVER, _DRY_RUN)]
        return Report(folder, _component(folder), tuple(findings))
    kit = looked.kit
    place = machine.workspace_of(kit, workspace)
    read, said = local.load(kit)
    findings += said
    findings += _guarded(lambda: local.policies(kit))
    findings += _guarded(lambda: local.launcher(kit, read))
    if read is not None:
        for part in (machine.ports, machine.folders):
            findings += _guarded(lambda part=part, read=read: part(kit, read, place))  # type: ignore[misc]
        findings += _guarded(lambda: machine.gpus(kit, read))
    if kit.kind is not Kind.SERVER:
        findings += _way(kit, is_sound=looked.is_sound and read is not None, offline=offline, offset=offset)
    findings.append(_dry_run(kit, read, findings))
    return Report(folder, kit.kind.value, tuple(findings))


def _folder(root: Path) -> Path:
    try:
        return folder_of(root)
    except KitError as exc:
        why = f"package_path {root} is not a valid directory"
        if root.is_dir():
            why = f"package in {root} is not in the correct format: it has no folder startup/"
        raise KitError(exc.what, why=why, hint=exc.hint) from exc


def _component(folder: Path) -> str:
    """Return what the names of files say of a kit that cannot be believed."""
    kinds = (kind for kind in Kind if (folder / "startup" / f"fed_{kind}.json").exists())
    return next(kinds, "kit")


def _guarded(work: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what checks found, or that they could not be made."""
    try:
        return work()
    except ImportError as exc:
        return [found(_PACKAGE, "CANNOT_LOAD", f"Can't start successfully: {exc}")]
    except _EXPECTED as exc:
        return [_broke(exc)]


def _broke(exc: Exception) -> Finding:
    text = f"Exception happens in checking: {type(exc).__name__}: {exc}, this package is not in correct format."
    return found(_PACKAGE, "CHECK_BROKE", text)


def _way(kit: Kit, *, is_sound: bool, offline: bool, offset: timedelta) -> list[Finding]:
    if offline:
        return [skipped(network.SERVER, "nobody is to be contacted (--offline)")]
    if not is_sound:
        return [skipped(network.SERVER, "the kit itself has a problem")]
    return _guarded(lambda: network.check(kit, offset=offset, environment=dict(os.environ)))


def _dry_run(kit: Kit, read: Settings | None, findings: list[Finding]) -> Finding:
    """Load what a start loads: the program, key and certificates in the TLS library, what starts a job's process.

    Nothing is started and nothing listens: that a process is still there after some seconds tells little, and ending
    it again could hit one that works.
    """
    if read is None or any(one.status is Status.FAIL for one in findings):
        return skipped(_DRY_RUN, "a check above failed")
    try:
        importlib.import_module(_PARENTS[kit.kind])
        from clouddeploy_runtime import tls  # noqa: PLC0415 - gRPC need not be there to check a kit

        if kit.connection_security != "clear":
            (tls.server_credentials if kit.kind is Kind.SERVER else tls.channel_credentials)(kit)
        if kit.kind in {Kind.SERVER, Kind.CLIENT}:
            _job_process()
    except _EXPECTED as exc:
        return found(_DRY_RUN, "CANNOT_LOAD", f"Can't start successfully: {exc}")
    return passed(_DRY_RUN, f"{_PARENTS[kit.kind]} can be loaded; nothing was started")


def _job_process() -> None:
    """Refuse a Python that could not start a job's process.

    Raises:
        OSError: it cannot.
    """
    if not os.access(sys.executable or "", os.X_OK):
        raise FileNotFoundError(f"there is no program {sys.executable!r} to start jobs with")
    if importlib.util.find_spec(_JOB) is None:
        raise FileNotFoundError(f"{_JOB} is missing")
