"""A deployment on the shipped fake cloud, without machines: the whole engine, in memory speed."""

import signal
import subprocess
import sys
import threading

import pytest
import yaml
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.fake_cloud import FakeCloud

from clouddeploy.deployment import Deployment
from clouddeploy.killable import BareInstallation
from clouddeploy.secrets import Secret

BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
APPLY = """
import sys
from pathlib import Path
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy.deployment import Deployment
from clouddeploy.killable import BareInstallation
from clouddeploy.secrets import Secret
file, caller, *sites = sys.argv[1:]
deployment = Deployment(Path(file), endpoints=Endpoints(caller_address=caller), installation=BareInstallation)
deployment.apply(Secret("correct horse"), sites=frozenset(sites))
"""
PROJECT = {
    "api_version": 3,
    "name": "trial",
    "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in BUILDERS],
    "participants": [
        {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": 8002},
        {"name": "site-1", "type": "client", "org": "org_a"},
        {"name": "site-2", "type": "client", "org": "org_b"},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
}


class Trial:
    """One deploy file on a fake cloud; `given` changes its keys, `sites` those of its sites."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "deploy.yml"
        self.cloud = FakeCloud(folder / "cloud.json")
        self.top = {}
        self.sites = {name: {} for name in ("server1", "site-1", "site-2")}
        self.caller = "192.0.2.1"
        self.cancel = threading.Event()
        self.events = []
        (folder / "project.yml").write_text(yaml.safe_dump(PROJECT))

    def deployment(self):
        own = {"provider": "fake", "file": str(self.folder / "cloud.json")}
        sites = {name: {**own, **given} for name, given in self.sites.items()}
        document = {"version": 1, "project": "project.yml", **self.top, "sites": sites}
        self.file.write_text(yaml.safe_dump(document))
        return Deployment(
            self.file,
            endpoints=Endpoints(caller_address=self.caller),
            cancel=self.cancel,
            installation=BareInstallation,
        )

    def plan(self, **given):
        return self.deployment().plan(**given)

    def apply(self, **given):
        return self.deployment().apply(Secret("correct horse"), on_event=self.events.append, **given)

    def apply_killed(self, *sites):
        """In a process of its own, which a fault of the cloud kills."""
        self.deployment()
        done = subprocess.run([sys.executable, "-c", APPLY, str(self.file), self.caller, *sites], check=False)
        assert done.returncode == -signal.SIGKILL

    def destroy(self, **given):
        return self.deployment().destroy(on_event=self.events.append, **given)

    def actions(self):
        return {change.node: change.action.value for change in self.plan().pending}

    def name_of(self, site, kind):
        (name,) = (name for name in self.cloud.names if f"-{site}-{kind}-" in name)
        return name

    def thing(self, site, kind):
        name = self.name_of(site, kind)
        with self.cloud.changing() as content:
            return content["things"][name]


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path)
