"""Writes the tables of docs/benchmarks.md from what benches have printed with `--output json`.

`scripts/bench page FILE…` keeps each file in docs/measured/, under the name of its bench, and writes every table anew;
without files it only writes. So no number of the page is typed by hand, and whoever reads it can look at the rest.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = "<!-- {name}: written by scripts/bench page -->\n{text}<!-- end of {name} -->\n"
KINDS = {"runtime": "registered_s", "soak": "mib_per_hour", "provision": "sites_500_s", "deploy": "fifty_sites"}
"""Bench → a key that only its result has; of a soak it stands under `must`."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One row of the first table.

    Attributes:
        what: what is measured.
        bench: whose result it comes from.
        path: the keys that lead to the number.
        unit: written after it.
        must: the limit; None: there is none.
        nvflare: NVFLARE 2.9.0 as measured earlier.
        flower: Flower 1.42.0 as measured earlier.
    """

    what: str
    bench: str
    path: str
    unit: str
    must: float | None = None
    nvflare: str = "–"
    flower: str = "–"


ROWS = (
    Row("provision 500 sites, all kits signed", "provision", "sites_500_s", "s", 1, "20.3 s", "–"),
    Row("add site 501", "provision", "add_one_s", "s", 0.3, "15.6 s, 503 kits", "–"),
    Row("`--help`", "runtime", "more.help_s", "s", 0.12, "0.35 s", "0.70 s"),
    Row("start → registered, server and 2 clients", "runtime", "registered_s", "s", 1.5, "6.6 s", "2.3 s"),
    Row("idle client, Pss", "runtime", "idle_client_mib", "MiB", 50, "61–65 MiB", "184 MiB (of 10)"),
    Row("idle client, resident", "runtime", "more.idle_client_rss_mib", "MiB", None, "85 MiB", "256 MiB"),
    Row("3 rounds, tiny model, submit → done", "runtime", "tiny_job_s", "s", 2, "16.5 s", "18.9 s"),
    Row("round, tiny model", "runtime", "tiny_round_s", "s", 0.05, "2.5 s", "5 s"),
    Row("round, 100 MB", "runtime", "round_100mb_s", "s", 0.8, "4.6–6.4 s", "7.0 s"),
    Row("round, 1 GB", "runtime", "round_1gb_s", "s", 6, "31–34 s", "47–60 s"),
    Row("the same bytes by gRPC alone", "runtime", "bare_grpc_1gb_s", "s"),
    Row("the same bytes by TLS alone", "runtime", "bare_tls_1gb_s", "s"),
    Row("peak at the server, 1 GB", "runtime", "server_peak_gib", "GiB", 3.2, "11 GiB", "10.5 GiB"),
    Row("peak at a client, 1 GB, trainer included", "runtime", "client_peak_gib", "GiB", 2.6, "5.8–6.9 GiB", "7 GiB"),
    Row("clients connected to one server", "runtime", "connected_clients", "", None, "25", "10"),
    Row("that server's memory", "runtime", "more.connected_mib", "MiB", 300),
    Row("that server's part of a core", "runtime", "connected_cpu_fraction", "", 0.1),
    Row("all back after the server was killed", "runtime", "more.rejoined_s", "s", 20),
    Row("installed at a site", "runtime", "site_install_mb", "MB", 110, "241 MB", "301 MB"),
    Row("distributions at a site", "runtime", "site_packages", "", 12, "46", "55"),
    Row("50 sites at once, times one site", "deploy", "fifty_sites.ratio", "", 1.3),
)
PEER_ROWS = (
    ("start → registered", "registered_s", "s"),
    ("idle client, Pss", "idle_client_mib", "MiB"),
    ("idle server, Pss", "idle_server_mib", "MiB"),
    ("3 rounds, tiny model, submit → done", "tiny_job_s", "s"),
    ("round, tiny model", "tiny_round_s", "s"),
    ("round, 100 MB", "round_100mb_s", "s"),
)
Results = dict[str, Any]
"""Bench → what it printed; one that has not run is not there."""


def kind_of(document: Mapping[str, Any]) -> str:
    """Return which bench has printed a document; empty: none that is known."""
    keys = {*document, *(document.get("must") or {})}
    return next((kind for kind, key in KINDS.items() if key in keys), "")


def at(document: Any, path: str) -> Any:
    """Return what stands in a document under keys with dots between them; None when it is not there."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _number(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else f"{value:g} {unit}".strip()


