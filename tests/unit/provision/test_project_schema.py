"""Every key of a project file, with a value that is taken and values that are refused, where they stand and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import project, schema
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = {"api_version": "4", "name": "p"}
BUILDERS = "[{path: nvflare.lighter.impl.cert.CertBuilder}]"
PEOPLE = {
    "server": {"name": "server1", "type": "server", "org": "o"},
    "client": {"name": "site-1", "type": "client", "org": "o"},
    "relay": {"name": "relay-1", "type": "relay", "org": "o", "listening_host": "{port: 8102}"},
    "admin": {"name": "lead@a.com", "type": "admin", "org": "o", "role": "lead"},
}
PORT = [("'8002'", "whole number"), ("0", "1 to 65535"), ("65536", "1 to 65535"), ("true", "whole number")]
HOST = [("'a b'", "host name or an IP"), ("a..b", "host name or an IP"), ("5", "must be text, not 5")]
HOSTS = [
    ("'fe80::1%eth0'", "without a zone"),
    ("5", "a host name or a list"),
    ("{a: b}", "a host name or a list"),
    ("[a, 'b c']", "host name or an IP"),
]
SECURITY = [("ssl", "'mtls', 'tls' or 'clear'"), ("true", "'mtls', 'tls' or 'clear'"), ("[]", "'mtls'")]
AUTHORITY = [
    ("none.pem", "no such file"),
    (5000 * "a", "name too long"),
    ("bad.pem", "no PEM"),
    ("key.pem", "a private key"),
    ("1", "text"),
]
LISTENING = [("5", "a host name or a mapping"), ("'a b'", "host name or an IP"), ("{hosts: a}", "mean host_names?")]
CONNECT = [("5", "a host name or a mapping"), ("'a:1'", "host name or an IP"), ("{host: 'a b'}", "host name or an IP")]
CONNECT += [("{name: nobody}", "neither the server nor a relay"), ("{prt: 1}", "did you mean port?")]
CONNECT += [("{port: 0}", "1 to 65535"), ("{connection_security: ssl}", "'mtls', 'tls' or 'clear'")]
ORG = [("org-a", "letters, digits and underscores only"), ("12", "must be text, not 12"), ("''", "letters, digits")]
FLAG = [("1", "true or false"), ("'yes'", "true or false")]
IDENTITY = [("''", "must not be empty"), ("[a]", "must be text")]

# kind, key, a value that is taken, (a value that is refused, a part of why)
TABLE: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    ("server", "name", "fl.example.com", [("'a b'", "host name"), ("'fd00::1'", "in host_names"), ("12", "text")]),
    ("server", "type", "server", [("srv", "one of server, client"), ("3", "one of server, client")]),
    ("server", "org", "org_a", ORG),
    ("server", "fed_learn_port", "9002", PORT),
    ("server", "admin_port", "9003", PORT),
    ("server", "host_names", "[a, 192.0.2.1, 'fd00::1']", HOSTS),
    ("server", "default_host", "192.0.2.1", HOST),
    ("server", "listening_host", "{port: 9004}", [*LISTENING, ("{port: 65536}", "0 to 65535")]),
    ("server", "connection_security", "mtls", SECURITY),
    ("server", "custom_ca_cert", "ca.pem", AUTHORITY),
    ("server", "auth_identity", "proxy", IDENTITY),
    ("server", "use_aio", "true", FLAG),
    ("server", "cc_config", "", [("a.yml", "confidential computing is not supported")]),
    ("server", "enable_byoc", "true", [("false", "forbid own code with `byoc`")]),
    ("server", "connect_to", "", [("a", "unknown key; known here are admin_port")]),
    ("client", "name", "Site_1", [("'a b'", "letters, digits"), ("-a", "no hyphen first"), ("x" * 65, "64")]),
    ("client", "org", "org_a", ORG),
    ("client", "connect_to", "10.0.0.1", CONNECT),
    ("client", "connect_to", "{name: relay-1, host: a, port: 9}", CONNECT),
    ("client", "listening_host", "site.example.com", LISTENING),
    ("client", "listening_host", "{scheme: http, host_names: [a], default_host: b, port: 0}", []),
    ("client", "listening_host", "{}", [("{scheme: ftp}", "'tcp'"), ("{connection_security: yes}", "'mtls'")]),
    ("client", "parent", "site-2", [("site-1", "leads back to itself"), ("server1", "not a client"), ("5", "text")]),
    ("client", "capacity", "{num_of_gpus: 2, mem_per_gpu_in_GiB: 15.5}", [("3", "a mapping"), ("{a: 1}", "unknown")]),
    ("client", "capacity", "{num_of_gpus: 0}", [("{num_of_gpus: -1}", "0 or more"), ("{num_of_gpus: 1.5}", "whole")]),
    ("client", "capacity", "{}", [("{mem_per_gpu_in_GiB: .inf}", "of GiB"), ("{mem_per_gpu_in_GiB: -1}", "0 to")]),
    ("client", "allow_log_streaming", "false", FLAG),
    ("client", "connection_security", "tls", SECURITY),
    ("client", "custom_ca_cert", "ca.pem", AUTHORITY),
    ("client", "auth_identity", "proxy", IDENTITY),
    ("client", "use_aio", "false", FLAG),
    ("client", "components", "{resource_manager: {path: x.Y}}", []),
    ("client", "enable_byoc", "true", [("false", "forbid own code with `byoc`")]),
    ("client", "edge_service_port", "", [("1", "edge devices are not supported")]),
    ("client", "cc_config", "", [("a.yml", "confidential computing is not supported")]),
    ("client", "conect_to", "", [("a", "did you mean connect_to?")]),
    ("relay", "name", "r_1", [("r 1", "hyphens and underscores only")]),
    ("relay", "org", "org_a", ORG),
    ("relay", "listening_host", "{default_host: r, port: 9}", [("r", "a mapping"), ("{port: x}", "whole number")]),
    ("relay", "connect_to", "server1", [("nobody", "nor a relay"), ("5", "the name of the server")]),
    ("relay", "connection_security", "clear", SECURITY),
    ("relay", "custom_ca_cert", "ca.pem", AUTHORITY),
    ("relay", "auth_identity", "proxy", IDENTITY),
    ("relay", "use_aio", "true", FLAG),
    ("admin", "name", "a.b+c@d-e.org", [("lead", "an e-mail address"), ("a@b", "an e-mail address")]),
    ("admin", "org", "org_a", ORG),
    ("admin", "role", "org_admin", [("boss", "'lead' or 'member'"), ("5", "'lead' or 'member'")]),
    ("admin", "connect_to", "{host: a, port: 9}", CONNECT),
    ("admin", "connection_security", "tls", SECURITY),
    ("admin", "roles", "", [("[lead]", "older name of `role`")]),
    ("top", "api_version", "3", [("2", "must be 3 or 4"), ("'3'", "must be 3 or 4"), ("", "must be 3 or 4")]),
    ("top", "name", "my-project.1", [("-a", "no dot or hyphen first"), ("a/b", "letters"), ("..", "no dot")]),
    ("top", "description", "two sites", [("5", "must be text"), ("[a]", "must be text")]),
    ("top", "participants", "[{name: s, type: server, org: o}]", [("5", "a list"), ("[]", "one entry at least")]),
    ("top", "builders", BUILDERS, [("[]", "one entry"), ("5", "a list"), ("[5]", "a mapping"), ("[{}]", "is missing")]),
    ("top", "builders", BUILDERS, [("[{path: 5}]", "must be text"), ("[{path: a.B, arg: 1}]", "did you mean args?")]),
    ("top", "packager", "", [("5", "must be a mapping"), ("{path: a.B}", "your own need -c FOLDER")]),
    ("top", "studies", "{s: {sites: [site-1]}}", [("5", "a mapping"), ("{s: {site: []}}", "did you mean sites?")]),
    ("top", "connection_security", "tls", SECURITY),
    ("top", "custom_ca_cert", "ca.pem", AUTHORITY),
    ("top", "edge", "", [("{depth: 1}", "write the relays and clients down")]),
    ("top", "particpants", "", [("[]", "did you mean participants?")]),
]  # fmt: skip


def text(kind: str, key: str, value: str) -> str:
    """Write a file in which everything is right but this one value, and whose every participant has a line."""
    top = {**HEAD, "participants": "", "builders": BUILDERS}
    people = {name: dict(entry) for name, entry in PEOPLE.items()}
    (top if kind == "top" else people[kind])[key] = value
    entries = [*people.values(), {"name": "site-2", "type": "client", "org": "o"}]
    lines = ["  - {" + ", ".join(f"{name}: {value}" for name, value in entry.items()) + "}" for entry in entries]
    top["participants"] = top["participants"] or "\n" + "\n".join(lines)
    return "".join(f"{name}: {value}\n" for name, value in top.items())


@pytest.fixture
def folder(tmp_path) -> Path:
    authority = Authority.create("other", now=datetime.now(UTC))
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "bad.pem").write_text("none")
    (tmp_path / "key.pem").write_bytes(authority.pem + b"-----BEGIN PRIVATE KEY-----\n")
    return tmp_path


def refused(folder: Path, content: str) -> tuple[Problem, ...]:
    file = folder / "project.yml"
    file.write_text(content)
    with pytest.raises(ProjectFileError) as caught:
        project.load(file)
    return caught.value.problems


@pytest.mark.parametrize(("kind", "key", "good"), [row[:3] for row in TABLE if row[2]])
def test_a_right_value_is_taken(folder, kind, key, good):
    file = folder / "project.yml"
    file.write_text(text(kind, key, good))
    assert project.load(file).servers


@pytest.mark.parametrize(("kind", "key", "bad", "why"), [(*row[:2], *wrong) for row in TABLE for wrong in row[3]])
def test_a_wrong_value_is_shown_where_it_stands_and_why(folder, kind, key, bad, why):
    content = text(kind, key, bad)
    found = [one for one in refused(folder, content) if key in one.key and why in one.rule]
    assert len(found) == 1, refused(folder, content)
    (problem,) = found
    lines = content.splitlines()
    assert f"{key}: {bad}".strip() in lines[problem.line - 1]
    assert problem.file == str(folder / "project.yml")
    if kind != "top":
        assert problem.participant in {bad.strip("'"), PEOPLE[kind]["name"], "participant 1"}
    is_refused_as_such = "known here are" in problem.rule or key in {"roles", "edge", "cc_config", "edge_service_port"}
    assert problem.example or is_refused_as_such
    assert "Input should" not in problem.rule


def test_the_table_has_every_key():
    kinds = {"server": schema.Server, "client": schema.Client, "relay": schema.Relay, "admin": schema.Admin}
    known = {(kind, key) for kind, model in kinds.items() for key in model.model_fields if key != "type"}
    known |= {("top", key) for key in schema.ProjectFile.model_fields}
    assert known <= {row[:2] for row in TABLE}


@pytest.mark.parametrize("name", sorted(schema.EXAMPLES))
def test_an_example_begins_with_its_key(name):
    assert schema.EXAMPLES[name].startswith(f"{name.rpartition('.')[2]}: ")


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, key, good, _ in TABLE if kind != "top" and good and key in schema.EXAMPLES]
)
def test_an_example_is_right_itself(folder, kind, key):
    """One that is refused would send its reader in a circle."""
    example = schema.EXAMPLES.get(f"{kind}.{key}", schema.EXAMPLES[key])
    (folder / "proxy_ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    value = {"parent": "site-2", "type": kind}.get(key, example.partition(": ")[2])
    file = folder / "project.yml"
    if (kind, key) == ("relay", "connect_to"):
        value = value.replace("relay-1", "server1")
    file.write_text(text(kind, key, value))
    assert project.load(file).servers


def test_a_key_that_looks_like_a_tag_of_the_schema_is_an_unknown_key(folder):
    content = text("client", "(client)", "1")
    assert [one.key for one in refused(folder, content)] == ["participants[1].(client)"]
