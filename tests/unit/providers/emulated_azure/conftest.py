"""An emulated subscription without hosts, shared by the tests of a module and empty at the start of each."""

import time
from dataclasses import dataclass, replace

import pytest
from clouddeploy_providers.azure.provider import AzureProvider
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_rehearsal.azure.account import Account
from clouddeploy_rehearsal.azure.server import AzureCloud
from clouddeploy_rehearsal.faults import Faults
from clouddeploy_rehearsal.unmanned import UnmannedFleet

WESTUS2 = {"location": "westus2"}


@dataclass
class Time:
    """Passes when somebody waits for it. Is also the event of a cancellation that never comes."""

    now_s: float = 1000.0
    step_s: float = 12.0

    def __call__(self):
        return self.now_s

    def wait(self, _seconds):
        self.now_s += self.step_s
        return False

    def is_set(self):
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("azure")
    cloud = AzureCloud(UnmannedFleet(folder), Faults())
    yield cloud, replace(cloud.start(folder), polling_interval_s=0.01)
    cloud.close()


@pytest.fixture
def cloud(served):
    """The emulated Azure, empty and allowing everything."""
    there, _ = served
    there.store.resources.clear()
    there.store.theirs.clear()
    there.store._reserved.clear()
    there.store.clock = time.monotonic
    vars(there.account).update(vars(Account()))
    return there


@pytest.fixture
def make(served, cloud):
    made = []

    def make(**settings):
        made.append(AzureProvider({**WESTUS2, **settings}, Endpoints(azure=served[1])))
        return made[-1]

    yield make
    for provider in made:
        provider._clients.close()


@pytest.fixture
def provider(make):
    return make()


@pytest.fixture
def virtual_time():
    return Time()
