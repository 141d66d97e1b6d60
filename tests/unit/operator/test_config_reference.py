"""The commented reference is a valid deploy file that uses every key."""

from importlib import resources

import pytest
import yaml
from clouddeploy_providers import registry

from clouddeploy import config, deploy_schema

TEXT = resources.files("clouddeploy").joinpath("config_reference.yml").read_text(encoding="utf-8")
INSTEAD_OF_A_PROJECT = {"kit", "runtime", "service"}
"""Keys that no file with a project can have; the reference shows them in a comment."""


@pytest.fixture
def loaded(tmp_path):
    (tmp_path / "data" / "site-1").mkdir(parents=True)
    file = tmp_path / "deploy.yml"
    file.write_text(TEXT, encoding="utf-8")
    return config.load(file)


def test_it_is_a_deploy_file(loaded):
    config.check_sites(loaded, servers=("server1",), clients=("site-1", "site-2", "site-3"))
    config.check_settings(loaded, {site.provider: registry.load(site.provider).setting_names for site in loaded.sites})


def test_it_has_every_key():
    document = yaml.safe_load(TEXT)
    assert set(document) == deploy_schema.TOP_KEYS - INSTEAD_OF_A_PROJECT
    assert {key for site in document["sites"].values() for key in site} >= deploy_schema.GENERAL_KEYS


def test_every_key_is_explained_where_it_first_stands():
    lines = TEXT.splitlines()
    for key in deploy_schema.TOP_KEYS - {"version"}:
        start = f"# {key}:" if key in INSTEAD_OF_A_PROJECT else f"{key}:"
        (line,) = (number for number, text in enumerate(lines) if text.startswith(start))
        assert lines[line - 1].lstrip().startswith("#"), f"{key} is not explained"
