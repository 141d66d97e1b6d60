"""A deploy file with `service:` on the shipped fake cloud: one machine, no federation, nothing signed."""

import shutil

import pytest
import yaml
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.fake_cloud import FakeCloud

from clouddeploy import config, service
from clouddeploy.cli.deploy import plan_text
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError
from clouddeploy.killable import BareServiceInstallation
from clouddeploy.remote import bootstrap

SERVICE = {"name": "board", "command": ["python", "-m", "http.server"], "ports": [8443, 8080, 9090]}


class Board:
    """One service, and the deploy file for it."""

    def __init__(self, folder):
        self.folder = folder
        self.service = folder / "board"
        self.service.mkdir()
        self.cloud = FakeCloud(folder / "cloud.json")
        self.write()

    def write(self, **given):
        (self.service / service.FILE).write_text(yaml.safe_dump({**SERVICE, **given}))

    def deployment(self, *, sites=("dash",), site=None, **top):
        own = {"provider": "fake", "file": str(self.folder / "cloud.json"), **(site or {})}
        document = {"version": 1, "service": "board", **top, "sites": dict.fromkeys(sites, own)}
        file = self.folder / "deploy.yml"
        file.write_text(yaml.safe_dump(document))
        where = Endpoints(caller_address="192.0.2.1")
        return Deployment(file, endpoints=where, service_installation=BareServiceInstallation)


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def firewall(plan):
    (found,) = (change.wanted for change in plan.changes if change.node.endswith("/firewall"))
    return found


def test_it_is_a_server_without_clients_that_needs_no_passphrase(board):
    facts = board.deployment().facts
    assert (facts.project, facts.server, facts.clients, facts.ports) == ("board", "dash", (), (8443, 8080, 9090))
    assert not facts.is_signed_here
    assert dict(facts.capacities) == {}


def test_its_ports_are_open_and_every_rule_has_a_name_of_its_own(board):
    plan = board.deployment().plan()
    assert plan.problems == ()
    assert {change.node for change in plan.pending} >= {"dash/address", "dash/firewall", "dash/machine"}
    rules = firewall(plan).rules
    assert {rule.port: rule.sources for rule in rules if rule.port != 22} == dict.fromkeys(
        (8443, 8080, 9090), ("0.0.0.0/0",)
    )
    assert len({rule.purpose for rule in rules}) == len(rules)
    (warning,) = plan.warnings
    assert warning.startswith("the service's ports are open to the world")
    shown = plan_text(plan)
    for word in ("ertificate", "TLS", "participant", "kit"):
        assert word not in shown
    narrow = board.deployment(federation_sources=["198.51.100.0/24"]).plan()
    assert narrow.warnings == ()
    assert {rule.sources for rule in firewall(narrow).rules if rule.port != 22} == {("198.51.100.0/24",)}


def test_it_is_applied_twice_and_destroyed(board):
    events = []
    applied = board.deployment().apply(on_event=events.append)
    assert set(applied.ready_after_s) == {"dash"}
    titles = {event.title for event in events}
    assert titles >= {"check the service", "install", "start", "answer"}
    assert not titles & {"sign kits", "verify the kit", "register", "answer with our certificate"}
    names = board.cloud.names
    assert board.deployment().plan().pending == ()
    board.deployment().apply()
    assert board.cloud.names == names
    assert board.deployment().destroy().left == ()
    assert board.cloud.names == []


def test_there_is_no_startup_kit(board):
    with pytest.raises(ConfigError, match="deploys a service"):
        board.deployment().kit("dash")


def test_changed_content_is_something_to_do(board):
    deployment = board.deployment()
    deployment.apply()
    recorded = deployment.recorded()
    assert deployment.installation.outdated(recorded) == ("dash",)  # nothing was installed on this machine
    recorded.sites["dash"]["release"] = digest = digest_of(board, deployment)
    assert deployment.installation.outdated(recorded) == ()
    (board.service / "page.html").write_text("hello")
    assert deployment.installation.outdated(recorded) == ("dash",)
    assert digest_of(board, deployment) != digest
    assert "To be installed: dash" in plan_text(deployment.plan())


def digest_of(board, deployment):
    """What is installed for the folder as it is now."""
    aside = board.folder / f"aside-{len(list(board.folder.iterdir()))}"
    aside.mkdir()
    with service.supervised(deployment.installation.service) as folder:
        return bootstrap.pack(folder, "kit", aside)[1]


def test_what_was_made_is_destroyed_also_when_the_service_is_gone(board):
    board.deployment().apply()
    shutil.rmtree(board.service)
    deployment = board.deployment()
    for use in (deployment.plan, deployment.apply):
        with pytest.raises(ConfigError, match=r"service\.yml does not exist"):
            use()
    assert [site.name for site in deployment.status()] == ["dash"]
    assert deployment.destroy().left == ()
    assert board.cloud.names == []


def test_one_that_is_not_there_is_refused_when_nothing_was_made_with_it(board):
    shutil.rmtree(board.service)
    with pytest.raises(ConfigError, match=r"service\.yml does not exist"):
        board.deployment()


def test_one_that_was_changed_meanwhile_is_not_installed(board):
    deployment = board.deployment()
    kits, _ = deployment.installation.kits_and_install(None)
    assert kits(None) == {"dash": board.service}
    board.write(ports=[8081])
    with pytest.raises(ConfigError, match="another than before"):
        kits(None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"project": "project.yml"}, "service: stands beside project; a deploy file has one of the two"),
        ({"kit": "site-1"}, "service: stands beside kit"),
        ({"runtime": "nvflare==2.9.0"}, "runtime: is for a kit that NVFLARE has made"),
        ({"workspace": "w"}, "workspace: means nothing for a service"),
        ({"smoke_job": "j"}, "smoke_job: means nothing for a service"),
        ({"keys": "on-site"}, "keys: means nothing for a service"),
        ({"federation_sources": "sites"}, "federation_sources: cannot be `sites`"),
        ({"sites": ("a", "b")}, "sites: has more than the service's own site"),
        ({"sites": ("../a",)}, "sites.../a: is no name of a site"),
        ({"site": {"keys": "central"}}, "sites.dash.keys: means nothing for a service"),
    ],
)
def test_what_does_not_go_with_a_service(board, given, said):
    with pytest.raises(ConfigError) as caught:
        board.deployment(**given)
    assert said in str(caught.value)


def test_all_three_are_too_many(tmp_path):
    file = tmp_path / "deploy.yml"
    file.write_text("version: 1\nproject: p\nkit: k\nservice: s\nsites: {a: {provider: fake}}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert "kit: stands beside project" in str(caught.value)
    assert "service: stands beside project" in str(caught.value)
