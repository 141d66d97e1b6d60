"""What runs on the machine of a deployed dashboard: `python -m clouddeploy.dashboard.deployed PORT`, in its folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.dashboard import cloud, opening, people, process
from clouddeploy.secrets import Secret

log = logging.getLogger(__name__)
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - the cloud's firewall says who gets here


def main(arguments: list[str], *, here: Path, workspace: Path) -> int:
    """Serves until the process is told to end; returns its exit code.

    Args:
        arguments: the port.
        here: the service's folder, which may be read only.
        workspace: what outlives restarts and releases.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    folder = workspace / "dashboard"
    try:
        opening.make_folder(folder)
        place = folder / "cert"
        place.mkdir(mode=0o700, exist_ok=True)
        for name in ("web.key", "web.crt"):
            write_atomic(place / name, (here / "cert" / name).read_bytes())
        desk = opening.open_desk(folder, passphrase=Secret((here / cloud.PASSPHRASE).read_text(encoding="utf-8")))
        if not people.has_any(desk):
            first = cloud.FirstAdmin.read(here / cloud.CREDENTIAL)
            people.seed(desk, first.email, "", first.org, hashed=first.password_hash)
        process.serve(
            desk, process.Where(_EVERYWHERE, int(arguments[0])), ready=lambda told: log.info("serves at %s", told.url)
        )
    except ClouddeployError as error:
        log.error("%s", error)  # noqa: TRY400 - it says what to do; a trace would hide it
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], here=Path.cwd(), workspace=Path(os.environ["CLOUDDEPLOY_WORKSPACE"])))
