"""What a deploy file that was sent in may name, and what the page says of one that names more."""

import json
import queue
import re
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from clouddeploy import deploy_schema
from clouddeploy.dashboard import deploy_paths, deploy_worker
from clouddeploy.dashboard.deploy_paths import Bounds, check
from clouddeploy.errors import ConfigError

EVERY = [("top", key) for key in deploy_paths.TOP_PATHS] + [("site", key) for key in deploy_paths.SITE_PATHS]


@pytest.fixture
def place(tmp_path):
    found = tmp_path / "dashboard" / "deployments"
    found.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("s")
    return found


def written(place, where, key, value):
    site = {"provider": "onprem", **({key: value} if where == "site" else {})}
    document = {"version": 1, **({key: value} if where == "top" else {}), "sites": {"site-1": site}}
    file = place / "mine.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def refused(place, where, key, value, *further):
    file = written(place, where, key, str(value))
    with pytest.raises(ConfigError) as caught:
        check(file, Bounds(place, tuple(further)).of(file))
    return str(caught.value)


def allowed(place, where, key, value, *further):
    file = written(place, where, key, str(value))
    check(file, Bounds(place, tuple(further)).of(file))


def test_every_key_of_the_schema_that_is_a_path_is_known():
    top = {key for key, kind in get_type_hints(deploy_schema.File, include_extras=True).items() if "_path" in str(kind)}
    assert top == set(deploy_paths.TOP_PATHS)
    site = {
        key for key, kind in get_type_hints(deploy_schema.Site, include_extras=True).items() if "_path" in str(kind)
    }
    assert site | deploy_schema.KEY_FILES | {"directory"} == set(deploy_paths.SITE_PATHS)


@pytest.mark.parametrize(("where", "key"), EVERY)
def test_no_path_leads_out_of_the_folder_of_deployments(place, tmp_path, where, key):
    (place / "link").symlink_to(tmp_path / "elsewhere")
    for value in (
        "/etc/hostname",
        "../../elsewhere/secret",
        "~/.ssh/id_ed25519",
        "link/secret",
        ".",
        "..",
        "~nobody/x",
    ):
        why = refused(place, where, key, value)
        assert re.search(rf"mine\.yml:\d: .*\b{key}: ", why), why


@pytest.mark.parametrize(("where", "key"), EVERY)
def test_what_lies_in_it_may_be_named(place, where, key):
    allowed(place, where, key, "files/mine")


@pytest.mark.parametrize(("where", "key"), EVERY)
def test_keys_and_states_of_other_deployments_may_not(place, where, key):
    assert "hidden" in refused(place, where, key, ".clouddeploy/other/id_ed25519")


@pytest.mark.parametrize(("where", "key"), EVERY)
def test_the_operator_allows_a_further_folder(place, tmp_path, where, key):
    assert "--deploy-from" in refused(place, where, key, tmp_path / "elsewhere" / "secret")
    allowed(place, where, key, tmp_path / "elsewhere" / "secret", tmp_path / "elsewhere")


def test_what_is_sent_takes_nothing_along(place, tmp_path):
    data = place / "data"
    (data / "below").mkdir(parents=True)
    allowed(place, "site", "data", "data")
    (data / "below" / "link").symlink_to(tmp_path / "elsewhere" / "secret")
    assert "below/link" in refused(place, "site", "data", "data")
    (data / "below" / "link").unlink()
    (data / "below" / "key.pem").write_text("-----BEGIN EC PRIVATE KEY-----\n")
    assert "private key" in refused(place, "site", "data", "data")
    (data / "below" / "key.pem").write_text("Bag Attributes\n" * 200 + "-----BEGIN PRIVATE KEY-----\n")
    assert "private key" in refused(place, "site", "data", "data")
    allowed(place, "top", "service", "data")  # a service has the key of its certificate
    (data / ".clouddeploy").mkdir()
    assert "keys and states" in refused(place, "top", "service", "data")


def test_nothing_is_run_on_the_dashboards_machine_and_no_state_is_read_elsewhere(place):
    file = place / "mine.yml"
    file.write_text("version: 1\nstate: s3://theirs/state\nsites:\n  site-1: {provider: local}\n")
    with pytest.raises(ConfigError) as caught:
        check(file, Bounds(place).of(file))
    why = str(caught.value)
    assert "mine.yml:2: state" in why
    assert "mine.yml:4: sites.site-1.provider: would run programs" in why
    assert "deployments/NAME/deploy.yml" in why


def test_a_file_that_the_operator_put_there_is_held_to_nothing(place):
    (place / "mine").mkdir()
    assert Bounds(place).of(place / "mine" / "deploy.yml") is None
    (place / "deployments").mkdir()
    assert Bounds(place).of(place / "deployments" / "deploy.yml") is None
    assert Bounds(place).of(place / "deploy.yml") is not None


def test_it_is_refused_when_it_is_sent_in_and_nothing_is_kept(world):
    world.configure()
    browser = world.browser()
    browser.get("/deployments")
    sent = b"version: 1\nproject: /etc/project.yml\nsites:\n  server1: {provider: aws, data: /nowhere}\n"
    answer = browser.send("/deployments", files={"file": ("d.yml", sent, "text/yaml")}, name="mine")
    assert answer.status_code == 400
    assert "--deploy-from" in answer.text
    assert "is not a folder" not in answer.text, "whether something is there is nobody's business"
    assert list((world.desk.folder / "deployments").iterdir()) == []


class Pipe:
    """Gives the order, and keeps what is told; says nothing else."""

    def __init__(self, order):
        self._says, self.told = queue.Queue(), []
        self._says.put(json.dumps(order).encode())

    def recv_bytes(self):
        return self._says.get()

    def send_bytes(self, message):
        self.told.append(json.loads(message))


def test_the_run_looks_again(place, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    file = written(place, "top", "project", "/etc/project.yml")
    pipe = Pipe({"verb": "plan", "file": str(file), "passphrase": "x", "roots": [str(Path(place).resolve())]})
    deploy_worker.main(pipe)
    (told,) = pipe.told
    assert "--deploy-from" in told["end"]["error"]["message"]
    assert set(told["end"]) == {"error"}, "what there is of it is not looked for"
