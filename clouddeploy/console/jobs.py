"""The console's commands for jobs."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.jobs import SERVER

from clouddeploy.console.command import Command, Reply
from clouddeploy.console.errors import SyntaxFault
from clouddeploy.console.targets import log_config, reply_of, takes_log_config, target_of
from clouddeploy.outcome import require_completed
from clouddeploy.tables import boxed, moment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from clouddeploy_runtime.jobs import JobInfo

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk

_HEAD = ("JOB ID", "NAME", "STATUS", "ROUNDS", "SUBMITTER", "SUBMIT TIME", "DURATION")
_MONITOR_S = 86_400.0
_LOG = "log.txt"
_PARTS = frozenset({"job", "workspace", "meta.json"})
"""What every download has; all else are the further components."""


def _job_id(arguments: Arguments) -> None:
    arguments.add_argument("job_id", help="see list_jobs")


def _takes_folder(arguments: Arguments) -> None:
    arguments.add_argument("folder", help="in the transfer folder, or a path")
    arguments.add_argument("--submit-token", default="", metavar="T", help="submitted again with it: the same job")


def _submit(desk: Desk, given: argparse.Namespace) -> Reply:
    job_id = desk.session.submit(desk.job_folder(given.folder), token=given.submit_token)
    return Reply(f"Submitted job: {job_id}", data={"job_id": job_id})


def _takes_listing(arguments: Arguments) -> None:
    arguments.add_argument("-n", dest="name", default="", metavar="PREFIX", help="names that begin so")
    arguments.add_argument("-d", dest="is_detailed", action="store_true", help="everything about each")
    arguments.add_argument("-u", dest="is_own", action="store_true", help="your own only")
    arguments.add_argument("-r", dest="is_reverse", action="store_true", help="the newest first")
    arguments.add_argument("-m", dest="limit", type=int, default=0, metavar="N", help="the newest N only")
    arguments.add_argument("--submit-token", default="", metavar="T", help="the one submitted with it")
    arguments.add_argument("id_prefix", nargs="?", default="", help="ids that begin so")


def _list(desk: Desk, given: argparse.Namespace) -> Reply:
    """The server narrows down what it can; the rest is chosen here, and so is the limit then."""
    if given.limit < 0:
        raise SyntaxFault("list_jobs cannot be used so", why="-m takes a number above 0", hint="list_jobs -m 10")
    found = desk.session.list_jobs(
        name=given.name,
        id_prefix=given.id_prefix,
        submitter=desk.user if given.is_own else "",
        limit=0 if given.submit_token else given.limit,
    )
    jobs = [info for info in found if given.submit_token in {"", info.submit_token}][-given.limit :]
    jobs = jobs[::-1] if given.is_reverse else jobs
    data = [_document(info) for info in jobs]
    if not jobs:
        return Reply("No jobs.", data=data)
    if given.is_detailed:
        return Reply("\n".join(json.dumps(one, indent=1) for one in data), data=data)
    return Reply(boxed(_HEAD, [_row(info) for info in jobs]), data=data)


def _row(info: JobInfo) -> tuple[object, ...]:
    rounds = f"{info.rounds}/{info.total_rounds}" if info.total_rounds else info.rounds
    duration = f"{info.duration_s:.1f} s" if info.duration_s else ""
    return (info.job_id, info.name, info.status, rounds, info.submitter, moment(info.submit_time), duration)


def _document(info: JobInfo) -> dict[str, Any]:
    return {name: value for name, value in asdict(info).items() if value not in ("", (), {}, [])}


def _meta(desk: Desk, given: argparse.Namespace) -> Reply:
    data = _document(desk.session.job_meta(given.job_id))
    return Reply(json.dumps(data, indent=1), data=data)


def _components(desk: Desk, given: argparse.Namespace) -> Reply:
    found = desk.session.list_components(given.job_id)
    return Reply(boxed(("COMPONENT", "BYTES"), list(found.items())), data=found)


def _takes_log(arguments: Arguments) -> None:
    _job_id(arguments)
    arguments.add_argument("site", nargs="?", default=SERVER, help="server (default), all, or a client")
    arguments.add_argument(
        "file", nargs="?", default=_LOG, choices=(_LOG,), metavar=_LOG, help="the only log that a job has"
    )
    arguments.add_argument("--tail", type=int, default=0, metavar="N", help="the last N lines only")


def _log(desk: Desk, given: argparse.Namespace) -> Reply:
    """The server's comes without asking the sites, which a person without rights there may see."""
    if given.site == SERVER:
        text = desk.session.job_log(given.job_id)
        if given.tail > 0:
            text = "\n".join(text.splitlines()[-given.tail :])
        return Reply(text.rstrip("\n"), data={SERVER: text})
    replies = desk.session.sites.job_log(given.job_id, given.site, tail=max(0, given.tail))
    return reply_of(replies, lambda data: str(data.get("text", "")))


