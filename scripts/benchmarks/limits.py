"""Measures what nothing built on gRPC, and nothing built on TLS, can be faster than on this machine.

One server and two clients, each a process, over mutual TLS on 127.0.0.1 with certificates as a federation has them. In
a round each client takes the model and sends it back; nothing is computed, started or kept. `grpc`: raw bytes in
messages of 1 MiB by the asyncio API, into shared memory that was made before. `tls`: the same by a plain TLS stream.
The middle of three rounds, after one that does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bare
from federation import SERVER, SITES, Federation, free_port
from measure import machine, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MEGABYTES, ROUNDS = 1000.0, 3
PROTOCOLS = ("grpc", "tls")


class Part:
    """A process of `bare.py`."""

    def __init__(self, protocol: str, kit: Path, *, port: int, size: int) -> None:
        self.name = f"bare.py {protocol} of {kit.name}"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(bare.__file__)), protocol, str(kit), str(port), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, word: str) -> None:
        """Write it a line."""
        if self.process.stdin:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()

    def hear(self, word: str) -> None:
        """Wait for a line.

        Raises:
            SystemExit: it has ended instead.
        """
        said = self.process.stdout.readline().strip() if self.process.stdout else ""
        if said != word:
            sys.exit(f"{self.name} did not say {word!r} but {said!r}")

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def _parts(protocol: str, kits: Mapping[str, Path], *, size: int) -> Iterator[list[Part]]:
    """Yield the clients, connected; all end with the block."""
    port = free_port()
    with contextlib.ExitStack() as stack:

        def start(name: str, word: str) -> Part:
            part = Part(protocol, kits[name], port=port, size=size)
            stack.callback(part.end)
            part.hear(word)
            return part

        start(SERVER, bare.LISTENS)
        yield [start(name, bare.READY) for name in SITES]


def round_s(protocol: str, kits: Mapping[str, Path], *, megabytes: float, rounds: int = ROUNDS) -> float:
    """Return the seconds in which two clients take a model and send it back, at the same time."""
    times = []
    with _parts(protocol, kits, size=int(megabytes * 1e6)) as clients:
        for _ in range(1 + rounds):
            began = time.perf_counter()
            for client in clients:
                client.tell(bare.GO)
            for client in clients:
                client.hear(bare.READY)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure(folder: Path, *, megabytes: float = MEGABYTES) -> dict[str, float]:
    """Return `bare_grpc_1gb_s` and `bare_tls_1gb_s`, of whatever size."""
    kits = Federation(folder).kits
    return {f"bare_{one}_1gb_s": round(round_s(one, kits, megabytes=megabytes), 3) for one in PROTOCOLS}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = measure(Path(name) / "limits", megabytes=given.megabytes)
    results = {"megabytes": given.megabytes, **found, "machine": machine()}
    show(results, [("", "s"), *((key, str(value)) for key, value in found.items())], as_json=given.output == "json")


if __name__ == "__main__":
    main()
