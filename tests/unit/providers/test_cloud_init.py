import subprocess

import pytest
import yaml
from clouddeploy_providers import cloud_init

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
