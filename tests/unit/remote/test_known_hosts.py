import threading

import pytest
from clouddeploy_providers.cloud_init import generate_host_key
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import ConfigError, HostKeyChanged, HostKeyUnknown
from clouddeploy.remote.host_keys import forget_and_repin
from clouddeploy.remote.known_hosts import HostKeys, fingerprint


@pytest.fixture
def key():
    return generate_host_key().public


@pytest.fixture
def path(tmp_path):
    return tmp_path / "known_hosts"


def test_an_unknown_host_is_refused(path, key):
    with pytest.raises(HostKeyUnknown) as caught:
        HostKeys(path).check("site-1", key)
    assert caught.value.exit_code == ExitCode.CONNECTION


def test_the_pinned_key_is_accepted_by_whoever_reads_the_file(path, key):
    HostKeys(path).pin("site-1", key)
    HostKeys(path).check("site-1", key)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_changed_key_is_refused_and_both_fingerprints_are_named(path, key):
    keys = HostKeys(path)
    keys.pin("site-1", key)
    other = generate_host_key().public
    with pytest.raises(HostKeyChanged) as caught:
        keys.check("site-1", other)
    assert fingerprint(key) in str(caught.value)
    assert fingerprint(other) in str(caught.value)


def test_while_a_machine_changes_its_key_both_are_accepted_until_one_is_pinned(path, key):
    keys, final = HostKeys(path), generate_host_key().public
    keys.pin("site-1", key)
    keys.add("site-1", final)
    keys.check("site-1", key)
    keys.check("site-1", final)
    keys.pin("site-1", final)
    with pytest.raises(HostKeyChanged):
        keys.check("site-1", key)


def test_sites_that_connect_at_the_same_time_lose_no_pin(path, key):
    """Each connection may have its own object; the file is what they share."""
    names = [f"site-{number}" for number in range(16)]
    start = threading.Barrier(len(names))

    def pin(name):
        start.wait()
        HostKeys(path).pin(name, key)

    threads = [threading.Thread(target=pin, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name for name in names if not HostKeys(path).lookup(name)] == []


def test_the_pins_of_a_machine_that_is_gone_are_forgotten_and_no_others(path, key):
    keys = HostKeys(path)
    for name in ("site-1/vm", "site-10/vm"):
        keys.pin(name, key)
    keys.forget("site-1/")
    assert keys.lookup("site-1/vm") == ()
    assert keys.lookup("site-10/vm") == (fingerprint(key),)


def test_a_key_that_a_person_vouches_for_replaces_every_pin_of_the_site_and_of_no_other(path, key):
    keys, other = HostKeys(path), generate_host_key().public
    for name in ("site-1/old", "site-1/vm", "site-10/vm"):
        keys.pin(name, key)
    assert forget_and_repin(keys, "site-1", "vm", host_key=fingerprint(other)) == (fingerprint(key),)
    keys.check("site-1/vm", other)
    with pytest.raises(HostKeyChanged):
        keys.check("site-1/vm", key)
    assert keys.lookup("site-1/old") == ()
    assert keys.lookup("site-10/vm") == (fingerprint(key),)


@pytest.mark.parametrize("said", ["", "yes", "SHA256:abc", "MD5:" + 16 * "0a:", "ssh-ed25519 AAAA"])
def test_what_is_no_fingerprint_changes_no_pin(path, key, said):
    """An empty one above all: it never means whatever the host shows."""
    keys = HostKeys(path)
    keys.pin("site-1/vm", key)
    with pytest.raises(ConfigError):
        forget_and_repin(keys, "site-1", "vm", host_key=said)
    assert keys.lookup("site-1/vm") == (fingerprint(key),)
