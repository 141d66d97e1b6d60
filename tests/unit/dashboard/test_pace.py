"""How many kits somebody has made ready: each is work for the dashboard, and nobody needs hundreds in a minute."""

import pytest

from clouddeploy.dashboard import handing


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(handing, "MOST_READY", 3)


def test_who_has_many_made_waits_and_nobody_else_does(world, few):
    root = world.configure(freeze=True)
    for _ in range(3):
        assert root.post("/servers/1/blob").status_code == 200
        world.clock.move(minutes=1)
    refused = root.post("/servers/1/blob")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == str(7 * 60)
    assert "3 were, by root@hub.example, within 10 minutes" in refused.json()["message"]
    assert [one["result"] for one in world.audited("download_server_kit")] == ["allowed"] * 3 + ["refused"]
    ann = world.person("ann")
    assert ann.post(f"/users/{ann.id}/blob").status_code == 200
    world.clock.move(minutes=8)
    assert root.post("/servers/1/blob").status_code == 200


def test_the_page_says_so_too(world, few):
    root = world.configure(freeze=True)
    for _ in range(3):
        assert root.post(f"/users/{root.id}/blob").status_code == 200
    browser = world.browser()
    browser.get("/downloads")
    answer = browser.send(f"/downloads/user/{root.id}/prepare")
    assert answer.status_code == 429
    assert "no further kit is made ready now" in answer.text
    assert answer.headers["retry-after"] == "600"
