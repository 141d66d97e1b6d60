import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.errors import Conflict, Transient
from clouddeploy_providers.fake import FakeCloud, FakeProvider
from clouddeploy_providers.resources import Kind, Owner, Resource

OWNER = Owner("0123abcd", "p", "s")
FIREWALL = Resource(Kind.FIREWALL, "firewall", OWNER)


@pytest.fixture
def cancel():
    return threading.Event()


def test_without_a_file_it_is_in_memory_and_shared_on_request(cancel):
    cloud = FakeCloud()
    first, second = (FakeProvider({}, REAL, cloud=cloud) for _ in range(2))
    ref = first.create(FIREWALL, cancel)
    assert second.find("0123abcd") == [ref]
    assert FakeProvider({}, REAL).find("0123abcd") == []


def test_what_is_found_again_is_not_counted_as_created(cancel):
    provider = FakeProvider({}, REAL)
    for _ in range(3):
        provider.create(FIREWALL, cancel)
    assert provider.cloud.created == 1


def test_what_is_in_use_is_not_deleted(cancel):
    provider = FakeProvider({}, REAL)
    ref = provider.create(FIREWALL, cancel)
    user = provider.create(Resource(Kind.MACHINE, "machine", OWNER, needs=(ref,)), cancel)
    with pytest.raises(Conflict, match="machine"):
        provider.delete(ref, cancel)
    provider.delete(user, cancel)
    provider.delete(ref, cancel)
    assert provider.find("0123abcd") == []


def test_a_new_thing_is_invisible_for_a_while_and_still_not_made_twice(cancel):
    """Eventual consistency: neither listing nor reading sees it, and creating it again finds it."""
    cloud = FakeCloud()
    lagging = FakeProvider({"lag_s": "1000"}, REAL, cloud=cloud)
    ref = lagging.create(FIREWALL, cancel)
    assert lagging.find("0123abcd") == []
    assert lagging.read(ref) is None
    assert lagging.create(FIREWALL, cancel) == ref
    assert cloud.created == 1
    assert FakeProvider({}, REAL, cloud=cloud).read(ref) == ref


def test_throttled_calls_are_repeated(cancel):
    provider = FakeProvider({"throttle": "2"}, REAL)
    assert provider.create(FIREWALL, cancel).name == "firewall"


def test_a_slow_creation_can_be_cancelled(cancel):
    cancel.set()
    provider = FakeProvider({"latency_s": "1000"}, REAL)
    with pytest.raises(Transient):
        provider.create(FIREWALL, cancel)
    assert provider.cloud.created == 0


def test_it_dies_after_the_creation_of_that_number_or_a_later_one_and_before_anybody_hears_of_it(cancel):
    died = []
    provider = FakeProvider({"crash_after": "2"}, REAL, crash=lambda: died.append(provider.cloud.created))
    for name in ("a", "b", "c"):
        provider.create(replace(FIREWALL, name=name), cancel)
    assert died == [2, 3]


def test_a_process_that_was_killed_leaves_its_cloud_to_its_successor(tmp_path, cancel):
    settings = {"file": str(tmp_path / "cloud.json")}
    code = (
        "import threading; from clouddeploy_providers.fake import FakeProvider;"
        "from clouddeploy_providers.endpoints import REAL; from clouddeploy_providers.resources import *;"
        f"p = FakeProvider({settings | {'crash_after': '1'}!r}, REAL);"
        "p.create(Resource(Kind.FIREWALL, 'firewall', Owner('0123abcd', 'p', 's')), threading.Event()); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    provider = FakeProvider(settings, REAL)
    assert [ref.name for ref in provider.find("0123abcd")] == ["firewall"]
    provider.create(FIREWALL, cancel)
    assert provider.cloud.created == 1
