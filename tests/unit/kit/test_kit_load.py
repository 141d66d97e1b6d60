"""Reading kits: identity, address, the overlay that a deployment writes, keys that others could read."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime import keys, kit
from clouddeploy_runtime.kit import FedClient, Kind, config


def test_client(kits):
    read = kit.load(kits / "site-1")
    assert (read.kind, read.name, read.org, read.project) == (Kind.CLIENT, "site-1", "org_a", "study")
    assert (read.server_name, read.host, read.port) == ("server1", "127.0.0.1", 8002)
    assert read.settings["client"]["fqsn"] == "site-1"
    assert read.settings["servers"][0]["service"] == {"target": "127.0.0.1:8002", "scheme": "grpc"}
    assert read.key_file.is_file()


def test_server_listens_everywhere(kits):
    read = kit.load(kits / "server1")
    assert (read.kind, read.server_name, read.port) == (Kind.SERVER, "server1", 8002)
    assert read.host == kit.kit.ANY_ADDRESS


def test_admin(kits):
    read = kit.load(kits / "admin@example.com")
    assert (read.kind, read.name, read.server_name) == (Kind.ADMIN, "admin@example.com", "server1")


@pytest.mark.parametrize(
    ("name", "overlay", "expected"),
    [
        ("site-1", {"host": "fl.example.com"}, ("fl.example.com", 8002)),
        ("site-1", {"host": "::1", "port": 1}, ("::1", 1)),
        ("server1", {"host": "127.0.0.1", "port": 0}, ("127.0.0.1", 0)),
    ],
)
def test_overlay_moves_the_address_only(kits, name, overlay, expected):
    (kits / name / "local/endpoint.json").write_text(json.dumps(overlay))
    read = kit.load(kits / name)
    assert (read.host, read.port) == expected
    assert read.server_name == "server1"
    kit.verify(kits / name)


@pytest.mark.parametrize(
    "text", ['{"host": "a b"}', '{"port": 0}', '{"port": 65536}', '{"prt": 1}', "{", '{"port": "1"}']
)
def test_bad_overlay(kits, text):
    (kits / "site-1/local/endpoint.json").write_text(text)
    with pytest.raises(kit.KitError, match=r"endpoint\.json"):
        kit.load(kits / "site-1")


def test_key_that_others_can_read(kits):
    (kits / "site-1/startup/client.key").chmod(0o640)
    with pytest.raises(kit.KitError, match="looser than 0600"):
        kit.load(kits / "site-1")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"servers": []}, "names 0 servers"),
        ({"servers": [{"name": "p", "service": {"target": "host"}, "identity": "s"}]}, "not host:port"),
        ({"client": {"fqsn": "a", "ssl_private_key": "../../etc/shadow"}}, "not the name of a file"),
        ({"client": {}}, "fqsn"),
    ],
)
def test_bad_settings(kits, change, part):
    file = kits / "site-1/startup/fed_client.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
    with pytest.raises(kit.KitError, match=part):
        kit.load(kits / "site-1")


def test_format_survives_a_round_trip(kits):
    data = (kits / "site-1/startup/fed_client.json").read_bytes()
    assert config.encode(config.decode(data, FedClient)) == data


@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm))
def test_keys_sign_and_are_born_private(tmp_path, algorithm):
    key = keys.generate(algorithm)
    keys.write_private(tmp_path / "k", keys.to_pem(key, passphrase=b"p"))
    again = keys.load_private_key(tmp_path / "k", passphrase=b"p")
    assert keys.is_signed_by(key.public_key(), keys.sign(again, b"data"), b"data")
    assert not keys.is_signed_by(key.public_key(), keys.sign(again, b"data"), b"other")
    with pytest.raises(FileExistsError):
        keys.write_private(tmp_path / "k", b"")
    with pytest.raises(keys.KeyFault, match="passphrase is wrong"):
        keys.load_private_key(tmp_path / "k", passphrase=b"q")


@pytest.mark.parametrize("content", [b"", b"no key"])
def test_what_is_no_key(tmp_path, content):
    keys.write_private(tmp_path / "k", content)
    with pytest.raises(keys.KeyFault):
        keys.load_private_key(tmp_path / "k")
    with pytest.raises(keys.KeyFault, match="No such file"):
        keys.read_private(tmp_path / "none")
