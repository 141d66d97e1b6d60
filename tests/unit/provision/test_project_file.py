"""Project files: the reference's are read unchanged; a bad one is told all that is wrong with it, line by line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.ca import Authority
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
        (SERVER + "  - {name: r1, type: relay, org: o}\n", "participants[1].listening_host: is missing"),
        (SERVER + "  - {name: c, type: client, org: o, parent: d}\n", "d is not a client of this project"),
        (
            SERVER + "  - {name: c, type: client, org: o, connection_security: none}\n",
            "must be 'mtls', 'tls' or 'clear'",
        ),
        (SERVER + "  - {name: c, type: client, org: o, edge_service_port: 1}\n", "edge devices are not supported"),
        (SERVER + "  - {name: c, type: client, org: o, cc_config: x.yml}\n", "confidential computing is not supported"),
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
        ("builders: [{path: nvflare.lighter.impl.edge.EdgeBuilder}]\n", "are not supported"),
        ("builders: [{path: my_builders.NoticeBuilder}]\n", "your own with -c FOLDER"),
        (
            "builders: [{path: nvflare.lighter.impl.docker.DockerBuilder, args: {base_image: 'a b'}}]\n",
            "container image",
        ),
        ("builders: [{path: nvflare.lighter.impl.he.HEBuilder, args: {coeff_mod_bit_sizes: 60}}]\n", "list of whole"),
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


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("org", "org_a", "org-a"),
        ("connect_to", "10.0.0.1", "a..b"),
        ("connect_to", "{host: 'fd00::1', port: 9}", "{host: 'fd00:::1'}"),
        ("connect_to", "{name: server1}", "{name: nobody}"),
        ("listening_host", "site.example.com", "'a b'"),
        ("listening_host", "{scheme: tcp, host_names: [a], default_host: b, port: 0}", "{port: -1}"),
        ("listening_host", "{connection_security: mtls}", "{connection_security: yes}"),
        ("capacity", "{num_of_gpus: 2, mem_per_gpu_in_GiB: 15.5}", "{num_of_gpus: -1}"),
        ("parent", "site-2", "site-1"),
        ("connection_security", "tls", "ssl"),
        ("custom_ca_cert", "ca.pem", "none.pem"),
        ("allow_log_streaming", "false", "'false'"),
        ("auth_identity", "proxy.example.com", "''"),
        ("use_aio", "true", "1"),
    ],
)
def test_every_key_of_a_client_has_a_right_and_a_wrong_value(tmp_path, key, good, bad):
    (tmp_path / "ca.pem").write_bytes(Authority.create("other", now=datetime.now(UTC)).pem)
    entry = "  - {{name: site-1, type: client, org: o}}\n  - {{name: site-2, type: client, org: o}}\n"
    lines = entry.format().replace("org: o}", f"org: o, {key}: VALUE}}", 1)
    if key == "org":
        lines = "  - {name: site-1, type: client, org: VALUE}\n"
    file = tmp_path / "good.yml"
    file.write_text(whole(SERVER + lines.replace("VALUE", good)))
    assert project.load(file).clients[0].name == "site-1"
    found = problems(tmp_path, whole(SERVER + lines.replace("VALUE", bad)))
    assert any("site-1" in one and key in one for one in found), found


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


PEOPLE = SERVER + (
    "  - {name: site-1, type: client, org: org_a}\n  - {name: site-2, type: client, org: org_b}\n"
    "  - {name: lead@a.com, type: admin, org: org_a, role: lead}\n"
)


def studied(studies: str, *, version: int = 4) -> str:
    return whole(PEOPLE, more=f"studies:\n{studies}").replace("api_version: 3", f"api_version: {version}")


def test_both_forms_of_a_study_mean_the_same(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(
        studied(
            "  coded: {site_orgs: {org_a: [site-1], org_b: [site-2]}, admins: [lead@a.com]}\n"
            "  documented: {sites: [site-1, site-2], admins: {lead@a.com: member}}\n"
            "  empty:\n"
        )
    )
    found = project.load(file).studies
    assert found["coded"].sites == found["documented"].sites == {"org_a": ("site-1",), "org_b": ("site-2",)}
    assert found["coded"].admins == found["documented"].admins == ("lead@a.com",)
    assert found["documented"].roles == {"lead@a.com": "member"}
    assert found["empty"].sites == {}


@pytest.mark.parametrize(
    ("study", "part"),
    [
        ("  s: {site_orgs: {org_z: [site-1]}}\n", "no client has the organisation org_z"),
        ("  s: {site_orgs: {org_a: [site-2]}}\n", "site-2 belongs to org_b, not to org_a"),
        ("  s: {site_orgs: {org_a: [site-1, site-1]}}\n", "site-1 is named twice"),
        ("  s: {sites: [site-9]}\n", "site-9 is not a client"),
        ("  s: {sites: [site-1], site_orgs: {org_a: [site-1]}}\n", "says the same as site_orgs"),
        ("  s: {admins: [nobody@a.com]}\n", "nobody@a.com is not an admin"),
        ("  s: {admins: {lead@a.com: boss}}\n", "must be 'project_admin'"),
        ("  s: {colour: red}\n", "studies.s.colour: unknown key"),
        ("  default: {}\n", "is a reserved name"),
        ("  Upper: {}\n", "lower-case"),
        ("  s: 3\n", "studies.s"),
    ],
)
def test_bad_studies(tmp_path, study, part):
    found = problems(tmp_path, studied(study))
    assert any(part in one for one in found), found


def test_studies_need_version_4(tmp_path):
    assert any("requires api_version: 4" in one for one in problems(tmp_path, studied("  s: {}\n", version=3)))


def test_included_files_are_read_as_if_they_stood_there(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "who.yml").write_text(f"participants:\n{SERVER}include: ../parts/more.yml\n")
    (tmp_path / "parts" / "more.yml").write_text("description: from afar\n")
    file = tmp_path / "p.yml"
    file.write_text(f"api_version: 3\nname: p\ninclude: [parts/who.yml]\n{BUILDERS}")
    found = project.load(file)
    assert (found.server.name, found.description) == ("server1", "from afar")


def test_a_problem_in_an_included_file_is_shown_there(tmp_path):
    (tmp_path / "who.yml").write_text(f"participants:\n{SERVER}  - {{name: c, type: client, org: o, foo: 1}}\n")
    file = tmp_path / "project.yml"
    file.write_text(f"api_version: 3\nname: p\ninclude: who.yml\n{BUILDERS}")
    with pytest.raises(ProjectFileError) as caught:
        project.load(file)
    (problem,) = caught.value.problems
    assert (Path(problem.file).name, problem.line, problem.participant) == ("who.yml", 3, "c")


@pytest.mark.parametrize(
    ("include", "part"),
    [
        ("/etc/hostname", "is not below the folder"),
        ("../outside.yml", "is not below the folder"),
        ("link.yml", "is not below the folder"),
        ("none.yml", "No such file"),
        ("project.yml", "includes itself"),
        ("[1]", "must be the name of a file"),
        ("text.yml", "must hold a mapping"),
        ("again.yml", "stands in"),
    ],
)
def test_bad_includes(tmp_path, include, part):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "outside.yml").write_text("description: secret\n")
    (folder / "link.yml").symlink_to(tmp_path / "outside.yml")
    (folder / "text.yml").write_text("- 1\n")
    (folder / "again.yml").write_text("name: q\n")
    found = problems(folder, whole(SERVER, more=f"include: {include}\n"))
    assert any(part in one for one in found), found
