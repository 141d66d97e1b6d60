"""Where a server listens: everywhere, or at the machine itself only when its address is a loopback one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clouddeploy_runtime import kit, tls
from clouddeploy_runtime.kit import KitError
from clouddeploy_runtime.server import parent

from tests.integration.federation import Authority


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.delenv(parent.BIND_VARIABLE, raising=False)
    return Authority(tmp_path, port=8002).server()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost", {"localhost:8002"}),
        ("127.0.0.1", {"127.0.0.1:8002"}),
        ("[::1]", {"[::1]:8002"}),
        ("server1", {"[::]:8002", "0.0.0.0:8002"}),
        ("10.0.0.1", {"[::]:8002", "0.0.0.0:8002"}),
    ],
)
def test_the_signed_address_decides(server, target, expected):
    file = server / "startup" / "fed_server.json"
    file.write_text(file.read_text().replace("server1:8002", f"{target}:8002"))
    assert parent.listen_address(kit.load(server)) in expected


def test_a_security_that_is_not_known_is_refused(server):
    with pytest.raises(KitError, match="there are mtls, tls, clear"):
        tls.check_mode(replace(kit.load(server), connection_security="quantum"))
