"""Makes the startup kits of a project: carries over what has not changed, signs the rest, shows the result at once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime import expiry, keys
from clouddeploy_runtime.kit.kit import is_host

from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.drafts import Outcome, Renewal
from clouddeploy_provision.errors import ProvisionError, ResultError
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_provision.kit_tree import SCRIPT, File, make_folder
from clouddeploy_provision.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_provision.drafts import Draft
    from clouddeploy_provision.project import Project


@dataclass(frozen=True)
class Endpoint:
    """Where the server of a deployment is reached."""

    host: str
    port: int


@dataclass(frozen=True)
class Options:
    """How kits are made; every one may be left out."""

    custom: Custom = field(default_factory=Custom)
    """Where builders that are not bundled come from."""
    enrolled: frozenset[str] = frozenset()
    """Participants that get no kit here, since their keys will be made where they run. Those whose certificate was
    issued on request are known anyhow."""
    renewal: Renewal = field(default_factory=Renewal)
    """Whose certificates are made anew although they could stay."""
    start_script: bool = False
    """Also write `start_all.sh`."""
    companions: Mapping[str, Mapping[str, File]] = field(default_factory=dict)
    """Participant → path in the result → a file that lies beside its kit. Who gets no kit here gets none of them."""
    zip_password: str | None = field(default=None, repr=False)
    """For a ZipBuilder that asks."""

    def result_files(self, participants: Iterable[str]) -> dict[str, File]:
        """Return what lies beside the kits of a result, by path.

        Args:
            participants: who has a kit in it.
        """
        found = {"start_all.sh": File(packaged("start_all.sh"), SCRIPT)} if self.start_script else {}
        for name in participants:
            found |= self.companions.get(name, {})
        return found


@dataclass(frozen=True)
class Change:
    """What a run does, or would do, with one kit."""

    name: str
    outcome: str
    """created, kept, reissued, enrolled (its key is at the site) or removed."""
    reason: str = ""


@dataclass(frozen=True)
class ProvisionReport:
    """What a run of `provision` made."""

    result: Path
    """The `prod_NN` folder."""
    kits: Mapping[str, Path]
    """Participant → its kit."""
    created: tuple[str, ...]
    """Participants with a new key."""
    kept: tuple[str, ...]
    """Participants whose signed files are byte for byte those of the last result."""
    reissued: tuple[str, ...]
    """Participants with the same key, but a new certificate or other signed files."""
    root_not_after: datetime
    root_not_before: datetime
    changes: tuple[Change, ...] = ()
    """All of that with reasons, and who is in the last result but not in the project file."""
    warnings: tuple[str, ...] = ()


def provision(
    project: Project,
    workspace: Path,
    *,
    passphrase: bytes,
    extra_server_hosts: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    reuse_result: bool = False,
    options: Options | None = None,
    now: datetime | None = None,
) -> ProvisionReport:
    """Write a signed kit for each participant into `<workspace>/<project>/prod_NN`.

    A participant's key and certificate are carried over from the last result while they fit; a certificate that lacks a
    name or nears its end is issued anew with the same key. A run that fails or is killed leaves no `prod_NN`.

    Args:
        project: from `project.load`.
        workspace: where results go; made when missing.
        passphrase: of the certificate authority; the first run for a project sets it.
        extra_server_hosts: further addresses and names for the server's certificate. Names of earlier runs stay in it.
        endpoint: where clients and admins connect, instead of what the project file says; `None` keeps what the last
            result says.
        reuse_result: return the last result when nothing would change, instead of making an equal one.
        options: see there.
        now: the time of issue; the clock's when not given.

    Raises:
        ProvisionError: see `clouddeploy_provision.errors`.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    for host in (*extra_server_hosts, *((endpoint.host,) if endpoint else ())):
        if not is_host(host):
            raise ResultError("the server's address cannot be used", why=f"{host!r} is neither an address nor a name")
    folder = workspace / project.name
    store = CaStore(folder / "state")
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(str(folder))  # whatever the umask: who may write here could exchange everything in it
        with store.locked():
            run = Run(project, workspace, store=store, options=options or Options(), now=moment)
            run.check(needs_result=not reuse_result)
            run.open(passphrase)
            _discard(folder / "wip")  # of a run that was killed
            try:
                drafts = run.draft(tuple(extra_server_hosts), endpoint)
                result = run.reusable(drafts) if reuse_result else None
                if result is None:
                    result = run.write(drafts)
            finally:
                _discard(folder / "wip")  # private keys are in it, whatever went wrong
            run.describe()
            return _report(project, run, drafts, result)
    except OSError as exc:
        raise ProvisionError(f"the kits of {project.name} could not be written", why=str(exc)) from exc
    except keys.KeyFault as exc:
        raise ProvisionError(exc.what, why=exc.why, hint=exc.hint) from exc


def preview(
    project: Project, workspace: Path, *, options: Options | None = None, now: datetime | None = None
) -> tuple[Change, ...]:
    """Say what `provision` would do with each kit; changes nothing and needs no passphrase.

    What builders of one's own would add is not foreseen.

    Raises:
        ProvisionError: the last result cannot be read.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    store = CaStore(workspace / project.name / "state")
    try:
        run = Run(project, workspace, store=store, options=options or Options(), now=moment)
        run.check(needs_result=True)
        drafts = run.draft((), None, is_preview=True)
    except OSError as exc:
        raise ProvisionError(f"the kits of {project.name} could not be read", why=str(exc)) from exc
    return _changes(run, drafts)


def _discard(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _changes(run: Run, drafts: Sequence[Draft]) -> tuple[Change, ...]:
    made = [Change(one.participant.name, one.outcome.value, one.reason) for one in drafts]
    why = "its key is made where it runs, its kit comes by request"
    away = [Change(name, "enrolled", why) for name in sorted(run.enrolled)]
    return (*made, *away, *(Change(name, "removed", "the project file has it no more") for name in run.removed()))


def _report(project: Project, run: Run, drafts: Sequence[Draft], result: Path) -> ProvisionReport:
    def those(outcome: Outcome) -> tuple[str, ...]:
        return tuple(draft.participant.name for draft in drafts if draft.outcome is outcome)

    root = run.authority.certificate
    notice = expiry.notice(
        "the root certificate",
        root.not_valid_after_utc,
        run.now,
        remedy="exchange it: clouddeploy cert rollover start",
    )
    return ProvisionReport(
        result=result,
        kits={draft.participant.name: result / draft.participant.name for draft in drafts},
        created=those(Outcome.CREATED),
        kept=those(Outcome.KEPT),
        reissued=those(Outcome.REISSUED),
        root_not_after=root.not_valid_after_utc,
        root_not_before=root.not_valid_before_utc,
        changes=_changes(run, drafts),
        warnings=(*project.warnings, *run.warnings, *([notice.text] if notice else [])),
    )
