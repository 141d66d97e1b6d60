import pytest
import requests
from clouddeploy_providers.azure.transport import Session

URL = "https://management.azure.com/subscriptions"


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Sets variables; those of the machine that the tests run on are gone."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch.setenv


def settings(session, *, url=URL, proxies=None, verify=True):
    return session.merge_environment_settings(url, proxies, stream=False, verify=verify, cert=None)


def test_the_environment_names_the_proxy_and_what_needs_none(environment):
    environment("HTTPS_PROXY", "http://proxy:3128")
    environment("NO_PROXY", "login.example")
    session = Session()
    assert settings(session)["proxies"]["https"] == "http://proxy:3128"
    assert "https" not in settings(session, url="https://login.example/token")["proxies"]


def test_the_environment_is_read_once_per_host(environment):
    session = Session()
    settings(session)
    environment("HTTPS_PROXY", "http://proxy:3128")
    assert "https" not in settings(session)["proxies"]
    assert "https" in settings(session, url="https://elsewhere.example/")["proxies"]


def test_a_proxy_that_was_given_comes_first(environment):
    environment("HTTPS_PROXY", "http://proxy:3128")
    assert settings(Session(), proxies={"https": "http://other:1"})["proxies"]["https"] == "http://other:1"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environment_may_name_the_authorities_unless_a_file_was_given(environment, name):
    environment(name, "/ca.pem")
    assert settings(Session())["verify"] == "/ca.pem"
    assert settings(Session(), verify="/mine.pem")["verify"] == "/mine.pem"


def test_a_password_in_netrc_does_not_replace_the_token(environment, tmp_path):
    environment("NETRC", str(tmp_path / ".netrc"))
    (tmp_path / ".netrc").write_text("machine management.azure.com login me password secret\n")
    request = requests.Request("GET", URL, headers={"Authorization": "Bearer token"})
    assert Session().prepare_request(request).headers["Authorization"] == "Bearer token"
