"""Revocations reach the running server by themselves."""

from contextlib import contextmanager

from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.errors import ConnectionFailed

from clouddeploy.dashboard.bringing import bringing


class Server:
    """Takes lists, unless it is down."""

    def __init__(self):
        self.lists, self.is_down = [], False

    @contextmanager
    def connect(self, _kit):
        if self.is_down:
            raise ConnectionFailed("the server is not reached", why="it does not run", hint="start it")
        yield self

    def update_crl(self, pem):
        is_newer = pem not in self.lists
        self.lists.append(pem)
        return is_newer


def test_a_reissue_is_brought_and_brought_once(world):
    root = world.configure(freeze=True)
    server = Server()
    with bringing(world.desk, connect=server.connect, every_s=0.01):
        assert root.post(f"/users/{root.id}/blob").status_code == 200
        assert root.post(f"/users/{root.id}/reissue", {}).json()["revoked"]
        until(lambda: server.lists)
        assert b"BEGIN X509 CRL" in server.lists[0]
        until(lambda: world.audited("push_crl"))
        assert "has the newest revocations" in world.browser().get("/certificates").text
    assert len(server.lists) == 1


def test_a_server_that_is_down_gets_it_later_and_the_page_says_so(world, monkeypatch):
    monkeypatch.setattr("clouddeploy.dashboard.bringing._AGAIN_S", (0.01,))
    root = world.configure(freeze=True)
    server = Server()
    server.is_down = True
    assert root.post(f"/users/{root.id}/blob").status_code == 200
    assert root.post(f"/users/{root.id}/reissue", {}).json()["revoked"]
    with bringing(world.desk, connect=server.connect, every_s=0.01):
        until(lambda: world.desk.brought.why)
        assert "does not have the newest revocations yet" in world.browser().get("/certificates").text
        server.is_down = False
        until(lambda: server.lists)
        until(lambda: not world.desk.brought.why)


def test_before_the_freeze_there_is_nothing_to_bring(world):
    server = Server()
    with bringing(world.desk, connect=server.connect, every_s=0.01):
        world.configure()
    assert server.lists == []
