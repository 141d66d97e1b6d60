import subprocess
from datetime import UTC, datetime

import pytest
from clouddeploy_providers import cloud_init
from clouddeploy_rehearsal import user_data


def test_what_the_engine_renders_is_read_back():
    host, user = cloud_init.generate_host_key(), cloud_init.generate_host_key()
    text = cloud_init.render(
        user="clouddeploy",
        public_key=user.public,
        host_private_key=host.private,
        host_public_key=host.public,
        hostname="h",
    )
    read = user_data.parse(text, user="ubuntu")
    assert (read.user, read.authorized_keys) == ("clouddeploy", (user.public,))
    assert (read.host_private_key, read.host_public_key) == (host.private, host.public)


def test_no_user_data_gives_the_images_account_and_a_host_key_of_its_own():
    one = user_data.parse("", user="ubuntu", authorized_keys=("ssh-ed25519 AAAA",))
    two = user_data.parse("#!/bin/sh\ntrue\n", user="ubuntu")
    assert (one.user, one.authorized_keys, one.commands) == ("ubuntu", ("ssh-ed25519 AAAA",), ())
    assert one.host_public_key != two.host_public_key


@pytest.mark.parametrize("text", ["#cloud-config\n- a list\n", "#cloud-config\nusers: [\n"])
def test_a_broken_cloud_config_is_refused(text):
    with pytest.raises(ValueError, match="cloud-config"):
        user_data.parse(text, user="ubuntu")


def test_write_files_then_runcmd_do_what_they_say(tmp_path):
    path = tmp_path / "a folder" / "it's.txt"
    text = (
        "#cloud-config\n"
        f'runcmd:\n- [cp, "{path}", "{tmp_path}/copy"]\n'
        f"write_files:\n- path: \"{path}\"\n  content: |\n    $HOME 'quoted'\n  permissions: '0600'\n"
        f"- path: {tmp_path}/decoded\n  encoding: b64\n  content: aGVsbG8=\n"
    )
    commands = user_data.parse(text, user="ubuntu").commands
    subprocess.run(["bash", "-ec", "\n".join(commands)], check=True)
    assert (tmp_path / "copy").read_text() == "$HOME 'quoted'\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "decoded").read_text() == "hello"


def test_a_host_private_key_is_not_in_the_text_of_the_object():
    assert "PRIVATE" not in repr(user_data.parse("", user="ubuntu"))


def expiring(**changed):
    key = cloud_init.generate_host_key()
    given = {"user": "u", "public_key": key.public, "hostname": "h", "expires_at": "2026-11-25T18:00:00Z"}
    return cloud_init.render(host_private_key=key.private, host_public_key=key.public, **given | changed)


def test_the_time_at_which_a_machine_switches_itself_off_is_read_back():
    read = user_data.parse(expiring(), user="ubuntu")
    assert read.expires_at == datetime(2026, 11, 25, 18, tzinfo=UTC)
    assert user_data.parse(expiring(expires_at=""), user="ubuntu").expires_at is None


def test_nothing_of_systemd_is_run_where_there_is_none():
    commands = user_data.parse(expiring(), user="ubuntu").commands
    assert len(commands) == 2
    assert all("/etc/systemd/system/clouddeploy-expiry" in line for line in commands)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("- enable\n", "- disable\n"),
        ("systemctl poweroff", "systemctl status"),
        ("2026-11-25 18:00:00 UTC", "hourly"),
    ],
)
def test_a_timer_that_would_not_switch_it_off_does_not_here(was, now):
    text = expiring()
    assert was in text
    assert user_data.parse(text.replace(was, now), user="ubuntu").expires_at is None
