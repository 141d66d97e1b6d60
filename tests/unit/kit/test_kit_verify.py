"""What `verify` tells: exact problems of a tampered kit, and times; the attacks are in test_kit_attacks.py."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from clouddeploy_runtime import keys, kit
from clouddeploy_runtime.kit import KitTampered, manifest


@pytest.mark.parametrize("name", ["server1", "site-1", "admin@example.com"])
def test_untouched(kits, name):
    found = kit.verify(kits / name)
    assert (found.participant, found.project) == (name, "study")


def test_every_problem_is_told_at_once(kits):
    startup = kits / "site-1/startup"
    (startup / "stop_fl.sh").rename(startup / "stop.sh")
    (startup / "start.sh").chmod(0o700)
    with pytest.raises(kit.KitTampered) as caught:
        kit.verify(kits / "site-1")
    assert caught.value.problems == {
        "startup/start.sh": "has mode 0700, signed with 0755",
        "startup/stop.sh": "was added",
        "startup/stop_fl.sh": "is missing",
    }


def test_swapped_files(kits):
    startup = kits / "site-1/startup"
    (startup / "start.sh").rename(startup / "x")
    (startup / "stop_fl.sh").rename(startup / "start.sh")
    (startup / "x").rename(startup / "stop_fl.sh")
    with pytest.raises(kit.KitTampered) as caught:
        kit.verify(kits / "site-1")
    assert set(caught.value.problems) == {"startup/start.sh", "startup/stop_fl.sh"}


def test_a_manifest_signed_with_the_sites_own_key(kits):
    startup = kits / "site-1/startup"
    manifest = json.loads((startup / "manifest.json").read_bytes())
    manifest["files"] = []
    (startup / "manifest.json").write_text(json.dumps(manifest))
    (startup / "manifest.json.sig").write_bytes(
        keys.sign(keys.load_private_key(startup / "client.key"), (startup / "manifest.json").read_bytes())
    )
    with pytest.raises(kit.KitTampered) as caught:
        kit.verify(kits / "site-1")
    assert caught.value.path == "startup/manifest.json"


@pytest.mark.parametrize(
    ("days", "words"),
    [(400, r"client\.crt has expired"), (-1, r"client\.crt is not valid yet"), (4000, r"client\.crt has expired")],
)
def test_another_time(kits, days, words):
    with pytest.raises(kit.KitExpired, match=words):
        kit.verify(kits / "site-1", now=datetime.now(UTC) + timedelta(days=days))


def test_no_kit(tmp_path):
    for call in (kit.verify, kit.load):
        with pytest.raises(kit.KitError, match="is not a startup kit"):
            call(tmp_path)


@pytest.mark.parametrize("name", sorted(manifest.SITE_MADE))
def test_a_script_that_prepare_has_added_at_the_site_is_no_tampering_and_a_link_in_its_place_is(kits, name):
    path = kits / "site-1" / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    kit.verify(kits / "site-1")
    path.chmod(0o757)
    with pytest.raises(KitTampered, match="has mode 0757"):
        kit.verify(kits / "site-1")
    path.unlink()
    path.symlink_to("/bin/sh")
    with pytest.raises(KitTampered, match="is not a regular file"):
        kit.verify(kits / "site-1")
