"""The dashboard as a process, by HTTPS, up to a site that registers with the server's kit from the same dashboard."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from clouddeploy_rehearsal.probe import until

from tests.integration.dashboard.browsing import running, state_of, unpacked

CREDENTIAL = "root@hub.example:four words in a row:hub"


def clouddeploy(folder, *words, check=True):
    env = {
        **os.environ,
        "CLOUDDEPLOY_CA_PASSPHRASE": "of the authority",
        "CLOUDDEPLOY_DASHBOARD_CREDENTIAL": CREDENTIAL,
        "CLOUDDEPLOY_DASHBOARD_DATABASE": f"sqlite:///{folder}/db-password.sqlite",
    }
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", "dashboard", *words, "-f", str(folder), "--output", "json"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process") / "dashboard"
    told = clouddeploy(folder, "start", "--host", "127.0.0.1", "-p", "0")["data"]
    yield folder, told
    if clouddeploy(folder, "status")["data"]["running"]:
        clouddeploy(folder, "stop")


@pytest.fixture(scope="module")
def root(started):
    folder, told = started
    trusted = ssl.create_default_context(cafile=str(folder / "cert" / "web.crt"))
    with httpx2.Client(base_url=told["url"], verify=trusted) as client:
        login = {"email": "root@hub.example", "password": "four words in a row"}
        answer = client.post("/api/v1/login", json=login)
        assert answer.status_code == 200, answer.text
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


@pytest.mark.xdist_group("dashboard")
def test_the_fingerprint_that_is_told_is_that_of_the_connection(started):
    folder, told = started
    port = int(told["url"].rsplit(":", 1)[1].strip("/"))
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
    assert hashlib.sha256(shown).hexdigest() == told["fingerprint"].replace(":", "").lower()
    assert told["is_own"]
    assert (folder / "cert" / "web.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.xdist_group("dashboard")
def test_a_second_one_is_refused_and_status_names_the_first(started):
    folder, told = started
    refused = clouddeploy(folder, "start", "-p", "0", check=False)
    assert "runs already" in refused["message"]
    assert clouddeploy(folder, "status")["data"]["pid"] == told["pid"]


@pytest.mark.xdist_group("dashboard")
def test_no_secret_is_in_arguments_environment_of_others_or_the_log(started):
    folder, told = started
    arguments = Path(f"/proc/{told['pid']}/cmdline").read_bytes()
    assert b"four words" not in arguments
    environment = Path(f"/proc/{told['pid']}/environ").read_bytes()
    assert b"PATH=" in environment
    assert not [one for one in (b"four words", b"of the authority", b"db-password") if one in environment]
    assert "of the authority" not in (folder / "dashboard.log").read_text()
    assert (folder / "dashboard.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.xdist_group("dashboard")
def test_the_first_page_comes_in_200_ms(root):
    def page():
        begin = time.monotonic()
        answer = httpx2.Client.get(root, "/", headers={"authorization": ""})
        assert answer.status_code == 200
        return time.monotonic() - begin

    page()  # the template is compiled once
    assert min(page() for _ in range(5)) < 0.2


@pytest.mark.xdist_group("dashboard")
def test_a_site_registers_with_the_server_of_the_same_dashboard_until_it_is_issued_anew(root, tmp_path):
    """The running server refuses the earlier identity within seconds, without anybody bringing it the list."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project = {"short_name": "trial", "server1": "localhost", "server_port": port, "server_host_names": ["127.0.0.1"]}
    assert root.patch("/api/v1/project", json=project).status_code == 200
    made = root.post("/api/v1/clients", json={"name": "site-1"})
    site, seen = made.json()["client"]["id"], {"if-match": made.headers["etag"]}
    assert root.patch(f"/api/v1/clients/{site}", json={"approval_state": 100}, headers=seen).status_code == 200
    assert root.patch("/api/v1/project", json={"frozen": True}).status_code == 200
    kits = {
        name: _kit(root, path, tmp_path / name)
        for name, path in (("server", "servers/1"), ("client", f"clients/{site}"))
    }
    with contextlib.ExitStack() as processes:
        for kind, kit in kits.items():
            processes.enter_context(running(kind, kit, tmp_path / f"workspace-{kind}", port=port))
        until(lambda: state_of(tmp_path / "workspace-client") == "registered", timeout_s=30)
        reissued = root.post(f"/api/v1/clients/{site}/reissue", json={})
        assert reissued.json()["revoked"], reissued.text
        log = tmp_path / "workspace-server" / "log.txt"
        until(lambda: "Refused the registration of 'site-1'" in log.read_text(), timeout_s=30)
        until(lambda: state_of(tmp_path / "workspace-client") != "registered", timeout_s=30)
        said = (tmp_path / "workspace-client" / "log.txt").read_text()
        assert "the certificate of site-1 was revoked" in said
        anew = _kit(root, f"clients/{site}", tmp_path / "anew")
        processes.enter_context(running("client", anew, tmp_path / "workspace-anew", port=port))
        until(lambda: state_of(tmp_path / "workspace-anew") == "registered", timeout_s=30)
        pushed = [one for one in root.get("/api/v1/audit").json()["entry_list"] if one["action"] == "push_crl"]
        assert len(pushed) == 1


@pytest.mark.xdist_group("dashboard")
def test_it_ends_when_it_is_told_to_and_starts_again_with_what_it_knew(started):
    folder, told = started
    assert clouddeploy(folder, "stop")["data"] == {"running": False, "pid": told["pid"]}
    assert clouddeploy(folder, "stop", check=False)["error_code"] == "DASHBOARD_STATE"
    again = clouddeploy(folder, "start", "--host", "127.0.0.1", "-p", "0")["data"]
    assert again["fingerprint"] == told["fingerprint"]
    assert again["password"] == ""


def test_the_local_one_speaks_http_to_this_machine_only(tmp_path):
    env = {**os.environ, "CLOUDDEPLOY_CA_PASSPHRASE": "x", "NVFL_CREDENTIAL": CREDENTIAL}
    words = ["dashboard", "start", "--local", "-p", "0", "-f", str(tmp_path / "dashboard")]
    process = subprocess.Popen(
        [sys.executable, "-m", "clouddeploy.cli", *words], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        url = line.split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.get(url).status_code == 200
        assert httpx2.get(url, headers={"host": "evil.example"}).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _kit(root, path, folder):
    answer = root.post(f"/api/v1/{path}/blob", json={})
    assert answer.status_code == 200, answer.text
    return unpacked(answer.content, answer.headers["x-kit-code"], folder)
