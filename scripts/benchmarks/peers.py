"""Measures NVFLARE and Flower on this machine as the runtime is measured: start, idle memory, small jobs.

They are taken from the Pythons that `--peer-python` names, one environment each (their requirements may not fit
together); what is in none of them is not measured. NVFLARE runs over mutual TLS with kits of its own `provision`,
started by its own `start.sh`; Flower's SuperLink and SuperNodes run over TLS with a certificate made here. Memory is
that of a participant's processes, of what is shared their part (Pss), as ours is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import watching
import yaml
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from federation import ADMIN, SERVER, SITES, Federation, free_port
from measure import machine, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PEERS = ("nvflare", "flwr")
ABSENT = "not installed here"
START_S, IDLE_S, JOB_S, END_S = 120.0, 5.0, 900.0, 20.0
BUILDERS: dict[str, dict[str, str]] = {
    "workspace.WorkspaceBuilder": {"template_file": "master_template.yml"},
    "static_file.StaticFileBuilder": {"config_folder": "config"},
    "cert.CertBuilder": {},
    "signature.SignatureBuilder": {},
}


class Group:
    """What one participant runs: all processes of a session of the kernel, and what these have started.

    Args:
        words: its command.
        folder: where it runs, with its output in `out`.
        python: whose environment it has first in its PATH.
    """

    def __init__(self, words: Sequence[str], folder: Path, *, python: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out = folder / "out"
        environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(folder)}
        environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(folder / ".flwr")}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pids(self) -> set[int]:
        """Return the processes that live."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found |= set(watching.processes(int(path.parent.name)))
        return found

    def memory_mib(self, kind: str = "Pss") -> float:
        """Return their memory."""
        return round(sum(watching.own_memory(pid, kind) for pid in self.pids()) / watching.MIB, 1)

    def end(self) -> None:
        """Kill them all, also what a supervisor starts meanwhile."""
        end = time.monotonic() + END_S
        while (pids := self.pids()) and time.monotonic() < end:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def _groups() -> Iterator[dict[str, Group]]:
    groups: dict[str, Group] = {}
    try:
        yield groups
    finally:
        for group in groups.values():
            group.end()


def version_in(python: Path, name: str) -> str:
    """Return the version of a distribution in a Python's environment; empty when it is not there."""
    program = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _idle(groups: dict[str, Group]) -> dict[str, float]:
    time.sleep(IDLE_S)
    found = {}
    for what, name in (("server", SERVER), ("client", SITES[0])):
        found[f"idle_{what}_mib"] = groups[name].memory_mib()
        found[f"idle_{what}_rss_mib"] = groups[name].memory_mib("Rss")
    return found


# NVFLARE


def nvflare(python: Path, folder: Path, *, megabytes: float) -> dict[str, Any]:
    """Measure NVFLARE."""
    made = _nvflare_kits(python, folder)
    with _groups() as groups:
        began = time.perf_counter()
        for name in (SERVER, *SITES):
            groups[name] = Group(["bash", str(made / name / "startup" / "start.sh")], folder / name, python=python)
        _wait("Successfully registered", [made / name / "log.txt" for name in SITES])
        found: dict[str, Any] = {"registered_s": round(time.perf_counter() - began, 2), **_idle(groups)}
        tiny = _nvflare_job(python, made / ADMIN, folder / "tiny", megabytes=0.001)
        found |= {"tiny_job_s": tiny[0], "tiny_round_s": tiny[1]}
        if megabytes:
            large = _nvflare_job(python, made / ADMIN, folder / "large", megabytes=megabytes)
            found[f"round_{megabytes:g}mb_s"] = large[1]
    return found


