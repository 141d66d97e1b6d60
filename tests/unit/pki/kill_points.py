"""Make one change of an authority again and again, each time on a fresh copy and killed one step later.

usage: kill_points.py BASE OUT ACTION

OUT gets a folder for each step: the copy as SIGKILL left it. A step is whatever changes the folder: a file opened for
writing, renamed, linked, removed. The last folder is the one whose change was left to end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from clouddeploy_provision import certificate_authority, reference_state
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_runtime.enrolment.formats import Profile

PASSPHRASE = b"correct horse"
ACTIONS = {
    **{
        phase.value: lambda folder, phase=phase: certificate_authority.rollover(folder, phase, passphrase=PASSPHRASE)
        for phase in Phase
    },
    "revoke": lambda folder: certificate_authority.revoke(folder, ["site-1", "site-2"], passphrase=PASSPHRASE),
    "replace": lambda folder: certificate_authority.init(
        Profile("study"), folder, passphrase=PASSPHRASE, version="01", force=True
    ),
    "import": lambda folder: reference_state.import_reference(folder / "cert.json", folder, passphrase=PASSPHRASE),
}
_CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def die_at(step: int, folder: Path) -> None:
    left = step

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        is_write = event == "open" and isinstance(args[2], int) and bool(args[2] & _WRITES)
        if (is_write or event in _CHANGES) and str(folder) in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def attempt(step: int, folder: Path, action: str) -> bool:
    """Tell whether the change came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_at(step, folder)
            ACTIONS[action](folder)
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever happened
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(1)
    return os.WIFEXITED(status)


def main(base: Path, out: Path, action: str) -> None:
    for step in itertools.count(1):
        folder = out / f"{step:03d}"
        shutil.copytree(base, folder)
        if attempt(step, folder, action):
            return


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
