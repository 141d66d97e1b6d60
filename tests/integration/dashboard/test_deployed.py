"""The dashboard as a service: deployed by the same engine, with HTTPS from the start, and gone again."""

import socket
import ssl
from datetime import UTC, datetime

import httpx2
import pytest
import yaml

from clouddeploy.dashboard import cloud
from clouddeploy.deployment import Deployment

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]
SECRETS = ("of the authority", "root@hub.example:four words in a row:hub")


def test_on_this_machine_it_serves_by_https_and_keeps_its_accounts(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_TICK_S", "0.05")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wish = cloud.Wish("local", ("127.0.0.0/8",), names=("127.0.0.1",))
    told = cloud.write(tmp_path / "dashboard", wish, secrets=SECRETS, now=datetime.now(UTC), port=port)
    document = yaml.safe_load(told.file.read_text())
    document["sites"]["dashboard"]["directory"] = str(tmp_path / "sites")
    told.file.write_text(yaml.safe_dump(document))
    try:
        Deployment(told.file).apply()
        trusted = ssl.create_default_context(cafile=str(told.identity.cert))
        with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted) as client:
            assert "Log in" in client.get("/").text
            login = {"email": "root@hub.example", "password": "four words in a row"}
            assert client.post("/api/v1/login", json=login).status_code == 200
        assert Deployment(told.file).plan().work_left == 0
    finally:
        left = Deployment(told.file).destroy().left
    assert left == ()
    assert list((tmp_path / "sites").iterdir()) == []
