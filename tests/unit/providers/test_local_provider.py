import threading

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.local import LocalProvider
from clouddeploy_providers.resources import Demand, Found, Kind, Need, Owner, Resource, ResourceRef

MACHINE = Resource(Kind.MACHINE, "cd-p-s-machine-0123abcd", Owner("0123abcd", "p", "s"))


@pytest.fixture
def provider(tmp_path):
    return LocalProvider({"directory": str(tmp_path / "sites")}, REAL)


@pytest.fixture
def cancel():
    return threading.Event()


def test_a_site_is_a_folder_for_its_owner_only(provider, tmp_path, cancel):
    ref = provider.create(MACHINE, cancel)
    folder = tmp_path / "sites" / MACHINE.name
    assert ref.outputs == {"address": "127.0.0.1", "directory": str(folder)}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_neither_used_nor_deleted(provider, tmp_path, cancel):
    theirs = tmp_path / "sites" / MACHINE.name / "thesis.tex"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    with pytest.raises(Conflict):
        provider.create(MACHINE, cancel)
    provider.delete(provider._ref(theirs.parent), cancel)
    assert theirs.read_text() == "years of work"
    assert provider.find("0123abcd") == []


def test_killed_between_the_folder_and_its_tags_the_next_run_goes_on(provider, tmp_path, cancel):
    (tmp_path / "sites" / MACHINE.name).mkdir(parents=True)
    ref = provider.create(MACHINE, cancel)
    assert provider.find("0123abcd") == [ref]


def test_a_deletion_takes_everything_but_follows_no_link(provider, tmp_path, cancel):
    ref = provider.create(MACHINE, cancel)
    folder = tmp_path / "sites" / MACHINE.name
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("kept")
    (folder / "link").symlink_to(outside)
    (folder / "releases" / "1").mkdir(parents=True)
    (folder / "file").write_text("x")
    provider.delete(ref, cancel)
    assert not folder.exists()
    assert (outside / "data").read_text() == "kept"


def test_a_directory_that_cannot_be_made_is_a_finding_and_a_refusal(tmp_path, cancel):
    (tmp_path / "file").write_text("")
    provider = LocalProvider({"directory": str(tmp_path / "file" / "below")}, REAL)
    [check] = provider.check(Demand(()))
    assert not check.ok
    assert check.hint
    with pytest.raises(InvalidRequest):
        provider.create(MACHINE, cancel)


def test_there_are_no_sizes_and_no_prices(provider):
    assert (provider.offers(Need()), provider.price(Kind.MACHINE, None), provider.default_size) == ([], None, "")


def test_sites_of_all_deployments_are_found_with_their_owners(provider, cancel):
    other = Owner("ffffffff", "q", "t")
    refs = [provider.create(MACHINE, cancel)]
    refs.append(provider.create(Resource(Kind.MACHINE, "cd-q-t-machine-ffffffff", other), cancel))
    assert provider.find_all() == [Found(refs[0], MACHINE.owner), Found(refs[1], other)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"clouddeploy:deployment": ""}', "\x00"])
def test_a_folder_with_damaged_tags_is_not_ours(text, provider, tmp_path):
    folder = tmp_path / "sites" / "x"
    folder.mkdir(parents=True)
    (folder / "tags.json").write_text(text)
    assert provider.find_all() == []


def test_this_machine_runs_so_there_is_nothing_to_start(provider, cancel):
    ref = provider.create(MACHINE, cancel)
    assert provider.update(ref, MACHINE, cancel) == ref
    provider.delete(ref, cancel)
    with pytest.raises(NotFound):
        provider.update(ref, MACHINE, cancel)
    with pytest.raises(InvalidRequest):
        provider.update(ResourceRef(Kind.FIREWALL, "f", "f"), MACHINE, cancel)
