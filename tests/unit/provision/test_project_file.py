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
        "5: s1: participants[0].fed_learn_port: must be a port, 1 to 65535, not 99999",
        "6: s2: participants[1].type: exactly one participant may be of type server",
        "7: site 1: participants[2].name: must have letters, digits, hyphens and underscores only, and no",
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
        ("a: 2026-13-99\n", "1: : a: is no timestamp, although it looks like one; put it into quotes"),
        ("\na: !!bool maybe\n", "2: : a: is no bool"),
        ("a:\n- b: !!float x\n", "2: : a[0].b: is no float"),
        ("a: 1\nb: " + "9" * 5000, "2: : b: is no int"),
        ("a: 1\n? [a]\n: 1\n", "2: : : a key must be text"),
        ("a: 1\n<<: {b: 1}\n", "2: : <<: merge keys are not supported; write the keys out"),
        ("a: 1\nb: &b [*b]\n", "2: : : is more than 50 levels deep"),
        ("a: 1\nb: \0\n", "2: : : is not YAML: control characters are not allowed"),
        ("a: 1\nb: !!python/object:os.system x\n", "2: : : is not YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "2: : : is not YAML: but found another document"),
        ("a: 1\n\tb: 2\n", "2: : : is not YAML: found a tab character that violates indentation"),
    ],
)
def test_what_no_yaml_parser_or_no_project_can_take(tmp_path, text, start):
    found = problems(tmp_path, text)
    assert any(one.startswith(start) for one in found), found


def test_nested_aliases_are_refused_before_they_fill_memory(tmp_path):
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert "more nodes" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("participants", "part"),
    [
        ("  - {name: site-1, type: client, org: o}\n", "missing server"),
        (SERVER + "  - {type: client, org: o}\n", "1].name: is missing"),
        (SERVER + "  - {name: site-1, org: o}\n", "1].type: is missing; it must be one of server, client"),
        (SERVER + "  - {name: site-1, type: client}\n", "1].org: is missing"),
        (SERVER + "  - {name: a@b.com, type: admin, org: o}\n", "1].role: is missing"),
        (SERVER + "  - {name: r1, type: relay, org: o}\n", "1].listening_host: is missing"),
        (SERVER + "  - {name: site-1, type: [], org: o}\n", "1].type: must be one of server, client"),
        (SERVER + "  - {name: [], type: client, org: o}\n", "1].name: must be text, not []"),
        (SERVER + "  - site-1\n", "1]: must be a mapping with name, type and org, not 'site-1'"),
        (SERVER + '  - {name: "site-1\\n", type: client, org: o}\n', "must have letters"),
        (SERVER + "  - {name: server1, type: client, org: o}\n", "server1 stands in line 4 already"),
        ("  - {name: s, name: t, type: server, org: o}\n", "name: stands in line 4 already"),
    ],
)
def test_participants_that_cannot_be(tmp_path, participants, part):
    found = problems(tmp_path, whole(participants))
    assert any(part in one for one in found), found


