"""Which way leads to the server: a proxy or none, and what `local/comm_config.json` may say."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime import communication
from clouddeploy_runtime.communication import Communication
from clouddeploy_runtime.settings import BadSettings

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("host", "environment", "expected"),
    [
        ("server.example", {}, ""),
        ("server.example", {"https_proxy": PROXY}, PROXY),
        ("server.example", {"HTTPS_PROXY": PROXY}, PROXY),
        ("server.example", {"grpc_proxy": "http://other:1", "https_proxy": PROXY}, "http://other:1"),
        ("server.example", {"https_proxy": "socks5://proxy:1"}, ""),
        ("server.example", {"https_proxy": PROXY, "no_proxy": "x, example"}, ""),
        ("server.example", {"https_proxy": PROXY, "no_proxy": ".example"}, ""),
        ("server.example", {"https_proxy": PROXY, "no_proxy": "ample"}, PROXY),
        ("server.example", {"https_proxy": PROXY, "NO_PROXY": "*"}, ""),
        ("10.1.2.3", {"https_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, ""),
        ("127.0.0.1", {"https_proxy": PROXY}, ""),
        ("localhost", {"https_proxy": PROXY}, ""),
        ("::1", {"https_proxy": PROXY}, ""),
    ],
)
def test_the_environment_says_whether_there_is_a_proxy(host, environment, expected):
    assert communication.proxy_for(host, Communication(), environment) == expected


@pytest.mark.parametrize(("said", "expected"), [("http://own:1", "http://own:1"), ("", "")])
def test_the_sites_file_wins_over_the_environment(said, expected):
    assert communication.proxy_for("server", Communication(proxy=said), {"https_proxy": PROXY}) == expected


def test_the_file_is_read_and_no_file_means_nothing(tmp_path):
    assert communication.load(tmp_path) == Communication()
    file = tmp_path / "comm_config.json"
    file.write_text(json.dumps({"allow_adhoc_conns": False, "proxy": PROXY, "allow_clear": True}))
    assert communication.load(tmp_path) == Communication(proxy=PROXY, allow_clear=True)
    file.write_text('{"proxy": false}')
    assert communication.load(tmp_path) == Communication(proxy="")


@pytest.mark.parametrize("content", ["", "[]", '{"proxy": "ftp://x"}', '{"proxy": 1}', '{"allow_clear": "yes"}'])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content):
    (tmp_path / "comm_config.json").write_text(content)
    with pytest.raises(BadSettings, match=r"comm_config\.json"):
        communication.load(tmp_path)
