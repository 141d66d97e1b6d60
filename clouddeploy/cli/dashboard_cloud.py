"""`dashboard start --cloud`: the dashboard on a machine of its own in a cloud, deployed as every site is."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.deploy import plan_text, show_applied
from clouddeploy.deployment import Deployment
from clouddeploy.rehearse import load_endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy.cli.main import Session

OPTIONS = ("cloud", "sources", "place", "size", "names", "ssh_sources", "endpoints", "yes")


def start(
    session: Session, folder: Path, wanted: Mapping[str, Any], *, secrets: Callable[[], tuple[str, str, str]]
) -> None:
    """Writes the deploy file and applies it; safe to repeat.

    Args:
        session: of the command.
        folder: for the deploy file, the service and the deployment's keys and state.
        wanted: what `OPTIONS` name.
        secrets: asks for passphrase and first admin; returns the password that was made, too.
    """
    from clouddeploy.dashboard import cloud  # noqa: PLC0415 - an extra, and slow to load

    wish = cloud.Wish(
        wanted["cloud"],
        tuple(wanted["sources"]),
        place=wanted["place"] or "",
        size=wanted["size"] or "",
        ssh_sources=tuple(wanted["ssh_sources"]),
        names=tuple(wanted["names"]),
    )
    chosen: tuple[str, str] | None = None
    made = ""
    if cloud.is_new(folder):
        passphrase, credential, made = secrets()
        chosen = (passphrase, credential)
    written = cloud.write(folder, wish, secrets=chosen, now=datetime.now(UTC))
    if made:
        session.output.say(f"Password of the project admin, shown this once: {made}")
    more = ["--endpoints", str(wanted["endpoints"])] if wanted["endpoints"] else []
    destroy = shlex.join(["clouddeploy", "destroy", str(written.file), *more])
    deployment = Deployment(written.file, endpoints=load_endpoints(wanted["endpoints"]), cancel=session.cancel)
    if not wanted["yes"]:
        planned = deployment.plan()
        if planned.work_left:
            session.output.say(plan_text(planned))
            confirm(session, "Go on?")
    session.output.say(f"Everything that is made from here on is deleted by: {destroy}")
    applied = deployment.apply(on_event=session.output.event)
    address = deployment.recorded().resources[f"{cloud.SITE}/machine"].ref.outputs.get("address", "")
    url = f"https://{address}:{cloud.PORT}/"
    mark = written.identity.fingerprint
    text = f"\n\nThe dashboard is at {url}\nSHA-256 of its certificate: {mark}\nDelete all of it: {destroy}"
    show_applied(session, applied, {"url": url, "fingerprint": mark, "file": str(written.file), "password": made}, text)