@pytest.mark.parametrize(
    ("builders", "part"),
    [
        ("", "builders: is missing"),
        ("builders: [{path: nvflare.lighter.impl.edge.EdgeBuilder}]\n", "are not supported"),
        (
            "builders: [{path: nvflare.lighter.impl.dist.DistributionBuilder}]\n",
            "use nvflare.lighter.impl.zip.ZipBuilder",
        ),
        ("builders: [{path: nvflare.lighter.impl.certs.CertBuilder}]\n", "mean nvflare.lighter.impl.cert.CertBuilder?"),
        ("builders: [{path: my_builders.NoticeBuilder}]\n", "your own need -c FOLDER"),
        (
            "builders: [{path: nvflare.lighter.impl.docker.DockerBuilder, args: {base_image: 'a b'}}]\n",
            "container image",
        ),
        (
            "builders: [{path: nvflare.lighter.impl.he.HEBuilder, args: {coeff_mod_bit_sizes: 60}}]\n",
            "list of two or more whole",
        ),
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


ARGUMENTS = [
    ("workspace.WorkspaceBuilder", "template_file", "[master_template.yml]", "[1]", "name of a file or a list"),
    ("static_file.StaticFileBuilder", "config_folder", "config", "1", "must be text"),
    ("static_file.StaticFileBuilder", "scheme", "http", "ftp", "one of grpc, http, tcp"),
    ("static_file.StaticFileBuilder", "app_validator", "a.B", "1", "must be text"),
    ("static_file.StaticFileBuilder", "download_job_url", "http://a/", "1", "must be text"),
    ("static_file.StaticFileBuilder", "docker_image", "a/b:1", "'a b; rm'", "name of a container image"),
    ("static_file.StaticFileBuilder", "require_signed_jobs", "true", "'yes'", "true or false"),
    ("static_file.StaticFileBuilder", "enable_byoc", "true", "false", "has no effect any more"),
    ("cert.CertBuilder", "root_valid_days", "36500", "36501", "whole number of days"),
    ("cert.CertBuilder", "root_valid_days", "1", "true", "whole number of days"),
    ("cert.CertBuilder", "key_algorithm", "rsa-2048", "rsa-1024", "one of ecdsa-p256, rsa-2048"),
    ("docker.DockerBuilder", "base_image", "python:3.12", "'a\\nb'", "name of a container image"),
    ("docker.DockerBuilder", "requirements_file", "r.txt", "1", "must be text"),
    ("he.HEBuilder", "poly_modulus_degree", "4096", "5000", "power of two"),
    ("he.HEBuilder", "coeff_mod_bit_sizes", "[60, 40]", "[61, 40]", "each 60 at most"),
    ("he.HEBuilder", "scale_bits", "40", "1000000000000", "1 to 60"),
    ("he.HEBuilder", "scheme", "CKKS", "BFV", "one of CKKS"),
    ("zip.ZipBuilder", "password", "environment", "hunter2", "one of generate, environment, ask"),
]


@pytest.mark.parametrize("row", ARGUMENTS, ids=[f"{row[0]}.{row[1]}={row[3]}" for row in ARGUMENTS])
def test_every_argument_of_a_builder_has_a_right_and_a_wrong_value(tmp_path, row):
    path, argument, good, bad, why = row
    entry = "builders:\n  - path: nvflare.lighter.impl.{}\n    args:\n      {}: {}\n"
    file = tmp_path / "p.yml"
    file.write_text(whole(SERVER, builders=entry.format(path, argument, good)))
    assert project.load(file).builders[0].args
    (found,) = problems(tmp_path, whole(SERVER, builders=entry.format(path, argument, bad)))
    assert found.startswith(f"8: : builders[0].args.{argument}: ")
    assert why in found


@pytest.mark.parametrize(
    ("participants", "warning"),
    [
        ("  - {name: s, type: server, org: o, admin_port: 8003}\n", "admin_port is ignored"),
        (
            SERVER + "  - {name: c, type: client, org: o, connect_to: 10.0.0.1}\n",
            "10.0.0.1, which is none of the server's",
        ),
        (SERVER + "  - {name: c, type: client, org: o, connection_security: tls}\n", "c has connection_security tls"),
        (SERVER + "  - {name: overseer, type: overseer}\n", "an overseer is obsolete and ignored"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(tmp_path, participants, warning):
    file = tmp_path / "p.yml"
    file.write_text(whole(participants))
    (found,) = project.load(file).warnings
    assert warning in found


def test_ipv6_server_is_written_in_brackets(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(whole("  - {name: s, type: server, org: o, host_names: ['fd00::1'], default_host: 'fd00::1'}\n"))
    assert project.load(file).server.hosts == ("fd00::1",)


def test_long_names_are_cut_with_a_warning(tmp_path):
    name = "server." + "a" * 60 + ".example.com"
    file = tmp_path / "p.yml"
    file.write_text(whole(f"  - {{name: {name}, type: server, org: o}}\n", name="p" * 70))
    found = project.load(file)
    assert len(found.server.name) == 64
    assert found.server.host == name
    assert name in found.server.hosts
    assert found.name == "p" * 63
    assert len(found.warnings) == 2


RELAYS = SERVER + (
    "  - {name: r1, type: relay, org: o, listening_host: {default_host: r1.example.com, port: 8102}}\n"
    "  - {name: r2, type: relay, org: o, listening_host: {default_host: r2.example.com, port: 8103}, connect_to: r1}\n"
    "  - {name: site-1, type: client, org: o, connect_to: {name: r2}}\n"
    "  - {name: site-2, type: client, org: o, connect_to: {name: server1}}\n"
    "  - {name: site-3, type: client, org: o, parent: site-2}\n"
)


def test_relays_and_parents_are_resolved(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(whole(RELAYS))
    found = project.load(file)
    one, two, three = found.clients
    assert (one.relay, one.host, one.port) == ("r2", "r2.example.com", 8103)
    assert (two.relay, two.host, two.is_leaf) == ("", "server1", False)
    assert (three.fqsn, three.is_leaf) == ("site-2.site-3", True)
    assert found.relay_chain("r2") == ["r1", "r2"]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("port: 8103}, connect_to: r1", "port: 8103}, connect_to: r2", "r2: participants[2].connect_to: leads back"),
        ("port: 8102}}", "port: 8102}, connect_to: r2}", "r1: participants[1].connect_to: leads back to itself"),
        ("port: 8103}, connect_to: r1", "port: 8103}, connect_to: site-1", "site-1 is neither the server nor a relay"),
        ("connect_to: {name: r2}", "connect_to: {name: r9}", "r9 is neither the server nor a relay"),
        ("default_host: r2.example.com, port: 8103", "default_host: r2.example.com", "r2 listens on any free port"),
        ("parent: site-2", "parent: site-3", "site-3: participants[5].parent: leads back to itself"),
        ("parent: site-2", "parent: r1", "r1 is not a client"),
    ],
)
def test_connections_that_lead_nowhere(tmp_path, old, new, part):
    found = problems(tmp_path, whole(RELAYS.replace(old, new)))
    assert any(part in one for one in found), found
