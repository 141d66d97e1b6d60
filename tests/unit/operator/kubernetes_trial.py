"""A deploy file whose sites are pods of a rehearsed cluster: kits are real, pods are ready unless a fault says no."""

import copy
import threading
from dataclasses import dataclass, field, replace

import yaml
from clouddeploy_providers.endpoints import Endpoints

from clouddeploy.deployment import Deployment
from clouddeploy.installation import Installation
from clouddeploy.secrets import Secret

IMAGE = "registry.example.com/fl/site@sha256:" + "0123456789abcdef" * 4
NEWER = "registry.example.com/fl/site@sha256:" + "fedcba9876543210" * 4
PROJECT = {
    "api_version": 3,
    "name": "trial",
    "builders": [
        {"path": f"nvflare.lighter.impl.{name}"}
        for name in (
            "workspace.WorkspaceBuilder",
            "static_file.StaticFileBuilder",
            "cert.CertBuilder",
            "signature.SignatureBuilder",
        )
    ],
    "participants": [
        {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": 8002},
        {"name": "site-1", "type": "client", "org": "org_a"},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
}


@dataclass(frozen=True)
class Impatient(Installation):
    """Waits for pods as long as a test can."""

    ready_timeout_s: float = field(default=0.3, kw_only=True)

    @property
    def clusters(self):
        return replace(super().clusters, ready_timeout_s=self.ready_timeout_s, poll_s=0.02)


class Trial:
    """One deploy file; `sites` has what differs from the usual, and `top` the same of the file's own keys."""

    def __init__(self, folder, cluster, *, port=8002, ready_timeout_s=0.3):
        self.folder = folder
        self.cluster = cluster
        self.file = folder / "deploy.yml"
        self.top = {}
        self.sites = {
            "server1": {"service": "LoadBalancer", "cloud": "gcp", "address": "203.0.113.7"},
            "site-1": {},
        }
        self.cancel = threading.Event()
        self.events = []
        self.ready_timeout_s = ready_timeout_s
        project = copy.deepcopy(PROJECT)
        project["participants"][0]["fed_learn_port"] = port
        (folder / "project.yml").write_text(yaml.safe_dump(project))

    def write(self):
        own = {
            "provider": "kubernetes",
            "context": "rehearsal",
            "namespace": "fl",
            "kubeconfig": str(self.cluster.kubeconfig()),
            "container": IMAGE,
        }
        sites = {
            name: {key: value for key, value in {**own, **given}.items() if value is not None}
            for name, given in self.sites.items()
        }
        document = {"version": 1, "project": "project.yml", **self.top, "sites": sites}
        self.file.write_text(yaml.safe_dump(document))
        return self.file

    def deployment(self):
        endpoints = Endpoints(caller_address="192.0.2.1")
        made = Deployment(self.write(), endpoints=endpoints, cancel=self.cancel, installation=Impatient)
        object.__setattr__(made.installation, "ready_timeout_s", self.ready_timeout_s)
        return made

    def plan(self, **given):
        return self.deployment().plan(**given)

    def apply(self, **given):
        return self.deployment().apply(Secret("correct horse"), on_event=self.events.append, **given)

    def destroy(self):
        return self.deployment().destroy(on_event=self.events.append)

    def pending(self):
        plan = self.plan()
        return {change.node: change.action.value for change in plan.pending}, plan.uninstalled
