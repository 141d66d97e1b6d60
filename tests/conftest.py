"""What tests of several folders need."""

import ctypes
import gc

import pytest
import yaml

PR_SET_CHILD_SUBREAPER = 36

BUILDERS = ("cert.CertBuilder", "signature.SignatureBuilder")
TRIAL = {
    "api_version": 3,
    "name": "trial",
    "participants": [
        {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": 8002},
        {"name": "site-1", "type": "client", "org": "org_a"},
    ],
    "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in BUILDERS],
}


@pytest.fixture(scope="session")
def write_trial():
    """Returns a function that writes the project of one server and one client, `project.yml`, into a folder."""

    def write_trial(folder):
        (folder / "project.yml").write_text(yaml.safe_dump(TRIAL))

    return write_trial


@pytest.fixture(autouse=True)
def no_foreign_orphans():
    """A parent of jobs adopts their orphans; a test that was one must not get those of the tests after it."""
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def pytest_collection_finish():
    """Thousands of collected tests live to the end: a full collection should not look at each of them every time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