def _abort(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm(f"Abort the job {given.job_id}?")
    desk.session.abort(given.job_id)
    return Reply(f"Job {given.job_id} is being aborted.", data={"job_id": given.job_id})


def _delete(desk: Desk, given: argparse.Namespace) -> Reply:
    info = desk.session.job_meta(given.job_id)
    desk.confirm_user(f"Delete the job {info.name} ({info.status}) of {info.submitter} and its result?")
    desk.session.delete(given.job_id)
    return Reply(f"Job {given.job_id} is deleted.", data={"job_id": given.job_id})


def _clone(desk: Desk, given: argparse.Namespace) -> Reply:
    job_id = desk.session.clone(given.job_id)
    return Reply(f"Cloned job {given.job_id} as: {job_id}", data={"job_id": job_id, "cloned_from": given.job_id})


def _takes_download(arguments: Arguments) -> None:
    _job_id(arguments)
    arguments.add_argument("destination", nargs="?", default="", help="a folder; default: the transfer folder")


def _destination(desk: Desk, given: argparse.Namespace) -> Path:
    return Path(given.destination).expanduser() if given.destination else desk.transfer()


def _download(desk: Desk, given: argparse.Namespace) -> Reply:
    path = desk.session.download(given.job_id, _destination(desk, given))
    return Reply(f"Downloaded to: {path}", data={"path": str(path)})


def _download_components(desk: Desk, given: argparse.Namespace) -> Reply:
    """The server has one archive of a job; what every download has, beside them, is left out here."""
    destination = _destination(desk, given)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".components-") as temporary:
        whole = desk.session.download(given.job_id, Path(temporary))
        names = sorted(path.name for path in whole.iterdir() if path.name not in _PARTS)
        if not names:
            return Reply("The job has no further components: sites write one when they fail.", data={"files": []})
        target = destination / f"{whole.name}-components"
        target.mkdir(exist_ok=True)
        for name in names:
            shutil.move(whole / name, target / name)
    lines = [f"Downloaded to: {target}", *(f"  {name}" for name in names)]
    return Reply("\n".join(lines), data={"path": str(target), "files": names})


def _takes_monitor(arguments: Arguments) -> None:
    _job_id(arguments)
    arguments.add_argument("seconds", nargs="?", type=float, default=_MONITOR_S, help="how long; default: a day")


def _monitor(desk: Desk, given: argparse.Namespace) -> Reply:
    """Ends with the job; Ctrl-C ends the watching, not the job."""
    shown = 0
    for info in desk.session.watch(given.job_id, timeout_s=given.seconds):
        for one in info.history:
            if one.round > shown:
                shown = one.round
                desk.screen.say(f"round {one.round} of {one.total_rounds}: {one.seconds:.2f} s{_metrics(one.metrics)}")
        if info.status.is_final:
            require_completed(info)
            return Reply(f"{info.status} after {info.duration_s:.1f} s", data=_document(info))
        desk.screen.say(str(info.status))
    raise AssertionError  # `watch` ends with the job's end or raises


def _metrics(metrics: Mapping[str, float | None]) -> str:
    return "".join(f", {name} {'nan' if value is None else f'{value:.6g}'}" for name, value in metrics.items())


def _takes_log_config(arguments: Arguments) -> None:
    _job_id(arguments)
    takes_log_config(arguments, before="job_id ")


def _configure_log(desk: Desk, given: argparse.Namespace) -> Reply:
    config = log_config(given)
    return reply_of(desk.session.sites.configure_job_log(given.job_id, target_of(given), config))


COMMANDS = (
    Command("submit_job", "submit_job", "Submit a job folder.", _submit, _takes_folder, ("folder",)),
    Command("list_jobs", "list_jobs", "List the jobs that the server knows, oldest first.", _list, _takes_listing),
    Command("get_job_meta", "get_job_meta", "Show everything that is known of a job.", _meta, _job_id, ("job",)),
    Command(
        "list_job",
        "download_job",
        "List the components of a job that can be downloaded.",
        _components,
        _job_id,
        ("job",),
    ),
    Command(
        "get_job_log",
        "download_job",
        "Show the log of a job, at the server or at clients.",
        _log,
        _takes_log,
        ("job", "target"),
    ),
    Command(
        "monitor_job",
        "get_job_meta",
        "Show each round of a job as it ends, until the job has ended.",
        _monitor,
        _takes_monitor,
        ("job",),
    ),
    Command("abort_job", "abort_job", "Stop a job at every site; asks first.", _abort, _job_id, ("job",)),
    Command(
        "delete_job",
        "delete_job",
        "Delete a job that does not run, with its result; wants your user name.",
        _delete,
        _job_id,
        ("job",),
    ),
    Command("clone_job", "clone_job", "Submit an earlier job once more, as your own.", _clone, _job_id, ("job",)),
    Command(
        "download_job",
        "download_job",
        "Fetch a finished job into the transfer folder, or another one.",
        _download,
        _takes_download,
        ("job",),
    ),
    Command(
        "download_job_components",
        "download_job",
        "Fetch of a finished job what sites said about their failures.",
        _download_components,
        _takes_download,
        ("job",),
    ),
    Command(
        "configure_job_log",
        "configure_job_log",
        "Change how a running job logs, at the server or at clients.",
        _configure_log,
        _takes_log_config,
        ("job", "kind", "client"),
    ),
)
