"""Files that a project file includes, and files with one further participant: read as if they stood there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.errors import Problem, ProjectFileError

SERVER = "  - {name: server1, type: server, org: o}\n"
BUILDERS = "builders: [{path: nvflare.lighter.impl.cert.CertBuilder}]\n"
REST = f"participants:\n{SERVER}{BUILDERS}"


def write(folder: Path, **files: str) -> Path:
    """Write files (`parts__who` is parts/who.yml) and return the project file."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    return folder / "project.yml"


def refused(file: Path, **options) -> tuple[Problem, ...]:
    with pytest.raises(ProjectFileError) as caught:
        project.load(file, **options)
    return caught.value.problems


def test_a_file_of_a_file(tmp_path):
    file = write(
        tmp_path,
        project=f"api_version: 3\nname: p\ninclude: [parts/who.yml]\n{BUILDERS}",
        parts__who=f"participants:\n{SERVER}include: deeper/more.yml\n",
        parts__deeper__more="description: from afar\n",
    )
    found = project.load(file)
    assert (found.server.name, found.description) == ("server1", "from afar")


def test_inside_a_participant(tmp_path):
    file = write(
        tmp_path,
        project=f"api_version: 3\nname: p\nparticipants:\n{SERVER}  - include: site.yml\n    name: site-1\n{BUILDERS}",
        site="type: client\norg: o\ncapacity:\n  include: gpus.yml\n",
        gpus="num_of_gpus: 3\n",
    )
    assert project.load(file).clients[0].gpus == 3


def test_problems_are_shown_in_the_file_where_they_stand(tmp_path):
    file = write(
        tmp_path,
        project="api_version: 3\nname: p\ninclude: who.yml\nbuilders: 5\nparticipants:\n"
        f"{SERVER}  - include: site.yml\n",
        who="# a comment\n\ndescription: 5\n",
        site="\ntype: client\nname: site-1\norg: o\n\ncapacity:\n  num_of_gpus: -1\nfoo: 1\ntype: relay\n",
    )
    found = [(Path(one.file).name, one.line, one.participant, one.key) for one in refused(file)]
    assert sorted(found) == [
        ("project.yml", 4, "", "builders"),
        ("site.yml", 7, "site-1", "participants[1].capacity.num_of_gpus"),
        ("site.yml", 8, "site-1", "participants[1].foo"),
        ("site.yml", 9, "site-1", "participants[1].type"),
        ("who.yml", 3, "", "description"),
    ]


def test_a_key_in_both_files_is_refused_with_both_places(tmp_path):
    file = write(tmp_path, project=f"api_version: 3\nname: p\n{REST}include: who.yml\n", who="\nname: q\n")
    (problem,) = refused(file)
    assert (Path(problem.file).name, problem.line, problem.key) == ("who.yml", 2, "name")
    assert problem.rule == f"stands in {file}:2 already; keep one of the two"


def test_a_key_in_two_included_files_is_refused_with_both_places(tmp_path):
    one = "description: a\n"
    file = write(tmp_path, project=f"api_version: 3\nname: p\n{REST}include: [a.yml, b.yml]\n", a=one, b=f"\n{one}")
    (problem,) = refused(file)
    assert (Path(problem.file).name, problem.line) == ("b.yml", 2)
    assert problem.rule.startswith(f"stands in {tmp_path / 'a.yml'}:1 already")


def test_a_key_twice_in_one_file_is_refused_with_both_lines(tmp_path):
    file = write(tmp_path, project=f"api_version: 3\nname: p\n{REST}name: q\n")
    (problem,) = refused(file)
    assert (problem.line, problem.key, problem.rule) == (6, "name", "stands in line 2 already; keep one of the two")


