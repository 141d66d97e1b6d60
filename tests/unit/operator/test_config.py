import json
from datetime import timedelta

import pytest
from clouddeploy_providers.resources import Need
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import config, deploy_schema
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


def test_what_aliases_blow_up_is_refused_at_once(write):
    levels = "".join(f"l{n}: &l{n} {{{', '.join(f'k{k}: *l{n - 1}' for k in range(10))}}}\n" for n in range(1, 12))
    assert "too many keys" in problem(write(f"l0: &l0 {{a: 1}}\n{levels}"))
    assert "too many keys" in problem(write("version: &me\n  again: *me\n"))


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


SITE = "  site-1: {provider: aws, region: us-west-2, size: t3.small, data: data}\n"


def with_site(**given):
    body = ", ".join(f"{key}: {value}" for key, value in given.items())
    return GOOD.replace(SITE, f"  site-1: {{provider: aws, region: us-west-2, {body}}}\n")


def test_a_need_instead_of_a_size(write):
    site = config.load(write(with_site(gpus=2, gpu_memory_gib=16, vcpus=8, memory_gib=61.5))).site("site-1")
    assert site.need == Need(gpus=2, gpu_memory_gib=16, vcpus=8, memory_gib=61.5)
    assert site.size is None


def test_a_size_and_a_need_contradict_each_other(write):
    assert "names a need beside a size" in problem(write(with_site(size="t3.small", gpus=1)))


def test_memory_of_gpus_that_are_not_asked_for(write):
    assert "so gpus is needed" in problem(write(with_site(gpu_memory_gib=16)))


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"gpus": 0}, "gpus"),
        ({"vcpus": "many"}, "vcpus"),
        ({"memory_gib": -1}, "memory_gib"),
        ({"siblings": "maybe"}, "siblings"),
        ({"zones": "[]"}, "zones"),
        ({"keys": "elsewhere"}, "keys"),
        ({"provider": 7}, "provider"),
        ({"vpc_id": "[a, b]"}, "vpc_id: is text or a number"),
    ],
)
def test_a_value_that_makes_no_sense_names_its_key(write, given, rule):
    assert f"sites.site-1.{rule}" in problem(write(with_site(**given)))


@pytest.mark.parametrize(
    ("text", "ttl"),
    [("8h", timedelta(hours=8)), ("30m", timedelta(minutes=30)), ("2d", timedelta(days=2))],
)
def test_how_long_machines_live(write, text, ttl):
    assert config.load(write(GOOD + f"ttl: {text}\n")).ttl == ttl


@pytest.mark.parametrize("text", ["8", "1m", "1000d", "-3h", "soon", "[8h]"])
def test_a_life_that_makes_no_sense(write, text):
    assert ":7: ttl:" in problem(write(GOOD + f"ttl: {text}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "docker.io/library/ubuntu",
        "ghcr.io/org/train:1.2",
        "localhost/train",
        "localhost:5000/a/b_c",
        "registry:5000/org/train",
        f"h.example/x:1@sha256:{64 * 'a'}",
    ],
)
def test_a_site_in_a_container(write, text):
    assert config.load(write(with_site(container=text))).site("site-1").container == text


@pytest.mark.parametrize(
    "text",
    [
        "--privileged",
        "ghcr.io/Org/Train",
        "a b",
        "ghcr.io/train:",
        "ghcr.io/train@sha256:1",
        "http://h.example/x",
        "$(id)",
        "train:1",
        "org/train:1.2",
        "ghcr.io",
        "ghcr.io/",
        "h../x",
    ],
)
def test_what_is_no_reference_to_a_container_image(write, text):
    assert "sites.site-1.container: is a reference to a container image" in problem(
        write(with_site(container=json.dumps(text)))
    )


def test_a_container_beside_what_decides_the_same(write):
    text = "version: 1\n{}\nsites: {{site-1: {{provider: local, container: localhost/train}}}}\n"
    said = problem(write(text.format("kit: k\nruntime: nvflare==2.9.0")))
    assert "sites.site-1.container: stands beside runtime" in said
    assert "a service is none" in problem(write(text.format("service: s")))


def test_keys_are_made_on_the_machine_where_the_file_says_so(write):
    loaded = config.load(write(GOOD.replace("site-1: {", "site-1: {keys: central, ") + "keys: on-site\n"))
    assert loaded.on_site == {"server1"}


@pytest.mark.parametrize("text", ["s3://a-bucket/trial", "azblob://account1/states/trial/one", "s3://a-bucket"])
def test_a_state_that_is_shared(write, text):
    assert config.load(write(GOOD + f"state: {text}\n")).state == text


@pytest.mark.parametrize("text", ["file:///tmp/x", "s3://", "azblob://account1", "s3://Bucket/UP", "7"])
def test_a_state_nowhere(write, text):
    assert ":7: state:" in problem(write(GOOD + f"state: {text}\n"))


@pytest.mark.parametrize(
    ("text", "sources"),
    [("sites", "sites"), ("anywhere", "anywhere"), ("[10.0.0.0/8]", ("10.0.0.0/8",))],
)
def test_who_may_reach_the_server(write, text, sources):
    assert config.load(write(GOOD + f"federation_sources: {text}\n")).federation_sources == sources


@pytest.mark.parametrize("text", ["everyone", "[home]", "7"])
def test_who_may_reach_the_server_and_is_nobody(write, text):
    assert ":7: federation_sources:" in problem(write(GOOD + f"federation_sources: {text}\n"))


def test_the_account_of_a_machine_that_exists_belongs_to_its_provider(write):
    site = config.load(write(with_site(machine_id="i-1", user="fl", identity_file="key"))).site("site-1")
    assert site.settings["user"] == "fl"
    assert "user" not in config.load(write(with_site(user="fl"))).site("site-1").settings


def test_a_key_file_is_found_beside_the_deploy_file_wherever_the_command_runs(write, monkeypatch):
    file = write(with_site(machine_id="i-1", user="fl", identity_file="key"))
    monkeypatch.chdir(file.parent.parent)
    site = config.load(file.relative_to(file.parent.parent)).site("site-1")
    assert site.settings["identity_file"] == str(file.parent / "key")


def test_every_key_has_an_example_for_its_messages():
    assert set(deploy_schema.EXAMPLES) == deploy_schema.GENERAL_KEYS | deploy_schema.TOP_KEYS


def test_two_sites_whose_resources_would_share_names(write):
    loaded = config.load(write(GOOD + "  site_1: {provider: local}\n"))
    with pytest.raises(ConfigError, match=r"sites\.site_1: its resources would have the names of those of 'site-1'"):
        config.check_sites(loaded, servers=("server1",), clients=("site-1", "site_1"))