def _nvflare_kits(python: Path, folder: Path) -> Path:
    port = free_port()
    server = {"name": SERVER, "type": "server", "org": "hub", "default_host": "127.0.0.1"}
    document = {
        "api_version": 3,
        "name": "bench",
        "description": "a bench",
        "participants": [
            {**server, "fed_learn_port": port, "admin_port": port},
            *({"name": name, "type": "client", "org": "site"} for name in SITES),
            {"name": ADMIN, "type": "admin", "org": "hub", "role": "project_admin"},
        ],
        "builders": [{"path": f"nvflare.lighter.impl.{name}", "args": args} for name, args in BUILDERS.items()],
    }
    folder.mkdir(parents=True)
    (folder / "project.yml").write_text(yaml.safe_dump(document))
    words = ["-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "made", "--force"]
    _run([str(python), *words], folder)
    made = folder / "made" / "bench" / "prod_00"
    local = made / SERVER / "local"
    text = (local / "resources.json.default").read_text()  # it keeps jobs in /tmp/nvflare, for all projects together
    (local / "resources.json").write_text(text.replace("/tmp/nvflare", str(folder / "store")))  # noqa: S108
    return made


def _nvflare_job(python: Path, admin: Path, job: Path, *, megabytes: float) -> tuple[float, float]:
    """Run three rounds; return the seconds of all, and of the middle round but the first."""
    program = Path(__file__).with_name("peer_job.py")
    said = _run([str(python), str(program), str(admin), str(job), str(megabytes), "3"], admin)
    whole_s = float(re.findall(r"^whole_s=(\S+)$", said, re.MULTILINE)[-1])
    lines = [line.split() for line in (job / "received").read_text().splitlines()]
    last = [max(float(at) for at, number in lines if number == one) for one in sorted({line[1] for line in lines})]
    return round(whole_s, 2), round(statistics.median(b - a for a, b in itertools.pairwise(last)), 2)


# Flower


def flwr(python: Path, folder: Path, *, megabytes: float) -> dict[str, Any]:
    """Measure Flower's start and idle memory; a job would take an app of its own."""
    del megabytes
    kit = kits.load(Federation(folder / "made").kits[SERVER])
    port, root = str(free_port()), str(kit.root_cert_file)
    link = ["--ssl-ca-certfile", root, "--ssl-certfile", str(kit.cert_file), "--ssl-keyfile", str(kit.key_file)]
    link += ["--port", port, "--disable-runtime-dependency-installation"]
    node = ["--root-certificates", root, "--superlink", f"127.0.0.1:{port}"]
    with _groups() as groups:
        began = time.perf_counter()
        program = str(python.with_name("flower-superlink"))
        groups[SERVER] = Group([program, *link], folder / SERVER, python=python)
        for name in SITES:
            words = [str(python.with_name("flower-supernode")), *node, "--port", str(free_port())]
            groups[name] = Group(words, folder / name, python=python)
        _wait("SuperNode ID:", [groups[name].out for name in SITES])
        return {"registered_s": round(time.perf_counter() - began, 2), **_idle(groups)}


def _wait(words: str, logs: Sequence[Path]) -> None:
    """Wait until all logs have these words."""

    def is_there(log: Path) -> bool:
        with contextlib.suppress(OSError):
            return words in log.read_text(errors="replace")
        return False

    until(lambda: all(map(is_there, logs)), timeout_s=START_S, what=words)


def _run(words: Sequence[str], folder: Path) -> str:
    """Run a command of a peer to its end; return what it says.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(
        words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=JOB_S
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def measure(pythons: Sequence[Path], folder: Path, *, megabytes: float) -> dict[str, Any]:
    """Return peer → what was measured, or that it is not installed here.

    Args:
        pythons: where to look for them.
        folder: made here.
        megabytes: a model's size for rounds of it; 0: none.
    """
    found: dict[str, Any] = dict.fromkeys(PEERS, ABSENT)
    for name, peer in (("nvflare", nvflare), ("flwr", flwr)):
        for python in pythons:
            version = version_in(python, name)
            if version:
                found[name] = {"version": version, **peer(python, folder / name, megabytes=megabytes)}
                break
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_option(parser)
    parser.add_argument("--megabytes", type=float, default=100, help="of a model, for rounds of it; 0: none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = measure(given.peer_python, Path(name) / "peers", megabytes=given.megabytes)
    rows = [("", "", "measured")]
    for name, values in found.items():
        rows += [(name, key, str(value)) for key, value in ({"": values} if values == ABSENT else values).items()]
    show({**found, "machine": machine()}, rows, as_json=given.output == "json")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where peers are installed."""
    parser.add_argument(
        "--peer-python",
        type=lambda text: Path(text).absolute(),
        action="append",
        default=[Path(sys.executable)],
        metavar="PATH",
        help="a Python that has nvflare or flwr; may be given more than once",
    )


if __name__ == "__main__":
    main()