@pytest.mark.parametrize(
    ("include", "rule"),
    [
        ("/etc/hostname", "is not below the folder"),
        ("../outside.yml", "is not below the folder"),
        ("inner/../../outside.yml", "is not below the folder"),
        ("link.yml", "is not below the folder"),
        ("linked/outside.yml", "is not below the folder"),
        ("none.yml", "there is no such file"),
        ("inner", "there is no such file"),
        ("pipe.yml", "there is no such file"),
        (f"{'a' * 5000}.yml", "there is no such file"),
        ("project.yml", "project.yml includes itself"),
        ("circle.yml", "project.yml includes itself"),
        ("[1]", "must be the name of a file or a list of them"),
        ("''", "must be the name of a file or a list of them"),
        ('"a\\0b"', "must be the name of a file or a list of them"),
        ("{a: b}", "must be the name of a file or a list of them"),
        ("text.yml", "must hold a mapping"),
        ("empty.yml", "must hold a mapping"),
        ("broken.yml", "is not YAML"),
        ("bytes.yml", "is not UTF-8"),
    ],
)
def test_what_cannot_be_included(tmp_path, include, rule):
    folder = tmp_path / "project"
    file = write(
        folder,
        project=f"api_version: 3\nname: p\n{REST}include: {include}\n",
        text="- 1\n",
        empty="",
        broken="a: [\n",
        circle="include: project.yml\n",
        inner__a="{}",
    )
    write(tmp_path, outside="description: secret\n")
    (folder / "link.yml").symlink_to(tmp_path / "outside.yml")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "bytes.yml").write_bytes(b"a: 1\nb: \xff\n")
    os.mkfifo(folder / "pipe.yml")
    found = refused(file)
    assert any(rule in one.rule for one in found), found
    assert all(one.line >= 1 for one in found)
    assert "secret" not in str(found)


def test_a_cycle_is_told_once_and_where_it_closes(tmp_path):
    file = write(
        tmp_path, project=f"include: a.yml\napi_version: 3\nname: p\n{REST}", a="include: b.yml\n", b="include: a.yml\n"
    )
    (problem,) = refused(file)
    assert (Path(problem.file).name, problem.line, problem.key) == ("b.yml", 1, "include")


def test_one_file_may_be_included_at_two_places(tmp_path):
    entry = "  - {name: NAME, type: client, org: o, include: capacity.yml}\n"
    clients = entry.replace("NAME", "a") + entry.replace("NAME", "b")
    file = write(
        tmp_path,
        project=f"api_version: 3\nname: p\nparticipants:\n{SERVER}{clients}{BUILDERS}",
        capacity="capacity: {num_of_gpus: 1}\n",
    )
    assert [one.gpus for one in project.load(file).clients] == [1, 1]


def test_a_client_and_an_admin_from_files_of_their_own(tmp_path):
    file = write(
        tmp_path,
        project=f"api_version: 3\nname: p\n{REST}",
        client="name: site-9\norg: o\ncomponents:\n  resource_manager: {path: x.Y, args: {}}\n",
        user="name: new@a.com\norg: o\nrole: lead\n",
    )
    found = project.load(file, extra=[("client", tmp_path / "client.yml"), ("admin", tmp_path / "user.yml")])
    assert [one.name for one in found.participants] == ["server1", "site-9", "new@a.com"]
    assert any("components is ignored" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("kind", "content", "where", "rule"),
    [
        ("client", "name: a b\norg: o\n", (1, "a b"), "letters, digits, hyphens"),
        ("client", "name: site-9\n\norg: a-b\n", (3, "site-9"), "letters, digits and underscores"),
        ("client", "name: site-9\n", (1, "site-9"), "is missing"),
        ("client", "org: o\nname: site-9\nrole: lead\n", (3, "site-9"), "unknown key"),
        ("client", "name: server1\norg: o\n", (1, "server1"), "server1 stands in line 4 already"),
        ("client", "name: site-9\norg: o\ntype: server\n", (3, ""), "must be client or be left out"),
        ("admin", "name: a@b.com\norg: o\n", (1, "a@b.com"), "is missing"),
        ("admin", "- 1\n", (1, ""), "must describe one admin"),
        ("admin", "", (1, ""), "must describe one admin"),
        ("client", "name: site-9\norg: o\norg: p\n", (3, ""), "stands in line 2 already"),
    ],
)
def test_a_file_of_its_own_that_cannot_be_used(tmp_path, kind, content, where, rule):
    file = write(tmp_path, project=f"api_version: 3\nname: p\n{REST}", one=content)
    (problem,) = refused(file, extra=[(kind, tmp_path / "one.yml")])
    assert (Path(problem.file).name, problem.line, problem.participant) == ("one.yml", *where)
    assert rule in problem.rule
