"""Kills runs of provisioning with SIGKILL, each at another write, and looks at what the next run makes of it.

Run by test_provision_kills.py as a program of its own, since it forks: kill_provisioning.py SCENARIO HOW_MANY
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from clouddeploy_provision import certificate_authority
from clouddeploy_provision.builders.catalogue import Step
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.kit import Kind

PASSPHRASE = b"x"
PROJECT = Project(
    "study",
    "",
    (
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-2", "org_b", host="127.0.0.1", port=8002),
    ),
)
MORE = dataclasses.replace(
    PROJECT,
    participants=(*PROJECT.participants, Participant(Kind.CLIENT, "site-3", "org_b", host="127.0.0.1", port=8002)),
)
ZIPPED = dataclasses.replace(PROJECT, builders=(Step("nvflare.lighter.impl.zip.ZipBuilder"),))
RENEWED = Options(renewal=Renewal(frozenset({"site-1", "site-2"}), new_key=True))
SCENARIOS: dict[str, tuple[Project | None, Project, Options]] = {
    "first run": (None, PROJECT, Options()),
    "a site more": (PROJECT, MORE, Options(start_script=True)),
    "renewal after a revocation": (PROJECT, PROJECT, RENEWED),
    "archives": (PROJECT, ZIPPED, Options()),
}
"""Name → what was provisioned before, what is provisioned when the kill comes."""
_EVENTS = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}


class Counter:
    """Counts what changes the file system and dies at the nth, a write half done; all else before it begins."""

    def __init__(self, at: int) -> None:
        self.seen = 0
        self._at = at
        self._write = os.write

    def install(self) -> None:
        """Watch this process for good."""
        sys.addaudithook(self._on_event)
        os.write = self._half_write

    def _on_event(self, event: str, given: tuple[Any, ...]) -> None:
        if event not in _EVENTS or (event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        self._count()

    def _half_write(self, handle: int, data: bytes) -> int:
        if self.seen + 1 == self._at:
            self._write(handle, data[: len(data) // 2])
        self._count()
        return self._write(handle, data)

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(folder: Path, project: Project, options: Options, *, kill_at: int) -> int:
    """Provision in a process that dies at a point; 0: at none. Returns how many points it came past, -1: killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        counter = Counter(kill_at)
        counter.install()
        provision(project, folder, passphrase=PASSPHRASE, options=options)
        seen, counter._at = counter.seen, 0
        os.write(writer, str(seen).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status):
        return -1
    if status or not said:
        raise SystemExit(f"the run failed with {status}")
    return int(said)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return path → mode and content of the results."""
    files = (path for result in folder.glob("study/prod_*") for path in result.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes()) for path in files}


def faults(folder: Path, project: Project, before: dict[str, tuple[int, bytes]], options: Options) -> list[str]:
    """Say what is wrong after a kill and another run."""
    home, names = folder / "study", {one.name for one in project.participants}
    changed_by_kill = before.items() - contents(folder).items()
    killed = {path.name for path in home.glob("prod_*")}
    report = provision(project, folder, passphrase=PASSPHRASE, options=options)
    known = {one.serial for one in CaStore(home / "state").records.issued()}
    wrong = {
        "an earlier result was changed by the kill": bool(changed_by_kill),
        "an earlier result was changed by the next run": bool(before.items() - contents(folder).items()),
        "something unfinished is left": (home / "wip").exists(),
        "a result was written twice": report.result.name in killed,
    }
    found = [what for what, is_so in wrong.items() if is_so]
    for result in sorted(home.glob("prod_*")):
        if not any(path.startswith(f"study/{result.name}/") for path in before):
            kits = {path.name for path in result.iterdir() if path.is_dir()}
            found += [f"{result.name} has only {sorted(kits)}"] if kits != names else []
            found += [text for name in sorted(kits) if (text := fault(result / name, known))]
    after = provision(project, folder, passphrase=PASSPHRASE)
    return [*found, *(["the run after that made something anew"] if len(after.kept) != len(names) else [])]


def fault(root: Path, known: set[str]) -> str:
    """Say what is wrong with a kit; empty: nothing."""
    try:
        serial = kit.verify(root).certificate_serial
    except kit.KitError as exc:
        return f"{root}: {exc}"
    return "" if serial in known else f"nobody knows of the certificate in {root}"


def main(scenario: str, how_many: int) -> None:
    """Print what happened, as JSON."""
    earlier, project, options = SCENARIOS[scenario]
    with tempfile.TemporaryDirectory() as place:
        base = Path(place, "base")
        base.mkdir()
        if earlier is not None:
            provision(earlier, base, passphrase=PASSPHRASE)
        if "revocation" in scenario:
            certificate_authority.revoke(base / "study/state", ["site-1"], passphrase=PASSPHRASE)
        total = in_a_process(Path(shutil.copytree(base, Path(place, "count"))), project, options, kill_at=0)
        step = max(1, total / how_many)
        points = sorted({round(step * number) for number in range(1, how_many + 1)} | {1, total})
        wrong: dict[int, list[str]] = {}
        tried = 0
        for point in (one for one in points if 1 <= one <= total):
            folder = Path(shutil.copytree(base, Path(place, str(point))))
            before = contents(folder)
            if in_a_process(folder, project, options, kill_at=point) != -1:
                continue  # threads took another order and there was one step less
            tried += 1
            # Without the renewal: what was revoked needs a new key still, if the kill came before it had one.
            again = options if "revocation" in scenario else Options()
            problems = faults(folder, project, before, again)
            if problems:
                wrong[point] = problems
            shutil.rmtree(folder)
    sys.stdout.write(json.dumps({"points": total, "tried": tried, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
