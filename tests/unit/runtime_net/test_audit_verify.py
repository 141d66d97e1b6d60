"""One verifier reads every audit log, with what was set aside of it, and names the first line that does not fit."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime import audit, audit_chain, cli
from clouddeploy_runtime.audit_chain import AuditBroken, Verified, verify

ENTRIES = 12


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "audit.jsonl"
    for number in range(ENTRIES):
        log = audit.AuditLog(file, max_bytes=1100)
        log.record(user="ann", role="lead", action=f"a{number}", address="::1", allowed=True, reference="0123")
    assert [one.name for one in audit_chain.files_of(file)] == [
        "audit.jsonl.3",
        "audit.jsonl.2",
        "audit.jsonl.1",
        file.name,
    ]
    return file


def lines_of(file):
    return file.read_text().splitlines()


def write(file, lines):
    file.write_text("".join(f"{line}\n" for line in lines))


def last_hash(file):
    return json.loads(lines_of(file)[-1])["hash"]


def test_all_files_are_counted_as_one_log(path):
    assert verify(path) == Verified(ENTRIES + 3, last_hash(path)), "each file after the first begins with an entry"
    assert verify(path.with_name("audit.jsonl.2")).last_hash == last_hash(path.with_name("audit.jsonl.2"))


def changed(lines):
    lines[1] = lines[1].replace("ann", "eve")


def removed(lines):
    del lines[1]


def reordered(lines):
    lines[1], lines[2] = lines[2], lines[1]


def inserted(lines):
    lines.insert(1, lines[1])


def without_its_head(lines):
    del lines[0]


def forged(lines):
    entry = json.loads(lines[1]) | {"user": "eve"}
    del entry["hash"]
    lines[1] = json.dumps({**entry, "hash": audit_chain.digest(entry["previous"], entry)})


@pytest.mark.parametrize("name", ["audit.jsonl.3", "audit.jsonl.2"])
@pytest.mark.parametrize(
    ("change", "line"),
    [(changed, 2), (removed, 2), (reordered, 2), (inserted, 3), (without_its_head, 1), (forged, 3)],
)
def test_what_somebody_did_to_a_file_shows_with_its_line(path, name, change, line):
    file = path.with_name(name)
    lines = lines_of(file)
    change(lines)
    write(file, lines)
    if change is forged and len(lines) < line:
        file, line = path.with_name(f"audit.jsonl.{int(name[-1]) - 1}"), 1
    with pytest.raises(AuditBroken) as caught:
        verify(path)
    assert f"{file} is broken at line {line}" in str(caught.value)


@pytest.mark.parametrize("gone", ["audit.jsonl.3", "audit.jsonl.2", "audit.jsonl.1"])
def test_a_file_that_was_taken_away_shows(path, gone):
    path.with_name(gone).unlink()
    with pytest.raises(AuditBroken) as caught:
        verify(path)
    assert "it goes on from a file that is not there" in str(caught.value)


def test_a_copy_without_the_older_files_is_a_part(path, tmp_path):
    copy = tmp_path / "copy" / "audit.jsonl"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    with pytest.raises(AuditBroken, match="goes on from a file"):
        verify(copy)
    assert verify(copy, is_part=True).last_hash == last_hash(path)
    write(copy, lines_of(copy)[1:])
    with pytest.raises(AuditBroken, match="broken at line 1"):
        verify(copy, is_part=True)


def test_when_the_tenth_file_pushes_out_the_oldest_the_rest_is_whole(tmp_path):
    path = tmp_path / "audit.jsonl"
    for number in range(60):
        audit.AuditLog(path, max_bytes=1000).record(user="ann", role="", action=f"a{number}", address="", allowed=True)
    assert verify(path).entries > 20
    assert len(audit_chain.files_of(path)) == audit_chain.KEPT + 1
    path.with_name("audit.jsonl.9").unlink()
    with pytest.raises(AuditBroken, match="goes on from a file"):
        verify(path)


def test_a_cut_end_shows_to_whoever_kept_a_hash(path):
    known = last_hash(path)
    assert verify(path, known=known)
    write(path, lines_of(path)[:-1])
    assert verify(path).entries == ENTRIES + 2
    with pytest.raises(AuditBroken, match="does not hold the entry"):
        verify(path, known=known)


def test_entries_of_before_there_were_references_are_read(tmp_path):
    path = tmp_path / "audit.jsonl"
    entry = {"time": "t", "user": "ann", "role": "lead", "action": "look", "address": "", "result": "allowed"}
    entry |= {"detail": "", "previous": audit_chain.FIRST}
    entry["hash"] = audit_chain.digest(audit_chain.FIRST, entry)
    write(path, [json.dumps(entry)])
    audit.AuditLog(path).record_end(user="ann", role="lead", action="look", address="", reference="r", code="FAILED")
    assert verify(path).entries == 2
    assert audit.first_broken_line(path) is None
    last = json.loads(lines_of(path)[-1])
    assert (last["result"], last["code"], last["reference"]) == ("failed", "FAILED", "r")


def test_how_it_ended_is_an_entry_of_its_own(tmp_path):
    path = tmp_path / "audit.jsonl"
    audit.AuditLog(path).record_end(user="ann", role="lead", action="abort_job j", address="::1", reference="r")
    (line,) = lines_of(path)
    assert json.loads(line)["result"] == "done"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"[" * 60_000 + b"\n"])
def test_what_is_no_log_is_broken(tmp_path, content):
    path = tmp_path / "audit.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AuditBroken):
        verify(path)


def test_a_site_verifies_its_log_itself(path, capsys):
    assert cli.main(["audit", "verify", str(path), "--known-hash", last_hash(path)]) == 0
    assert f"{ENTRIES + 3} entries, the chain is whole" in capsys.readouterr().out
    write(path, lines_of(path)[1:])
    assert cli.main(["audit", "verify", str(path)]) == 1
    assert "is broken at line 1" in capsys.readouterr().err
