import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import config
from clouddeploy.errors import ConfigError

GOOD = """\
version: 1
project: project.yml
ssh_sources: [203.0.113.7/32]
sites:
  server1: {provider: azure, location: westus2}
  site-1: {provider: aws, region: us-west-2, size: t3.small, data: data}
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "data").mkdir()

    def write(text):
        file = tmp_path / "deploy.yml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def problem(file):
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


def test_a_good_file(write):
    file = write(GOOD)
    loaded = config.load(file)
    assert loaded.project == file.parent / "project.yml"
    assert loaded.workspace == file.parent / "workspace"
    assert loaded.ssh_sources == ("203.0.113.7/32",)
    site = loaded.site("site-1")
    assert (site.provider, site.size, site.data) == ("aws", "t3.small", file.parent / "data")
    assert dict(site.settings) == {"region": "us-west-2"}


def test_missing_file(tmp_path):
    assert "does not exist" in problem(tmp_path / "none.yml")


def test_malformed_yaml_names_the_line(write):
    assert "deploy.yml:2" in problem(write("version: 1\nsites: ]\n"))


def test_an_unknown_key_names_its_line_and_the_known_ones(write):
    text = problem(write(GOOD + "sitez: {}\n"))
    assert "deploy.yml:7: sitez: unknown key" in text
    assert "smoke_job" in text


def test_all_problems_are_reported_at_once(write):
    text = problem(
        write("version: 2\nsites:\n  a: {disk_gib: 1, provider: aws}\n  b: {data: nowhere, provider: aws}\n")
    )
    assert "version" in text
    assert "project" in text
    assert "sites.a.disk_gib" in text
    assert "sites.b.data" in text


def test_a_site_named_twice(write):
    assert "appears twice" in problem(write(GOOD + "  site-1: {provider: local}\n"))


def test_the_whole_internet_is_a_valid_but_explicit_source(write):
    assert config.load(write(GOOD.replace("203.0.113.7/32", "0.0.0.0/0"))).ssh_sources == ("0.0.0.0/0",)


def test_a_source_that_is_no_cidr_block(write):
    assert "not a CIDR block" in problem(write(GOOD.replace("203.0.113.7/32", "home")))


def test_a_site_that_the_project_does_not_have(write):
    loaded = config.load(write(GOOD))
    with pytest.raises(ConfigError, match=r"deploy\.yml:6: sites\.site-1: .*no such server or client"):
        config.check_sites(loaded, servers=("server1",), clients=("site-9",))


def test_a_deploy_file_without_the_server(write):
    loaded = config.load(write(GOOD))
    with pytest.raises(ConfigError, match="the server 'server2' of the project is missing"):
        config.check_sites(loaded, servers=("server2",), clients=("server1", "site-1"))


def test_a_key_that_the_provider_does_not_know(write):
    loaded = config.load(write(GOOD))
    with pytest.raises(ConfigError, match=r"site-1\.region: unknown key for provider 'aws'"):
        config.check_settings(loaded, {"azure": frozenset({"location"}), "aws": frozenset()})
