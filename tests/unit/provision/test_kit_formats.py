"""The JSON files of a kit, member by member, and the other files that people and programs read."""

from __future__ import annotations

import ast
import json
import logging
import logging.config
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.kit_builder import KitBuilder
from clouddeploy_runtime.jobs import known

from clouddeploy.api import Session

if TYPE_CHECKING:
    from clouddeploy_provision.kit_tree import File

DATA = Path(__file__).parent / "data" / "reference"
LEAF = {"ssl_private_key": "client.key", "ssl_cert": "client.crt", "ssl_root_cert": "rootCA.pem"}
ALLOWED = sorted(known.ALL)


@pytest.fixture
def files(tmp_path):
    """Return path → file of one participant of one of the reference's projects."""
    shutil.copytree(DATA, tmp_path / "files")
    (tmp_path / "files" / "proxy_ca.pem").write_bytes(Authority.create("proxy", now=datetime.now(UTC)).pem)

    def _files(name: str, participant: str) -> dict[str, File]:
        found = project.load(tmp_path / "files" / f"{name}.yml", custom=Custom(tmp_path / "files"))
        return KitBuilder(found).files(found.participant(participant))

    return _files


@pytest.fixture
def read(files):
    def _read(name: str, participant: str, path: str) -> dict[str, Any]:
        return json.loads(files(name, participant)[path].content)

    return _read


def test_fed_server(read):
    assert read("default", "server1", "startup/fed_server.json") == {
        "format_version": 2,
        "servers": [
            {
                "name": "example_project",
                "service": {"target": "server1:8002", "scheme": "grpc"},
                "admin_server": "server1",
                "admin_port": 8002,
                "ssl_private_key": "server.key",
                "ssl_cert": "server.crt",
                "ssl_root_cert": "rootCA.pem",
                "connection_security": "mtls",
            }
        ],
    }


def test_fed_server_with_everything_optional(read):
    settings = read("proxy", "server1", "startup/fed_server.json")["servers"][0]
    assert settings["connection_security"] == "clear"
    assert settings["auth_identity"] == "fl.example.com"
    assert settings["auth_identity_map"] == {"site-2": "gateway.example.com"}
    assert read("policies", "server1", "startup/fed_server.json")["require_signed_jobs"] is True
    assert "require_signed_jobs" not in read("proxy", "server1", "startup/fed_server.json")


def test_an_identity_that_is_the_name_is_left_out(tmp_path):
    text = (
        (DATA / "default.yml")
        .read_text()
        .replace("    fed_learn_port", "    auth_identity: server1\n    fed_learn_port")
    )
    (tmp_path / "p.yml").write_text(text.replace("name: site-1\n", "name: site-1\n    auth_identity: site-1\n"))
    found = project.load(tmp_path / "p.yml")
    content = KitBuilder(found).files(found.server)["startup/fed_server.json"].content
    assert b"auth_identity" not in content


def test_fed_client(read):
    assert read("default", "site-1", "startup/fed_client.json") == {
        "format_version": 2,
        "servers": [
            {
                "name": "example_project",
                "service": {"target": "server1:8002", "scheme": "grpc"},
                "identity": "server1",
            }
        ],
        "client": {**LEAF, "fqsn": "site-1", "is_leaf": True, "connection_security": "mtls"},
    }


@pytest.mark.parametrize(
    ("name", "fqsn", "is_leaf"),
    [
        ("region-1", "region-1", False),
        ("ward-1", "region-1.ward-1", False),
        ("ward-2", "region-1.ward-2", True),
        ("bed-1", "region-1.ward-1.bed-1", True),
    ],
)
def test_names_in_a_hierarchy(read, name, fqsn, is_leaf):
    client = read("hierarchy", name, "startup/fed_client.json")["client"]
    assert (client["fqsn"], client["is_leaf"]) == (fqsn, is_leaf)


def test_connection_of_a_client_that_goes_through_a_proxy(read):
    settings = read("proxy", "site-1", "startup/fed_client.json")
    assert settings["servers"][0]["service"]["target"] == "proxy.example.com:443"
    assert settings["servers"][0]["identity"] == "server1"
    assert settings["client"]["connection_security"] == "tls"
    assert read("proxy", "site-2", "startup/fed_client.json")["client"]["connection_security"] == "mtls"


def test_fed_admin(read):
    assert read("default", "admin@nvidia.com", "startup/fed_admin.json") == {
        "format_version": 1,
        "admin": {
            "project_name": "example_project",
            "username": "admin@nvidia.com",
            "server_identity": "server1",
            "scheme": "grpc",
            "host": "server1",
            "port": 8002,
            "connection_security": "mtls",
            "uid_source": "user_input",
            "with_file_transfer": True,
            "upload_dir": "transfer",
            "download_dir": "transfer",
            "client_key": "client.key",
            "client_cert": "client.crt",
            "ca_cert": "rootCA.pem",
        },
    }


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("relay-1", {"scheme": "grpc", "identity": "server1", "address": "fl.example.com:8002", "fqcn": "server"}),
        ("relay-2", {"scheme": "tcp", "identity": "relay-1", "address": "relay-1.example.com:8102", "fqcn": "relay-1"}),
    ],
)
def test_fed_relay(read, name, target):
    assert read("relays", name, "startup/fed_relay.json") == {
        "format_version": 1,
        "project_name": "relay_project",
        "identity": name,
        "server_identity": "server1",
        "connect_to": {**target, "connection_security": "mtls"},
    }