def _figures(results: Results) -> str:
    rows = []
    for row in ROWS:
        value = at(results.get(row.bench), row.path)
        over = " **over**" if value is not None and row.must is not None and value > row.must else ""
        must = "" if row.must is None else f"≤ {_number(row.must, row.unit)}"
        rows.append((row.what, _number(value, row.unit) + over, must, row.nvflare, row.flower))
    head = ("", "clouddeploy", "must", "NVFLARE 2.9.0, earlier", "Flower 1.42.0, earlier")
    ratio = at(results.get("runtime"), "more.of_bare_grpc")
    said = f"\nA round of 1 GB takes {ratio:g} times as long as its bytes by gRPC alone.\n" if ratio else ""
    return _table(head, rows) + said


def _peers(results: Results) -> str:
    runtime = results.get("runtime") or {}
    peers = at(runtime, "more.peers") or {}
    measured = {name: values for name, values in peers.items() if isinstance(values, dict)}
    if not measured:
        return "Neither was installed on the machine of this run.\n"
    head = ("", "clouddeploy", *(f"{name} {values['version']}" for name, values in measured.items()))
    rows = []
    for what, key, unit in PEER_ROWS:
        rows.append((what, *(_number(one.get(key), unit) for one in (runtime, *measured.values()))))
    return _table(head, rows)


def _machine(results: Results) -> str:
    rows = []
    for bench, document in sorted(results.items()):
        machine = at(document, "more.machine") or document.get("machine")
        if machine:
            memory = f"{machine['memory_gib']} GiB"
            cells = (f"{machine['cores']} × {machine['processor']}", memory, machine["linux"], machine["python"])
            rows.append((f"`{bench}`", *cells, str(machine["load"])))
    versions = at(results.get("runtime"), "more.versions") or {}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    table = _table(("bench", "processor", "memory", "Linux", "Python", "load before"), rows)
    return table + (f"\n{said}.\n" if said else "")


def _soak(results: Results) -> str:
    soak = results.get("soak")
    if not soak:
        return f"{NOT_MEASURED.capitalize()}.\n"
    rows = []
    for name, one in soak["processes"].items():
        memory = (f"{one[key]:g}" for key in ("first_mib", "last_mib", "mib_per_hour", "growth_percent"))
        rows.append((name, *memory, *(f"{first} → {last}" for first, last in (one["files"], one["threads"]))))
    must, left = soak["must"], {what: count for what, count in soak["left_behind"].items() if count}
    verdict = "passed" if soak["passed"] else f"**not passed**: {'; '.join(soak['reasons'])}"
    said = f"{soak['jobs']} jobs of {soak['rounds']} rounds with {soak['megabytes']:g} MB in {soak['hours']:g} hours: "
    said += f"{verdict}. Left behind: {left or 'nothing'}.\n\n"
    limits = (f"MiB an hour (≤ {must['mib_per_hour']:g})", f"growth in % (≤ {must['growth_percent']:g})")
    return said + _table(("", "first MiB", "last MiB", *limits, "open files", "threads"), rows)


PARTS: dict[str, Callable[[Results], str]] = {
    "figures": _figures,
    "peers": _peers,
    "machine": _machine,
    "soak": _soak,
}


def blocks(results: Results) -> Iterator[tuple[str, str]]:
    """Yield the name and the whole text of each part of the page that is written."""
    for name, part in PARTS.items():
        yield name, BLOCK.format(name=name, text=part(results))


def written(page: str, results: Results) -> str:
    """Return a page with its tables as the results have them.

    Raises:
        SystemExit: it has no place for one of them.
    """
    for name, block in blocks(results):
        begin, _, end = BLOCK.format(name=name, text="\0").partition("\0")
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        if not re.search(pattern, page, re.DOTALL):
            sys.exit(f"the page has no place for the {name}: {begin.strip()} … {end.strip()}")
        page = re.sub(pattern, lambda _, block=block: block, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def kept(folder: Path) -> Results:
    """Return the results in a folder."""
    found = {}
    for kind in KINDS:
        file = folder / f"{kind}.json"
        if file.is_file():
            found[kind] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Keep results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder with benchmarks.md")
    given = parser.parse_args()
    measured: Path = given.docs / "measured"
    measured.mkdir(exist_ok=True)
    for file in given.results:
        document = json.loads(file.read_text(encoding="utf-8"))
        kind = kind_of(document)
        if not kind:
            parser.error(f"{file} is the result of none of {', '.join(KINDS)}")
        (measured / f"{kind}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page: Path = given.docs / "benchmarks.md"
    page.write_text(written(page.read_text(encoding="utf-8"), kept(measured)), encoding="utf-8")
    print(f"{page} has the results of {', '.join(kept(measured)) or 'nothing'}")


if __name__ == "__main__":
    main()
