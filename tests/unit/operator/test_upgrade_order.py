"""Which site is upgraded when."""

import pytest

from clouddeploy.errors import ConfigError
from clouddeploy.upgrade import _order

ALL = ("server1", "site-1", "site-2", "site-3")


@pytest.mark.parametrize(
    ("sites", "canary", "stages"),
    [
        (ALL, None, [["site-1"], ["site-2", "site-3"], ["server1"]]),
        (ALL, "site-2", [["site-2"], ["site-1", "site-3"], ["server1"]]),
        (ALL, "server1", [["server1"], ["site-1", "site-2", "site-3"]]),
        (("server1",), None, [["server1"]]),
        (("server1", "site-3"), None, [["site-3"], ["server1"]]),
    ],
)
def test_one_goes_first_and_the_server_last(sites, canary, stages):
    assert _order(sites, server="server1", canary=canary) == stages


def test_without_a_server_one_client_goes_first():
    assert _order(("site-1",), server=None, canary=None) == [["site-1"]]


def test_a_canary_that_is_not_among_the_sites_is_refused():
    with pytest.raises(ConfigError):
        _order(("site-1",), server=None, canary="site-2")
