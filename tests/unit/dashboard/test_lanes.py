"""Whoever is logged in does not wait for those who try to be."""

from __future__ import annotations

import threading

from clouddeploy_rehearsal.probe import until
from starlette.testclient import TestClient

from clouddeploy.dashboard.web import app
from tests.unit.dashboard.visitors import API

MANY = 60
"""More than there are threads."""


def test_logins_from_many_addresses_hold_up_nobody_who_is_logged_in(world, monkeypatch):
    token = world.program().client.headers["authorization"]
    may_end, under_way = threading.Event(), []

    def is_right(*_):
        under_way.append(True)
        assert may_end.wait(20)
        return False

    monkeypatch.setattr(type(world.desk.passwords), "is_right", is_right)
    made = app.make(world.desk, is_tls=False, version="1", hosts=["127.0.0.1"], proxies=["192.0.2.1"])
    with TestClient(made, base_url=world.host, client=("192.0.2.1", 1)) as client:

        def try_one(number):
            body = {"email": f"nobody-{number}@example.com", "password": "a guess of many"}
            client.post(f"{API}/login", json=body, headers={"X-Forwarded-For": f"198.51.100.{number}"})

        strangers = [threading.Thread(target=try_one, args=(number,)) for number in range(MANY)]
        for one in strangers:
            one.start()
        try:
            until(lambda: len(under_way) >= app.STRANGERS, timeout_s=10, what="logins")
            answer = client.get(f"{API}/users", headers={"Authorization": token})
            assert answer.status_code == 200
            assert len(under_way) == app.STRANGERS
        finally:
            may_end.set()
            for one in strangers:
                one.join()