def test_a_relay_and_a_client_behind_one_know_how_they_are_connected(read):
    inside = {"host": "relay-2.example.com", "port": 8103, "connection_security": "tls"}
    assert read("relays", "relay-2", "local/comm_config.json") == {
        "allow_adhoc_conns": False,
        "backbone_conn_gen": 1,
        "internal": {"scheme": "http", "resources": inside},
    }
    assert read("relays", "site-1", "local/comm_config.json") == {"allow_adhoc_conns": False, "backbone_conn_gen": 1}
    assert read("relays", "site-2", "local/relay__resources.json") == {
        "format_version": 2,
        "relay_config": {
            "scheme": "tcp",
            "identity": "relay-1",
            "address": "10.0.1.5:8102",
            "fqcn": "relay-1",
            "connection_security": "tls",
        },
    }
    deep = read("relays", "site-1", "local/relay__resources.json")["relay_config"]
    assert (deep["fqcn"], deep["address"]) == ("relay-1.relay-2", "relay-2.example.com:8103")


def test_a_client_that_listens(read):
    inside = {"host": "site-2.example.com", "port": 9102, "connection_security": "mtls"}
    assert read("listening", "site-2", "local/comm_config.json") == {
        "allow_adhoc_conns": False,
        "backbone_conn_gen": 2,
        "internal": {"scheme": "grpc", "resources": inside},
    }
    by_host = read("listening", "site-1", "local/comm_config.json")["internal"]
    assert by_host == {"scheme": "tcp", "resources": {"host": "site-1-lh", "connection_security": "clear"}}


def test_resources_of_a_server(read):
    found = read("policies", "server1", "local/resources.json.default")
    assert found["servers"] == [
        {
            "admin_storage": "transfer",
            "max_num_clients": 100,
            "heart_beat_timeout": 600,
            "download_job_url": "https://jobs.example.com/",
            "admin_timeout": 10.0,
        }
    ]
    ids = [component["id"] for component in found["components"]]
    assert ids == ["job_scheduler", "job_manager", "job_store", "process_launcher", "log_receiver"]
    assert found["components"][0]["args"] == {"max_jobs": 4}
    assert (found["format_version"], found["class_list_enforcement_mode"]) == (2, "enforce")
    assert found["class_allow_list"] == ALLOWED
    assert "snapshot_persistor" in found


def test_resources_of_a_client(read):
    found = read("included", "site-2", "local/resources.json.default")
    assert {name: found[name] for name in ("format_version", "allow_log_streaming", "client")} == {
        "format_version": 2,
        "allow_log_streaming": True,
        "client": {"retry_timeout": 30, "compression": "Gzip"},
    }
    ids = [component["id"] for component in found["components"]]
    assert ids == ["resource_manager", "resource_consumer", "process_launcher", "site_log_streamer"]
    gpus = {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16, "expiration_period": 300}
    assert found["components"][0]["args"] == gpus
    assert found["class_allow_list"] == ALLOWED
    assert read("policies", "site_b", "local/resources.json.default")["allow_log_streaming"] is False


def test_resources_of_an_admin(read):
    assert read("default", "admin@nvidia.com", "local/resources.json.default") == {
        "format_version": 1,
        "admin": {
            "idle_timeout": 900.0,
            "login_timeout": 10.0,
            "with_debug": False,
            "authenticate_msg_timeout": 2.0,
            "prompt": "> ",
        },
    }


def test_policies_give_every_role_its_rights(read):
    found = read("default", "site-1", "local/authorization.json.default")["permissions"]
    assert list(found) == ["project_admin", "org_admin", "lead", "member"]
    assert found["member"] == {"view": "any"}
    sample = read("default", "site-1", "local/privacy.json.sample")
    assert sample["default_scope"] in [scope["name"] for scope in sample["scopes"]]


@pytest.mark.parametrize("kind", ["server1", "site-1", "relay-1"])
def test_the_log_settings_are_a_valid_configuration(read, tmp_path, monkeypatch, kind):
    settings = read("relays", kind, "local/log_config.json.default")
    assert list(settings["handlers"]) == ["console", "log_file", "error_file", "json_file", "fl_file"]
    monkeypatch.chdir(tmp_path)  # where a site writes them
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        logging.config.dictConfig(settings)
        logging.getLogger("a.b").error('a "quoted" \\ message\nof two lines')
        for handler in root.handlers:
            handler.close()
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    assert "of two lines" in Path("log.txt").read_text()
    assert "of two lines" in Path("log_error.txt").read_text()
    assert [json.loads(line)["name"] for line in Path("log.json").read_text().splitlines()] == ["a.b"]


def test_readme_says_what_it_is_for_in_every_kind_of_kit(files):
    for name, word in (("server1", "server"), ("site-1", "client"), ("relay-1", "relay")):
        text = files("relays", name)["readme.txt"].content.decode()
        assert text.startswith(f"This is the startup kit of one {word}:")
        assert "@" not in text
    assert "one admin" in files("relays", "admin@nvidia.com")["startup/readme.txt"].content.decode()


def test_no_line_of_a_readme_is_too_long_for_a_terminal(files):
    for name, path in (("server1", "readme.txt"), ("admin@nvidia.com", "startup/readme.txt")):
        assert max(map(len, files("relays", name)[path].content.decode().splitlines())) <= 120


def test_the_notebook_is_shipped_without_output_and_calls_what_the_api_has(files):
    notebook = json.loads(files("default", "admin@nvidia.com")["startup/system_info.ipynb"].content)
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {"cwd", "parent"}
    assert called == {"get_system_info", "list_jobs", "report_resources", "close"}
    assert all(callable(getattr(Session, name)) for name in called)
