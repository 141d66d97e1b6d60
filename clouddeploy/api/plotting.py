"""A job's metrics over its rounds, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import printable

from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import CommandError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


class MetricCalls(Connection):
    """What a session knows of a job's finished rounds."""

    def get_job_rounds(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's finished rounds, the last thousand at most, while it runs and later.

        Each has `round` from 1, `total_rounds`, `seconds`, `metrics`, `bytes_down`, `bytes_up`, `answered`, `failed`
        and `reasons`.

        Raises:
            JobNotFound: there is none of this id.
        """
        with self._calling() as admin:
            return [asdict(one) for one in admin.job_rounds(job_id)]

    def plot_metrics(self, job_id: str, metrics: Sequence[str] | None = None, ax: Any = None) -> Any:
        """Draw a job's metrics over its rounds; needs matplotlib (`pip install 'clouddeploy[notebook]'`).

        Args:
            job_id: the job, running or ended.
            metrics: which ones; None: all.
            ax: matplotlib's axes to draw into; None: new ones.

        Returns:
            The axes.

        Raises:
            CommandError: matplotlib is not installed.
            InvalidArgumentError: the job has no such metric yet.
            JobNotFound: there is none of this id.
        """
        rounds = self.get_job_rounds(job_id)
        known = dict.fromkeys(name for one in rounds for name in one["metrics"])
        wanted = list(known) if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
        missing = [name for name in wanted if name not in known]
        if missing or not wanted:
            raise InvalidArgumentError(
                f"There is no metric {', '.join(missing) or 'to draw'}",
                why=f"of {len(rounds)} rounds, the job has reported {', '.join(known) or 'none'}",
                hint="Name one that it reports, or wait for its first round.",
            )
        axes = _axes() if ax is None else ax
        for name in wanted:
            # A gap is where it was no number; matplotlib leaves it out.
            values = [one["metrics"].get(name) for one in rounds]
            axes.plot(
                [one["round"] for one in rounds], [float("nan") if v is None else v for v in values], label=_label(name)
            )
        axes.set_xlabel("round")
        axes.legend()
        return axes


def _label(name: str) -> str:
    """Return a name that a job gave as matplotlib's text: a dollar sign would begin a formula."""
    return printable(name).replace("$", r"\$")


def _axes() -> Any:
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - an extra
    except ImportError as exc:
        error = CommandError(
            "There is nothing to draw with",
            why="matplotlib is not installed",
            hint="pip install 'clouddeploy[notebook]'",
        )
        error.error_code = "NOT_INSTALLED"
        raise error from exc
    return plt.subplots()[1]
