"""What a person sees while a job runs: a line that changes in a terminal, a table that changes in a notebook."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import printable

from clouddeploy.api import markup
from clouddeploy.api.monitoring import MonitorCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from clouddeploy.api.meta import JobMeta

    Show = Callable[[JobMeta], None]

_PRINTED = 3
"""Records that `basic_cb_with_print` prints in full of a running job."""
_REFRESHED = 4
"""Times in a second that a terminal's line is drawn anew, at most."""


class DisplayCalls(MonitorCalls):
    """How a session shows a job to a person."""

    def watch(self, job_id: str, timeout: float = 0.0) -> JobMeta:
        """Show a job's rounds and metrics while it runs, in a terminal or a notebook, until it has ended.

        Args:
            job_id: the job.
            timeout: how long to watch, in seconds; 0: to the end. Interrupting ends the watching, not the job.

        Returns:
            The job's record, as last known.

        Raises:
            JobNotFound: there is none of this id.
            NoConnection: the server has been away for a minute.
        """

        def seen(_session: object, _job_id: str, meta: JobMeta) -> bool:
            show(meta)
            return True

        with _notebook() if is_notebook() else _terminal() as show:
            return self.monitor_job_and_return_job_meta(job_id, timeout, 1.0, seen)[1]


def basic_cb_with_print(_session: object, _job_id: str, job_meta: JobMeta, *_args: Any, **kwargs: Any) -> bool:
    """Print a job's record, as a callback of `monitor_job`: the first three while it runs, then dots, then the last.

    Args:
        job_meta: the record.
        kwargs: `cb_run_counter` may be a dictionary, whose `count` is counted up.
    """
    counter = kwargs.get("cb_run_counter", {"count": 0})
    is_running = job_meta["status"] == "RUNNING"
    text = printable(str(dict(job_meta)))
    sys.stdout.write(("." if counter["count"] >= _PRINTED else f"{text}\n") if is_running else f"\n{text}\n")
    sys.stdout.flush()
    counter["count"] += 1
    return True


def line(meta: Mapping[str, Any]) -> str:
    """Return in one line what a person wants to know of a running job."""
    parts = [meta["status"]]
    if meta["total_rounds"]:
        parts.append(f"round {meta['rounds']} of {meta['total_rounds']}")
    parts += [f"{name} {_told(value)}" for name, value in meta["metrics"].items()]
    waits = meta["schedule_history"][-1:] if meta["status"] == "SUBMITTED" else []
    return printable("  ".join([*parts, *waits, *([meta["reason"]] if meta["reason"] else [])]))


def is_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; nothing is imported for it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _terminal() -> Iterator[Show]:
    """Draw a bar and a line; where no terminal is, print a line at each change."""
    from rich.console import Console  # noqa: PLC0415 - a library that only this call needs

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        yield _each_new(lambda text: console.print(text, soft_wrap=True))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, refresh_per_second=_REFRESHED) as progress:
        task = progress.add_task("", total=None)

        def show(meta: JobMeta) -> None:
            total = meta["total_rounds"] or None
            progress.update(task, description=line(meta), total=total, completed=meta["rounds"])

        yield show


@contextmanager
def _notebook() -> Iterator[Show]:
    """Show one table, which each change replaces."""
    from IPython.display import HTML, display  # noqa: PLC0415 - present in notebooks only

    handle = display(HTML(""), display_id=True)  # type: ignore[no-untyped-call, unused-ignore]
    yield lambda meta: handle.update(HTML(panel(meta)))  # type: ignore[no-untyped-call, unused-ignore]


def panel(meta: Mapping[str, Any]) -> str:
    """Return what a notebook shows of a running job, as HTML."""
    bar = f'<progress value="{int(meta["rounds"])}" max="{int(meta["total_rounds"])}"></progress>'
    values = {
        "status": meta["status"],
        "rounds": f"{meta['rounds']} of {meta['total_rounds']}" if meta["total_rounds"] else "",
        **{name: _told(value) for name, value in meta["metrics"].items()},
        "reason": meta["reason"],
    }
    return (bar if meta["total_rounds"] else "") + markup.record(values, title=f"{meta['job_name']} {meta['job_id']}")


def _each_new(say: Callable[[str], None]) -> Show:
    said: list[str] = []

    def show(meta: JobMeta) -> None:
        if [line(meta)] != said[-1:]:
            said.append(line(meta))
            say(said[-1])

    return show


def _told(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.6g}" if is_number else str(value)
