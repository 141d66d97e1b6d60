"""Two operators, two machines, one deployment: only the shared store knows what exists."""

import pytest
import yaml
from clouddeploy_providers.fake_cloud import FakeCloud

from clouddeploy.deployment import Deployment
from clouddeploy.errors import LockedError
from clouddeploy.killable import BareInstallation
from clouddeploy.secrets import Secret

pytestmark = pytest.mark.xdist_group("shared_state")


@pytest.fixture
def operator(case, tmp_path, write_trial):
    if not case.url:
        pytest.skip("a folder is not shared")
    own = {"provider": "fake", "file": str(tmp_path / "cloud.json")}
    deploy = {
        "version": 1,
        "project": "project.yml",
        "state": case.url,
        "ssh_sources": ["192.0.2.1/32"],
        "sites": {"server1": own, "site-1": own},
    }

    def operator(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_trial(folder)
        (folder / "deploy.yml").write_text(yaml.safe_dump(deploy))
        return Deployment(folder / "deploy.yml", installation=BareInstallation)

    operator.cloud = FakeCloud(tmp_path / "cloud.json")
    return operator


def test_what_one_applies_the_other_sees_and_destroys(operator, tmp_path):
    operator("anna").apply(Secret("correct horse"))
    assert operator("ben").plan().pending == ()
    assert operator("ben").deployment_id() == operator("anna").deployment_id()
    assert operator("ben").destroy().left == ()
    assert operator.cloud.names == []
    assert operator("anna").plan().pending
    folder = tmp_path / "anna" / ".clouddeploy" / "deploy"
    assert sorted(path.name for path in folder.iterdir()) == ["keys"]


def test_both_at_once_is_one_too_many(operator):
    refused = []

    def meanwhile(_event):
        if not refused:
            with pytest.raises(LockedError) as caught:
                operator("ben").apply(Secret("correct horse"))
            refused.append(caught.value)

    operator("anna").apply(Secret("correct horse"), on_event=meanwhile)
    assert "apply" in str(refused[0])
    assert operator("ben").plan().pending == ()
    operator("ben").destroy()
