"""What tests read out of the pages in docs/."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs"
_FILE = re.compile(r"^`([a-z]+/[^`]+)`\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    return re.split(r"^#+ ", page(name).split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text: rows of cells, without the heads."""
    found = re.findall(r"^\|[^\n]*\n\|-[^\n]*\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()] for rows in found]


def documented_job(target: Path, source: str = "job-format.md") -> Path:
    """Write the job of a page, as a rule that on the job format, into a folder."""
    files = _FILE.findall(page(source))
    assert len(files) == 5
    for name, content in files:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return target / files[0][0].partition("/")[0]
