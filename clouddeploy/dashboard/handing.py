"""Handing out: a kit as an archive with a code of its own, the answer to a site's request, re-issue; all recorded."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select, update

from clouddeploy.dashboard import kits, logins, model, people, rules, settings, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Invalid, NotFound, TooMany
from clouddeploy.dashboard.rules import Action, Approval

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from clouddeploy.dashboard.desk import Desk, Visit
    from clouddeploy.dashboard.kits import Answer

READY = timedelta(minutes=10)
"""So long an archive lies ready; then it has to be made again, with another code."""
MOST_READY = 40
"""Archives that one person has made within `READY`: each takes work here, and whoever hands out the kits of a large
organisation has that many sites at most."""
MIN_CODE = 16
_MAX_CODE = 128
_TICKET_BYTES = 24
_FOLDER = "downloads"
_KIT = "kit"
KIT = {"user": Action.USER_KIT, "client": Action.SITE_KIT, "server": Action.SERVER_KIT}
ENROL = {"user": Action.USER_ENROL, "client": Action.SITE_ENROL, "server": Action.SERVER_ENROL}
REISSUE = {"user": Action.USER_REISSUE, "client": Action.SITE_REISSUE, "server": Action.SERVER_REISSUE}


@dataclass(frozen=True)
class Prepared:
    """An archive that lies ready for one download.

    Attributes:
        ticket: what the download needs; of use once.
        code: what opens the archive; shown once and stored nowhere.
        filename: how the file is to be called.
        expires_at: when it is thrown away.
    """

    ticket: str
    code: str
    filename: str
    expires_at: datetime


@dataclass(frozen=True)
class Taken:
    """An archive, and how it is to be called."""

    content: bytes
    filename: str


@dataclass(frozen=True)
class _Subject:
    """Whose kit it is about, after the one who asks was found to be allowed it."""

    kind: str
    name: str
    row: model.User | model.Site | None


def prepare(visit: Visit, kind: str, subject_id: int, *, code: str = "") -> Prepared:
    """Makes an archive of somebody's kit with a new code.

    Args:
        visit: the request.
        kind: user, client or server.
        subject_id: of a user or a site.
        code: one that a program brings along, of `MIN_CODE` signs or more; else one is made.

    Raises:
        Forbidden: it is not for the one who asks.
        NotApproved: it is not approved yet.
        Conflict: the project is not frozen, or the key was made at the site.
        TooMany: they have made `MOST_READY` a short time ago; says when the next one is made.
    """
    subject = _subject(visit, kind, subject_id, KIT[kind])
    _check_pace(visit, KIT[kind])
    desk, now = visit.desk, visit.desk.now()
    if code and not (MIN_CODE <= len(code) <= _MAX_CODE and code.isascii() and code.isalnum()):
        why = f"the archive's format demands {MIN_CODE} to {_MAX_CODE} letters and digits"
        raise Invalid("the code is refused", why=why, hint="leave it out: a good one is made and told")
    ticket, code = secrets.token_urlsafe(_TICKET_BYTES), code or kits.code()
    folder = _clean(desk)
    target = folder / f"{logins.digest(ticket)}.zip"
    serial = desk.kits.hand_out(settings.federation(visit.db), subject.name, target=target, password=code)
    try:
        download = _record(visit, subject, form=_KIT, serial=serial, ticket=ticket)
        visit.note(KIT[kind].value, detail=f"{subject.name}, certificate {serial}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    download.expires_at = now + READY
    return Prepared(ticket, code, f"{subject.name}.zip", download.expires_at)


def take(visit: Visit, ticket: str) -> Taken:
    """Returns an archive that lies ready, once; who made it ready is who may take it.

    Raises:
        NotFound: it was taken, its time is over, or it is somebody else's.
    """
    desk, now = visit.desk, visit.desk.now()
    nothing = NotFound("there is nothing to download", why="it was taken already, or its time is over", hint="again")
    digest = logins.digest(ticket)
    found = visit.db.scalar(select(model.Download).where(model.Download.digest == digest))
    if found is None or found.by_email != visit.me.email or found.expires_at <= now:
        raise nothing
    # One statement, so that of two who come at once only one gets it.
    first = update(model.Download).where(model.Download.id == found.id, model.Download.taken_at.is_(None))
    if visit.db.execute(first.values(taken_at=now)).rowcount != 1:  # type: ignore[attr-defined]
        raise nothing
    path = desk.folder / _FOLDER / f"{digest}.zip"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise nothing from error
    path.unlink()
    return Taken(content, f"{found.subject}.zip")


def enrol(visit: Visit, kind: str, subject_id: int, request: bytes) -> Answer:
    """Answers the request of somebody who keeps their own key; an earlier identity is revoked.

    Raises:
        Forbidden, NotApproved, Conflict: as in `prepare`.
        EnrolmentFault: the request is not sound.
    """
    subject = _subject(visit, kind, subject_id, ENROL[kind])
    answer = visit.desk.kits.answer(settings.federation(visit.db), subject.name, request)
    download = _record(visit, subject, form="answer", serial=answer.serial, ticket=secrets.token_urlsafe(_TICKET_BYTES))
    download.taken_at = download.made_at
    visit.note(ENROL[kind].value, detail=f"{subject.name}, certificate {answer.serial}, key {answer.public_key_sha256}")
    return answer


def reissue(visit: Visit, kind: str, subject_id: int, *, reason: str = "superseded") -> bool:
    """Revokes what somebody has; the next download has a new key. Returns whether there was anything to revoke.

    Raises:
        Forbidden, NotApproved, Conflict: as in `prepare`.
    """
    subject = _subject(visit, kind, subject_id, REISSUE[kind])
    is_revoked = visit.desk.kits.revoke(project_of(visit.db).short_name, subject.name, reason=reason)
    visit.note(REISSUE[kind].value, detail=f"{subject.name}, {'revoked' if is_revoked else 'had none'}")
    return is_revoked


def newest(visit: Visit, subjects: Collection[str]) -> dict[str, model.Download]:
    """Returns of each participant when their kit was last handed out; who may see that was asked before."""
    last = (
        select(func.max(model.Download.id)).where(model.Download.subject.in_(subjects)).group_by(model.Download.subject)
    )
    return {one.subject: one for one in visit.db.scalars(select(model.Download).where(model.Download.id.in_(last)))}


def _check_pace(visit: Visit, action: Action) -> None:
    """Refuses one who has had too many archives made, before another one is.

    Raises:
        TooMany: says when the next one is made.
    """
    now = visit.desk.now()
    recent = select(model.Download.made_at).where(
        model.Download.by_email == visit.me.email, model.Download.form == _KIT, model.Download.made_at > now - READY
    )
    found = list(visit.db.scalars(recent.order_by(model.Download.id.desc()).limit(MOST_READY)))
    if len(found) < MOST_READY:
        return
    error = TooMany(
        "no further kit is made ready now",
        why=f"{MOST_READY} were, by {visit.me.email}, within {READY.total_seconds() / 60:.0f} minutes",
        retry_after_s=(found[-1] + READY - now).total_seconds(),
    )
    visit.note(action.value, allowed=False, detail=str(error), code=error.error_code)
    raise error


def _subject(visit: Visit, kind: str, subject_id: int, action: Action) -> _Subject:
    project = project_of(visit.db)
    row: model.User | model.Site | None = None
    if kind == "user":
        row = people.get(visit, subject_id, action)
        name, approval = row.email, Approval(row.approval_state)
    elif kind == "client":
        row = sites.get(visit, subject_id, action)
        name, approval = row.name, Approval(row.approval_state)
    else:
        visit.require(action)
        name, approval = project.server or "the server", Approval.APPROVED
    rules.check_download(name, is_frozen=project.is_frozen, approval=approval)
    return _Subject(kind, name, row)


def _record(visit: Visit, subject: _Subject, *, form: str, serial: str, ticket: str) -> model.Download:
    now = visit.desk.now()
    download = model.Download(
        kind=subject.kind,
        subject=subject.name,
        form=form,
        serial=serial,
        by_email=visit.me.email,
        address=visit.address,
        digest=logins.digest(ticket),
        made_at=now,
        expires_at=now,
    )
    visit.db.add(download)
    if subject.row is not None:
        subject.row.download_count += 1
    else:
        project_of(visit.db).server_downloads += 1
    return download


def _clean(desk: Desk) -> Path:
    """Returns the folder of archives that lie ready, without those whose time is over."""
    folder = desk.folder / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    oldest = desk.now().timestamp() - READY.total_seconds()
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
    return folder
