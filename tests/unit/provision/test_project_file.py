"""Project files: the reference's are read unchanged; a bad one is told all that is wrong with it, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.errors import ProjectFileError
from clouddeploy_runtime.errors import ExitCode

BUILDERS = "builders:\n  - path: nvflare.lighter.impl.cert.CertBuilder\n"
SERVER = "  - {name: server1, type: server, org: nvidia}\n"
EXAMPLES = Path(__file__).parents[3] / "examples"


def problems(path: Path, text: str) -> list[str]:
    """Return `line: participant: key: rule` of every problem."""
    file = path / "project.yml"
    file.write_text(text)
    with pytest.raises(ProjectFileError) as caught:
        project.load(file)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    return [f"{one.line}: {one.participant}: {one.key}: {one.rule}" for one in caught.value.problems]


def whole(participants: str, *, name: str = "p", builders: str = BUILDERS, more: str = "") -> str:
    return f"api_version: 3\nname: {name}\n{more}participants:\n{participants}{builders}"


def test_reference_file_is_read_unchanged(dummy):
    assert dummy.name == "example_project"
    assert dummy.server.hosts == ("localhost", "127.0.0.1")
    assert dummy.port == 8002
    assert [one.name for one in dummy.clients] == ["site-1", "site-2"]
    assert {"project_admin", "lead"} == {one.role for one in dummy.admins}
    assert {"localhost"} == {one.host for one in dummy.clients}


def test_example_is_valid():
    assert project.load(EXAMPLES / "hybrid" / "project.yml").name == "breast_cancer"


def test_api_version_4_header_is_read(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(whole(SERVER).replace("api_version: 3", "api_version: 4"))
    assert project.load(file).server.name == "server1"


def test_all_problems_are_told_at_once(tmp_path):
    text = whole(
        "  - {name: s1, type: server, org: o, fed_learn_port: 99999}\n"
        "  - {name: s2, type: server, org: o}\n"
        "  - name: site 1\n    type: client\n    org: 12\n    foo: 1\n"
        "  - {name: a@b.com, type: admin, org: o, role: super}\n"
        "  - {name: a@b.com, type: admn, org: o}\n",
        more="colour: red\n",
        builders="builders: [{path: x.Y}]\n",
    )
    found = problems(tmp_path, text)
    expected = [
        "3: : colour: unknown key",
        "5: s1: participants[0].fed_learn_port: must be 1 to 65535, not 99999",
        "6: s2: participants[1].type: exactly one participant may be of type server",
        "7: site 1: participants[2].name: must have letters, digits, hyphens and underscores only, not 'site 1'",
        "9: site 1: participants[2].org: must be text, not 12",
        "10: site 1: participants[2].foo: unknown key",
        "11: a@b.com: participants[3].role: must be 'project_admin', 'org_admin', 'lead' or 'member', not 'super'",
        "12: a@b.com: participants[4].name: duplicate participant, a@b.com stands in line 11 already",
        "12: a@b.com: participants[4].type: must be one of server, client, relay, admin, overseer, not 'admn'",
        "13: : builders[0].path: unknown builder x.Y",
    ]
    assert len(expected) == len(found)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_missing_file(tmp_path):
    with pytest.raises(ProjectFileError, match="No such file"):
        project.load(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: [1,\n", "2: : : is not YAML"),
        ("- 1\n", "1: : : must be a mapping"),
        ("", "1: : : must be a mapping"),
        ("a: 2026-13-99\n", "0: : : holds a value that is none"),
    ],
)
def test_what_is_no_mapping(tmp_path, text, start):
    assert problems(tmp_path, text)[0].startswith(start)


def test_nested_aliases_are_refused_before_they_fill_memory(tmp_path):
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert "more nodes" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("participants", "part"),
    [
        ("  - {name: site-1, type: client, org: o}\n", "missing server"),
        (SERVER + "  - {type: client, org: o}\n", "participants[1].name: is missing"),
        (SERVER + "  - {name: a@b.com, type: admin, org: o}\n", "participants[1].role: is missing"),
        (SERVER + "  - {name: a, type: admin, org: o, role: lead}\n", "must be an e-mail address"),
        (SERVER + '  - {name: "site-1\\n", type: client, org: o}\n', "must have letters"),
        (SERVER + "  - {name: r1, type: relay, org: o, listening_host: {port: 1}}\n", "relays are not yet supported"),
        (SERVER + "  - {name: c, type: client, org: o, parent: d}\n", "is not yet supported"),
        (SERVER + "  - {name: c, type: client, org: o, connection_security: clear}\n", "only mtls is supported"),
        (SERVER + "  - {name: c, type: client, org: o, connect_to: {host: a, prt: 1}}\n", "prt: unknown key"),
        ("  - {name: s, type: server, org: o, fed_learn_port: '8002'}\n", "fed_learn_port"),
        ("  - {name: s, name: t, type: server, org: o}\n", "name: stands here twice"),
    ],
)
def test_one_bad_value(tmp_path, participants, part):
    found = problems(tmp_path, whole(participants))
    assert any(part in one for one in found), found


@pytest.mark.parametrize(
    ("builders", "part"),
    [
        ("", "builders: is missing"),
        ("builders: []\n", "builders: "),
        ("builders: [{path: nvflare.lighter.impl.he.HEBuilder}]\n", "is not yet supported"),
        ("builders: [{path: nvflare.lighter.impl.cert.CertBuilder, args: {days: 1}}]\n", "unknown argument"),
        ("builders: [{path: nvflare.lighter.impl.cert.CertBuilder, args: {root_valid_days: 0}}]\n", "1 or more"),
        ("builders: [{path: nvflare.lighter.impl.static_file.StaticFileBuilder, args: {scheme: x}}]\n", "one of grpc"),
    ],
)
def test_bad_builders(tmp_path, builders, part):
    found = problems(tmp_path, whole(SERVER, builders=builders))
    assert any(part in one for one in found), found


def test_overseer_is_ignored(tmp_path, caplog):
    file = tmp_path / "p.yml"
    file.write_text(whole(SERVER + "  - {name: o, type: overseer, org: o, protocol: https, api_root: /x}\n"))
    assert [one.name for one in project.load(file).participants] == ["server1"]
    assert "obsolete" in caplog.text


def test_connect_to_moves_one_client(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(whole(SERVER + "  - {name: c, type: client, org: o, connect_to: {host: 10.0.0.1, port: 9}}\n"))
    client = project.load(file).clients[0]
    assert (client.host, client.port) == ("10.0.0.1", 9)
