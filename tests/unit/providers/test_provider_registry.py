import subprocess
import sys
import types
from importlib import metadata

import pytest
from clouddeploy_providers import registry
from clouddeploy_providers.errors import InvalidRequest

NAMES = ["aws", "azure", "fake", "kubernetes", "local", "onprem"]


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that says which entry points are installed."""

    def installed(*points):
        monkeypatch.setattr(metadata, "entry_points", lambda **_group: points)
        registry.known.cache_clear()

    yield installed
    registry.known.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_every_provider_is_loaded_by_its_name(name):
    assert registry.load(name).name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InvalidRequest) as caught:
        registry.load("gcp")
    assert "gcp" in str(caught.value)
    assert all(name in caught.value.hint for name in NAMES)


def test_an_old_install_without_entry_points_still_has_what_comes_with_it(installed):
    installed()
    assert registry.load("local").name == "local"


def test_a_plugin_is_found_and_may_replace_one_of_ours(installed, monkeypatch):
    module = types.ModuleType("their_cloud")
    module.Theirs = type("Theirs", (), {"name": "local"})
    monkeypatch.setitem(sys.modules, "their_cloud", module)
    installed(metadata.EntryPoint("local", "their_cloud:Theirs", registry.GROUP))
    assert registry.load("local") is module.Theirs


@pytest.mark.parametrize(("name", "sdk"), [("aws", "boto3"), ("azure", "azure.identity")])
def test_a_missing_sdk_says_which_extra_to_install(name, sdk, monkeypatch):
    for loaded in [one for one in sys.modules if one.startswith(f"clouddeploy_providers.{name}")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, sdk, None)
    with pytest.raises(InvalidRequest) as caught:
        registry.load(name)
    assert caught.value.hint == f"pip install 'clouddeploy[{name}]'"
    assert sdk in str(caught.value)


@pytest.mark.parametrize("name", ["fake", "kubernetes", "local", "onprem"])
def test_no_sdk_is_imported_that_nobody_asked_for(name):
    code = (
        f"import sys; from clouddeploy_providers import registry; registry.load({name!r});"
        "sys.exit(' '.join(m for m in ('boto3', 'botocore', 'azure') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") or done.stderr == "\n"
