"""Mutated job archives and job files are jobs or refused; nothing else comes out, and nothing is left behind."""

from __future__ import annotations

import io
import json
import random
import zipfile

import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import ClouddeployError

from tests.integration.federation import tiny_job

CONTENTS = (
    b"",
    b"\xff",
    b"null",
    b"0",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"a": 1e999}',
    b'"\\ud800"',
    b"a.b=${a.b}",
)
NAMES = ("../x", "/etc/x", "a/../../x", "a/./b", "con", "x" * 3000, "a\\b", "ü/x", "app", "META.JSON", "a\0b", " ")
VALUES = (None, True, "", "x", "@ALL", "../..", -1, 0, 1.5, 1 << 70, [], [1], [["x"]], {}, {"@ALL": 1}, {"x": {}})


def mutated(chance, raw):
    changed = bytearray(raw)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if place < len(changed):
                changed[place] = chance.randrange(256)
            case 1:
                changed.insert(place, chance.randrange(256))
            case 2:
                del changed[place : place + chance.randint(1, 40)]
            case _:
                changed[place:place] = chance.randbytes(4)
    return bytes(changed)


def rezipped(chance, archive):
    """Return the archive with the name or the content of one of its files changed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(whole, "w") as target:
        entries = source.infolist()
        chosen = chance.choice(entries)
        for entry in entries:
            name, content = entry.filename, source.read(entry)
            if entry is chosen and chance.random() < 0.3:
                name = chance.choice(NAMES)
            elif entry is chosen and name.endswith(".json") and chance.random() < 0.6:
                document = json.loads(content)
                document[chance.choice([*document, "custom_props", "mandatory_clients"])] = chance.choice(VALUES)
                content = json.dumps(document).encode()
            elif entry is chosen:
                content = chance.choice([*CONTENTS, mutated(chance, content)])
            target.writestr(name, content)
    return whole.getvalue()


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.nightly)])
@pytest.mark.fault("mutated job archives and job files", "jobs or refusals, nothing left behind")
def test_a_mutated_archive_is_a_job_or_refused(tmp_path, count):
    chance = random.Random(count)  # noqa: S311 - the same archives each time
    archive = jobs.pack(tiny_job(tmp_path / "job"))
    refused = 0
    for number in range(count):
        folder = tmp_path / "inbox" / str(number)
        try:
            jobs.unpack(chance.choice((mutated, rezipped))(chance, archive), folder)
        except ClouddeployError:
            assert not folder.exists()
            refused += 1
            continue
        try:
            jobs.load(folder)
        except ClouddeployError:
            refused += 1
    assert count // 4 < refused < count
    assert {path.name for path in tmp_path.iterdir()} <= {"job", "inbox"}
