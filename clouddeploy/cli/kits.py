"""What every command of an admin has in common: whose kit it uses, and the session that it opens with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clouddeploy import admin_kits
from clouddeploy.cli.main import end_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.admin.session import AdminSession

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_STUDY = "default"


class Opening:
    """Opens sessions. A test gives another one as the command's `obj`."""

    def session(self, folder: Path, *, timeout_s: float, study: str) -> AdminSession:
        """Returns a session of the admin whose kit this is, not connected yet.

        Raises:
            KitError: the kit cannot be used, or is not as it was signed.
        """
        from clouddeploy_runtime import kit  # noqa: PLC0415 - grpc is not wanted for --help
        from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415

        kit.verify(folder)
        return AdminSession(kit.load(folder), timeout_s=timeout_s, study=study)


@dataclass(frozen=True)
class Admin:
    """Who gives a command, as its options say."""

    kit_id: str = ""
    startup_kit: Path | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    study: str = DEFAULT_STUDY

    def kit(self) -> Path:
        """Returns the kit's folder; see `admin_kits.choose`."""
        return admin_kits.choose(kit_id=self.kit_id, startup_kit=self.startup_kit)

    def open(self) -> AdminSession:
        """Returns a session for a `with` statement; Ctrl-C ends whatever waits in it, and logs out."""
        end_at_once()
        opening = click.get_current_context().find_object(Opening) or Opening()
        return opening.session(self.kit(), timeout_s=self.timeout_s, study=self.study)


def admin_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--kit-id`, `--startup-kit`, `--connect-timeout` and `--study`, and gives the command `admin`."""

    @click.option("--kit-id", default="", help="An admin's startup kit, by its name in `config`.")
    @click.option(
        "--startup-kit",
        type=click.Path(path_type=Path),
        help=f"Its folder; default: ${admin_kits.VARIABLES[0]}, else the active one of `config`.",
    )
    @click.option(
        "--connect-timeout",
        "connect_timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        help="Seconds for connecting, and for each answer; default: 10.",
    )
    @click.option("--study", default=DEFAULT_STUDY, help="The study to work in; default: the one of everybody.")
    @wraps(function)
    def wrapped(
        *args: Any, kit_id: str, startup_kit: Path | None, connect_timeout_s: float, study: str, **kwargs: Any
    ) -> None:
        admin = Admin(kit_id=kit_id, startup_kit=startup_kit, timeout_s=connect_timeout_s, study=study)
        function(*args, admin=admin, **kwargs)

    return wrapped
