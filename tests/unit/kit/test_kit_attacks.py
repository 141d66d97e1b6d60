"""Whatever is done to a signed file of any kit, `verify`, `preflight` and the parents themselves refuse, naming it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("manifest.json", "manifest.json.sig", "rootCA.pem")
SITE = (*ALL, "start.sh", "stop_fl.sh", "sub_start.sh")
FILES = {
    "server1": (*SITE, "fed_server.json", "server.crt", "server.key"),
    "site-1": (*SITE, "fed_client.json", "client.crt", "client.key"),
    "admin@example.com": (
        *ALL,
        "fed_admin.json",
        "client.crt",
        "client.key",
        "fl_admin.sh",
        "readme.txt",
        "system_info.ipynb",
    ),
}
EVERY = [pytest.param(name, file, id=f"{name}/{file}") for name, files in FILES.items() for file in files]
COVERED = [one for one in EVERY if "manifest" not in one.values[1]]


def flip(file: Path) -> None:
    mode, data = file.stat().st_mode, bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    file.chmod(mode)


def append(file: Path) -> None:
    with file.open("ab") as handle:
        handle.write(b"\n")


def empty(file: Path) -> None:
    os.truncate(file, 0)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def delete(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("other"))


def link(file: Path) -> None:
    file.rename(file.parents[2] / "elsewhere")
    file.symlink_to(file.parents[2] / "elsewhere")


def hard_link(file: Path) -> None:
    """To the file of the same name in another kit."""
    other = file.parents[2] / "foreign" / file.name
    other.parent.mkdir()
    shutil.copy2(file, other)
    append(other)
    file.unlink()
    file.hardlink_to(other)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    """Nobody writes into it, so a reader that does not look first waits for ever."""
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


ATTACKS = [flip, append, empty, cut, delete, rename, link, hard_link, folder, pipe, endless, dangling]


@pytest.mark.parametrize(("name", "file"), EVERY)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.__name__)
def test_an_attack_on_a_signed_file(kits, gates, attack, name, file):
    attack(kits / name / "startup" / file)
    # Root, manifest and signature hold each other: which of them was exchanged, nobody can tell.
    blamed = {f"startup/{file}", *(["startup/manifest.json"] if file in ALL else [])}
    gates.refuse(kits / name, *blamed)


@pytest.mark.parametrize("mode", [0o000, 0o666, 0o777, 0o4755, 0o640])
@pytest.mark.parametrize(("name", "file"), COVERED)
def test_another_mode(kits, gates, name, file, mode):
    path = kits / name / "startup" / file
    path.chmod(mode)
    gates.refuse(kits / name, f"startup/{file}")


@pytest.mark.parametrize("name", FILES)
def test_the_tables_above_name_every_file(made, name):
    assert set(FILES[name]) == {path.name for path in (made / name / "startup").iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_an_untouched_kit_passes(kits, gates, name):
    gates.pass_(kits / name)


@pytest.mark.parametrize("name", FILES)
def test_two_files_swapped(kits, gates, name):
    first, second = kits / name / "startup/rootCA.pem", next((kits / name / "startup").glob("*.crt"))
    first.rename(kits / "x")
    second.rename(first)
    (kits / "x").rename(second)
    gates.refuse(kits / name, "startup/manifest.json", f"startup/{second.name}")


def test_manifests_of_two_kits_swapped(kits, gates):
    for file in ("manifest.json", "manifest.json.sig"):
        ours, theirs = kits / "site-1/startup" / file, kits / "site-2/startup" / file
        ours.rename(kits / "x")
        theirs.rename(ours)
        (kits / "x").rename(theirs)
    gates.refuse(kits / "site-1", "startup/client.crt")
    gates.refuse(kits / "site-2", "startup/client.crt")


def test_certificates_and_keys_of_two_kits_swapped(kits, gates):
    for file in ("client.crt", "client.key"):
        shutil.copy2(kits / "site-2/startup" / file, kits / "site-1/startup" / file)
    gates.refuse(kits / "site-1", "startup/client.crt")


def test_a_whole_startup_folder_lent_by_link(kits, gates):
    """`start.sh` would follow the link and start the other kit, with its `local/`."""
    shutil.rmtree(kits / "site-1/startup")
    (kits / "site-1/startup").symlink_to(kits / "site-2/startup")
    gates.refuse(kits / "site-1", "startup: is not a folder of its own")


@pytest.mark.parametrize("what", [("manifest.json", "manifest.json.sig"), ("rootCA.pem",), (*ALL, "client.crt")])
def test_parts_of_a_kit_by_another_authority(kits, foreign, gates, what):
    for file in what:
        shutil.copy2(foreign / "site-1/startup" / file, kits / "site-1/startup" / file)
    gates.refuse(kits / "site-1", "startup/manifest.json", "startup/client.key", "startup/client.crt")


@pytest.mark.parametrize("name", ["sitecustomize.py", "x/deep/file", ".hidden", "Start.sh", "fed_server.json"])
def test_an_added_file(kits, gates, name):
    file = kits / "site-1/startup" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    gates.refuse(kits / "site-1", f"startup/{name.partition('/')[0]}")


def test_an_added_link_to_the_folder_itself(kits, gates):
    (kits / "site-1/startup/loop").symlink_to(".")
    gates.refuse(kits / "site-1", "startup/loop")


def test_added_folders_too_deep_to_follow(kits, gates):
    """Nothing is gained by looking into what should not be there at all."""
    place = kits / "site-1/startup"
    for _ in range(400):
        place /= "d"
    place.mkdir(parents=True)
    gates.refuse(kits / "site-1", "startup/d: was added")


def test_the_name_of_an_added_file_cannot_speak_to_the_terminal(kits, gates):
    (kits / "site-1/startup/a\x1b[2J\nok      startup kit").write_text("")
    (kits / os.fsdecode(b"site-1/startup/\xff")).write_text("")
    gates.refuse(kits / "site-1", "startup/a\\x1b[2J\\nok", "startup/a\\\\x1b[2J\\\\nok")
    for _, said in gates.answers(kits / "site-1"):
        assert "\x1b" not in said
        assert "\nok      startup kit" not in said


def test_a_folder_that_everybody_may_write_into(kits, gates):
    """What was verified could be exchanged before it is used."""
    (kits / "site-1/startup").chmod(0o777)
    gates.refuse(kits / "site-1", "startup: has mode 0777")


@pytest.mark.parametrize("change", ["not a folder", "no startup", "links in a circle", "missing"])
def test_what_is_no_kit(tmp_path, gates, change):
    root = tmp_path / "site-1"
    if change == "not a folder":
        root.write_text("")
    elif change == "no startup":
        root.mkdir()
    elif change == "links in a circle":
        root.symlink_to(root)
    gates.refuse(root, "is not a startup kit")


def test_a_kit_that_moved_to_another_place_is_the_same_kit(kits, tmp_path, gates):
    moved = tmp_path / "another machine" / "renamed"
    moved.parent.mkdir()
    (kits / "site-1").rename(moved)
    gates.pass_(moved)


def test_what_a_site_may_edit(kits, gates):
    root = kits / "site-1"
    (root / "local/authorization.json").write_text('{"format_version": "1.0", "permissions": {}}')
    (root / "local/resources.json.default").unlink()
    (root / "local/custom").mkdir()
    (root / "local/custom/mine.py").write_text("")
    (root / "readme.txt").write_text("mine")
    (root / "log.txt").write_text("")
    (root / "transfer").rmdir()
    gates.pass_(root)


@pytest.mark.parametrize("make", [pipe, endless], ids=["pipe", "endless"])
@pytest.mark.parametrize("name", ["local/endpoint.json", "local/crl.pem"])
def test_a_file_in_local_that_cannot_be_read_to_its_end(kits, gates, make, name):
    file = kits / "site-1" / name
    file.touch()
    make(file)
    gates.refuse(kits / "site-1", name)
