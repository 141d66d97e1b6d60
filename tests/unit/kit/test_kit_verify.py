"""Tampering: whatever is done to `startup/` is refused, and the path is named."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_runtime import keys, kit
from clouddeploy_runtime.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

SITE_FILES = [
    "client.crt",
    "client.key",
    "fed_client.json",
    "manifest.json",
    "manifest.json.sig",
    "rootCA.pem",
    "start.sh",
    "stop_fl.sh",
    "sub_start.sh",
]


def refused(root: Path, *paths: str) -> kit.KitTampered:
    """Expect refusal naming at least one of the paths."""
    with pytest.raises(kit.KitTampered) as caught:
        kit.verify(root)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert set(paths) & set(caught.value.problems), caught.value
    return caught.value


@pytest.mark.parametrize("name", ["server1", "site-1", "admin@example.com"])
def test_untouched(kits, name):
    assert kit.verify(kits / name).participant == name


def test_all_files_are_tried_below(made):
    assert sorted(path.name for path in (made / "site-1/startup").iterdir()) == SITE_FILES


@pytest.mark.parametrize("name", SITE_FILES)
def test_flipped_byte(kits, name):
    file = kits / "site-1/startup" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    mode = file.stat().st_mode
    file.write_bytes(data)
    file.chmod(mode)
    # A signature or a root that no longer fits is seen at the manifest.
    refused(kits / "site-1", f"startup/{name}", "startup/manifest.json")


@pytest.mark.parametrize("name", SITE_FILES)
def test_deleted_file(kits, name):
    (kits / "site-1/startup" / name).unlink()
    refused(kits / "site-1", f"startup/{name}")


@pytest.mark.parametrize("name", SITE_FILES[:3] + SITE_FILES[5:])
def test_other_mode(kits, name):
    (kits / "site-1/startup" / name).chmod(0o666)
    refused(kits / "site-1", f"startup/{name}")


def test_added_file(kits):
    (kits / "site-1/startup/sitecustomize.py").write_text("")
    refused(kits / "site-1", "startup/sitecustomize.py")


def test_added_folder(kits):
    (kits / "site-1/startup/more").mkdir()
    refused(kits / "site-1", "startup/more")


def test_renamed_file(kits):
    startup = kits / "site-1/startup"
    (startup / "stop_fl.sh").rename(startup / "stop.sh")
    assert set(refused(kits / "site-1", "startup/stop.sh").problems) == {"startup/stop_fl.sh", "startup/stop.sh"}


def test_swapped_files(kits):
    startup = kits / "site-1/startup"
    (startup / "start.sh").rename(startup / "x")
    (startup / "stop_fl.sh").rename(startup / "start.sh")
    (startup / "x").rename(startup / "stop_fl.sh")
    assert set(refused(kits / "site-1", "startup/start.sh").problems) == {"startup/start.sh", "startup/stop_fl.sh"}


def test_file_replaced_by_a_link_to_itself(kits):
    file = kits / "site-1/startup/start.sh"
    file.rename(kits / "elsewhere.sh")
    file.symlink_to(kits / "elsewhere.sh")
    refused(kits / "site-1", "startup/start.sh")


def test_manifest_of_another_kit(kits):
    for name in ("manifest.json", "manifest.json.sig"):
        shutil.copy2(kits / "site-2/startup" / name, kits / "site-1/startup" / name)
    refused(kits / "site-1", "startup/client.crt")


def test_certificate_and_key_of_another_kit(kits):
    for name in ("client.crt", "client.key"):
        shutil.copy2(kits / "site-2/startup" / name, kits / "site-1/startup" / name)
    refused(kits / "site-1", "startup/client.key")


def test_manifest_and_files_of_another_authority(kits, foreign):
    for name in ("manifest.json", "manifest.json.sig", "client.crt", "client.key"):
        shutil.copy2(foreign / "site-1/startup" / name, kits / "site-1/startup" / name)
    refused(kits / "site-1", "startup/manifest.json")


def test_forged_manifest(kits):
    startup = kits / "site-1/startup"
    manifest = json.loads((startup / "manifest.json").read_bytes())
    manifest["files"] = []
    (startup / "manifest.json").write_text(json.dumps(manifest))
    (startup / "manifest.json.sig").write_bytes(
        keys.sign(keys.load_private_key(startup / "client.key"), (startup / "manifest.json").read_bytes())
    )
    refused(kits / "site-1", "startup/manifest.json")


def test_what_a_site_may_edit(kits):
    (kits / "site-1/local/authorization.json").write_text("{}")
    (kits / "site-1/log.txt").write_text("")
    assert kit.verify(kits / "site-1").kind == "client"


def test_expired_certificate(kits):
    with pytest.raises(kit.KitExpired, match=r"client\.crt has expired"):
        kit.verify(kits / "site-1", now=datetime.now(UTC) + timedelta(days=400))


def test_clock_that_is_wrong(kits):
    with pytest.raises(kit.KitExpired, match="not valid yet"):
        kit.verify(kits / "site-1", now=datetime.now(UTC) - timedelta(days=1))


def test_no_kit(tmp_path):
    with pytest.raises(kit.KitError, match="is not a startup kit"):
        kit.verify(tmp_path)
    with pytest.raises(kit.KitError, match="is not a startup kit"):
        kit.load(tmp_path)
