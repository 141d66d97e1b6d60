import shlex
import shutil
import subprocess
import time
from pathlib import PurePosixPath

import pytest
import yaml
from clouddeploy_providers import cloud_init
from clouddeploy_providers.errors import InvalidRequest

EXPIRES_AT = "2026-11-25T18:00:00Z"
SERVICE = """\
[Unit]
Description=Switches this machine off, since its time is over

[Service]
Type=oneshot
ExecCondition=/bin/sh -c 'test "$$(date +%%s)" -ge 1795629600'
ExecStart=/usr/bin/systemctl poweroff
"""
TIMER = """\
[Unit]
Description=Switches this machine off at 2026-11-25T18:00:00Z

[Timer]
OnCalendar=2026-11-25 18:00:00 UTC
OnBootSec=30s
Persistent=true
AccuracySec=1s
Unit=clouddeploy-expiry.service

[Install]
WantedBy=timers.target
"""
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOperator operator"


@pytest.fixture
def key():
    return cloud_init.generate_host_key()


@pytest.fixture
def text(key):
    return cloud_init.render(
        user="fl",
        public_key=PUBLIC,
        host_private_key=key.private,
        host_public_key=key.public,
        hostname="site-1",
    )


def test_it_is_a_cloud_config_that_yaml_reads_back(text, key):
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert document["ssh_keys"] == {"ed25519_private": key.private, "ed25519_public": key.public}
    assert document["hostname"] == "site-1"


def test_the_one_account_has_a_key_and_no_password(text):
    document = yaml.safe_load(text)
    [user] = document["users"]
    assert user["ssh_authorized_keys"] == [PUBLIC]
    assert user["lock_passwd"] is True
    assert document["ssh_pwauth"] is False
    assert document["disable_root"] is True
    assert not {"passwd", "plain_text_passwd", "hashed_passwd"} & set(user)


def test_only_the_given_host_key_is_left(text):
    document = yaml.safe_load(text)
    assert document["ssh_deletekeys"] is True
    assert document["ssh_genkeytypes"] == ["ed25519"]


def test_it_is_pure(text, key):
    given = {"host_private_key": key.private, "host_public_key": key.public, "hostname": "site-1"}
    assert cloud_init.render(user="fl", public_key=PUBLIC, **given) == text


@pytest.mark.parametrize("value", ["a: b", "x\n- runcmd: [rm]", "{", "'"])
def test_no_value_breaks_out_of_its_place(value, key):
    text = cloud_init.render(
        user=value, public_key=value, host_private_key=key.private, host_public_key=key.public, hostname=value
    )
    document = yaml.safe_load(text)
    assert document["users"][0]["name"] == value
    assert "runcmd" not in document


def test_it_fits_the_16_kib_of_user_data(text):
    assert len(text.encode()) < 16 * 1024 / 4


def test_ssh_keygen_agrees_that_the_two_halves_belong_together(key, tmp_path):
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(key.private)
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == key.public.split()


def test_two_keys_are_different_and_neither_shows_its_private_half(key):
    assert cloud_init.generate_host_key().public != key.public
    assert key.private not in repr(key)
    assert "PRIVATE" not in repr(key)


def render_expiring(key, expires_at):
    given = {"host_private_key": key.private, "host_public_key": key.public, "hostname": "site-1"}
    return cloud_init.render(user="fl", public_key=PUBLIC, **given, expires_at=expires_at)


def test_without_an_end_nothing_is_written_or_run(text):
    assert not {"write_files", "runcmd"} & set(yaml.safe_load(text))


def test_a_machine_with_an_end_switches_itself_off_then_and_at_every_later_start(key, text):
    document = yaml.safe_load(render_expiring(key, EXPIRES_AT))
    rights = {"owner": "root:root", "permissions": "0644"}
    assert document.pop("write_files") == [
        {"path": "/etc/systemd/system/clouddeploy-expiry.service", "content": SERVICE, **rights},
        {"path": "/etc/systemd/system/clouddeploy-expiry.timer", "content": TIMER, **rights},
    ]
    assert document.pop("runcmd") == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "clouddeploy-expiry.timer"],
    ]
    assert document == yaml.safe_load(text)


def test_what_switches_it_off_holds_no_secret_and_needs_none(key):
    """The units are readable by every account of the machine."""
    files = yaml.safe_load(render_expiring(key, EXPIRES_AT))["write_files"]
    assert [word for file in files for word in ("PRIVATE", "ssh-", "token", "secret") if word in file["content"]] == []


@pytest.mark.parametrize(("shift_s", "status"), [(-5, 0), (0, 0), (3600, 1)], ids=["over", "now", "later"])
def test_it_stays_on_until_then_whatever_starts_the_service(key, shift_s, status):
    end = time.strftime(cloud_init.EXPIRES_AT, time.gmtime(time.time() + shift_s))
    service = yaml.safe_load(render_expiring(key, end))["write_files"][0]["content"]
    [line] = [line for line in service.splitlines() if line.startswith("ExecCondition=")]
    command = line.partition("=")[2].replace("$$", "$").replace("%%", "%")  # as systemd reads it
    assert subprocess.run(shlex.split(command), check=False).returncode == status


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_units(key, tmp_path):
    for file in yaml.safe_load(render_expiring(key, EXPIRES_AT))["write_files"]:
        (tmp_path / PurePosixPath(file["path"]).name).write_text(file["content"])
    units = map(str, sorted(tmp_path.iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    "value", ["8h", "2026-11-25", "2026-11-25T18:00:00+01:00", "2026-13-01T00:00:00Z", "x\nEvil=1"]
)
def test_an_end_that_is_no_time_is_refused(key, value):
    with pytest.raises(InvalidRequest) as caught:
        render_expiring(key, value)
    assert "2026-11-25T18:00:00Z" in caught.value.hint
