"""Logging in by way of a provider: who gets in, and everything that must not."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from joserfc.jwk import RSAKey

from clouddeploy.dashboard import devices
from clouddeploy.dashboard.discovery import Discovery
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.oidc import STARTS, Provider, SignIn
from clouddeploy.dashboard.web import app
from clouddeploy.secrets import Secret
from tests.unit.dashboard import provider as providers
from tests.unit.dashboard.provider import CLIENT, SECRET
from tests.unit.dashboard.visitors import ADMIN, HOST, Browser

_ADDRESSES = ("authorization_endpoint", "token_endpoint", "jwks_uri")
GOOD = {"email": ADMIN, "email_verified": True, "name": "Root"}


@pytest.fixture
def provider(world):
    with providers.running(world.clock) as one:
        one.claims = dict(GOOD)
        given = Provider(one.issuer, CLIENT, Secret(SECRET), f"{HOST}/oidc/back")
        world.sign_in = SignIn(world.desk, given)
        world.app = app.make(world.desk, is_tls=False, version="1", hosts=["127.0.0.1"], sign_in=world.sign_in)
        yield one


def come_back(client, provider, **changed):
    begun = client.get("/oidc")
    assert begun.status_code == 303
    return client.get("/oidc/back", params={**provider.agree(begun.headers["location"]), **changed})


def is_in(client):
    return client.get("/account").status_code == 200


def test_somebody_who_has_an_account_gets_in(world, provider):
    client = world.client()
    assert 'href="/oidc"' in client.get("/").text
    answer = come_back(client, provider)
    assert answer.status_code == 200, answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert any("clouddeploy_session=" in one and "SameSite=strict" in one for one in cookies)
    assert 'content="0; url=/"' in answer.text
    assert is_in(client)
    assert world.audited("login")[-1]["user"] == ADMIN


def test_a_stranger_gets_no_account(world, provider):
    provider.claims["email"] = "eve@hub.example"
    client = world.client()
    assert come_back(client, provider).status_code == 401
    assert not is_in(client)


def test_somebody_invited_gets_an_account_that_waits(world, provider):
    root = world.configure()
    invitation = {"role": "lead", "organization": "org_a", "email": "ann@org-a.example"}
    assert root.post("/invitations", invitation).status_code == 201
    provider.claims |= {"email": "Ann@org-a.example", "name": "Ann"}
    client = world.client()
    assert come_back(client, provider).status_code == 200
    assert is_in(client)
    (user,) = root.get("/users", q="ann@").json()["user_list"]
    assert (user["role"], user["organization"], user["approval_state"], user["name"]) == ("lead", "org_a", 0, "Ann")
    assert come_back(world.client(), provider).status_code == 200, "and again, with the account that there is now"


def test_who_comes_back_from_nowhere_does_not_fill_the_audit_log(world, provider):
    for _ in range(3):
        assert world.client().get("/oidc/back?state=made+up&code=x").status_code == 401
    assert world.audited("login") == []


def test_somebody_denied_stays_out(world, provider):
    root = world.configure()
    ann = world.person(approved=False)
    root.patch(f"/users/{ann.id}", {"approval_state": -1})
    provider.claims["email"] = "ann@org-a.example"
    assert come_back(world.client(), provider).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"email_verified": False},
        {"email_verified": "true"},
        {"email": ""},
        {"nonce": "another"},
        {"aud": "another"},
        {"aud": [CLIENT, "another"]},
        {"azp": "another"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"exp": None},
    ],
)
def test_what_is_signed_for_something_else_lets_nobody_in(world, provider, claims):
    provider.claims |= claims
    client = world.client()
    assert come_back(client, provider).status_code == 401
    assert not is_in(client)


def test_another_key_lets_nobody_in(world, provider):
    provider.key = RSAKey.generate_key(2048, {"kid": "one"})
    assert come_back(world.client(), provider).status_code == 401


def test_a_signature_with_our_own_secret_lets_nobody_in(world, provider):
    provider.algorithm = "HS256"
    assert come_back(world.client(), provider).status_code == 401


def test_the_way_back_counts_in_the_browser_that_began_and_once(world, provider):
    mine, other = world.client(), world.client()
    query = provider.agree(mine.get("/oidc").headers["location"])
    assert other.get("/oidc/back", params=query).status_code == 401
    kept = mine.cookies["clouddeploy_oidc"]
    assert mine.get("/oidc/back", params=query).status_code == 200, "who tried it elsewhere spoiled nothing"
    mine.cookies.set("clouddeploy_oidc", kept, domain="127.0.0.1")
    assert mine.get("/oidc/back", params=query).status_code == 401


@pytest.mark.parametrize("changed", [{"state": "guessed"}, {"code": "guessed"}, {"code": ""}, {"iss": "https://evil"}])
def test_a_way_back_that_was_made_up_leads_nowhere(world, provider, changed):
    client = world.client()
    assert come_back(client, provider, **changed).status_code == 401
    assert not is_in(client)


def test_a_login_that_takes_too_long_ends(world, provider):
    client = world.client()
    query = provider.agree(client.get("/oidc").headers["location"])
    world.clock.move(minutes=11)
    assert client.get("/oidc/back", params=query).status_code == 401


def test_what_the_provider_says_of_itself_is_asked_for_once_in_an_hour(world, provider):
    for number in range(20):
        assert world.client(f"198.51.100.{number}").get("/oidc").status_code == 303
    for _ in range(2):
        assert come_back(world.client(), provider).status_code == 200
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]
    world.clock.move(minutes=61)
    assert come_back(world.client(), provider).status_code == 200
    assert len(provider.asked) == 4


def test_a_key_that_is_new_is_asked_for_and_not_too_often(world, provider):
    assert come_back(world.client(), provider).status_code == 200
    provider.known = provider.key = RSAKey.generate_key(2048, {"kid": "two"})
    provider.key_id = "two"
    world.clock.move(seconds=31)
    assert come_back(world.client(), provider).status_code == 200
    assert provider.asked.count("/keys") == 2
    provider.key_id = "made up"
    for _ in range(5):
        assert come_back(world.client(), provider).status_code == 401
    assert provider.asked.count("/keys") == 2


def test_a_provider_that_fails_is_left_alone_for_a_while(world, provider):
    provider.is_ill = True
    for number in range(5):
        answer = world.client(f"198.51.100.{number}").get("/oidc")
        assert answer.status_code == 500
        assert "the login provider is not reached" in answer.text
    assert len(provider.asked) == 1
    provider.is_ill = False
    world.clock.move(seconds=31)
    assert world.client().get("/oidc").status_code == 303


def test_who_comes_at_once_waits_for_one_answer(world):
    begun, held, asked = threading.Event(), threading.Event(), []

    def get(url):
        asked.append(url)
        begun.set()
        assert held.wait(10)
        return {"issuer": "https://p.example", **dict.fromkeys(_ADDRESSES, "https://p.example/x")}

    discovery = Discovery("https://p.example", now=world.clock, get=get)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(discovery.configuration)
        assert begun.wait(10)
        others = [pool.submit(discovery.configuration) for _ in range(7)]
        held.set()
        assert {one.result()["issuer"] for one in [first, *others]} == {"https://p.example"}
    assert len(asked) == 1


def test_whoever_begins_a_thousand_logins_pushes_out_nobody_and_is_told_to_wait(world, provider):
    mine = world.client()
    query = provider.agree(mine.get("/oidc").headers["location"])
    stranger = world.client("198.51.100.7")
    codes = [stranger.get("/oidc").status_code for _ in range(STARTS)]
    assert set(codes) == {303}
    refused = stranger.get("/oidc")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "600")
    for number in range(970):
        world.sign_in.begin(address=f"203.0.113.{number % 200}")
    assert mine.get("/oidc/back", params=query).status_code == 200
    world.clock.move(minutes=11)
    assert stranger.get("/oidc").status_code == 303


def left_alone(world, provider):
    """Somebody who logged in by way of the provider, some time ago."""
    world.configure()
    browser = Browser(world.client())
    assert come_back(browser.client, provider).status_code == 200
    world.clock.move(minutes=16)
    browser.get("/project")
    return browser


def prove(browser, provider, **changed):
    begun = browser.client.get("/oidc/proof", params={"back": "/project"})
    assert begun.status_code == 303
    return browser.client.get("/oidc/back", params={**provider.agree(begun.headers["location"]), **changed})


def test_who_has_no_password_proves_by_a_fresh_login_and_comes_back(world, provider):
    browser = left_alone(world, provider)
    asked = browser.send("/project/freeze", sure="yes")
    assert 'href="/oidc/proof?back=/project"' in asked.text
    answer = prove(browser, provider)
    assert answer.status_code == 200, answer.text
    assert (provider.last["prompt"], provider.last["max_age"]) == ("login", "0")
    assert 'content="0; url=/project"' in answer.text
    assert not any("clouddeploy_session" in one for one in answer.headers.get_list("set-cookie"))
    assert browser.send("/project/freeze", sure="yes").status_code == 303
    assert world.audited("prove")[-1]["detail"] == "openid connect"


@pytest.mark.parametrize(
    "claims",
    [{"auth_time": 1}, {"auth_time": None}, {"auth_time": "now"}, {"email": "eve@hub.example"}, {"nonce": "another"}],
)
def test_what_is_no_fresh_login_of_the_same_person_proves_nothing(world, provider, claims):
    browser = left_alone(world, provider)
    provider.claims |= claims
    assert prove(browser, provider).status_code == 401
    assert browser.send("/project/freeze", sure="yes").status_code == 403
    assert world.audited("prove")[-1]["code"] == "UNAUTHENTICATED"


def test_a_proof_is_of_the_session_that_began_it(world, provider):
    browser = left_alone(world, provider)
    query = provider.agree(browser.client.get("/oidc/proof").headers["location"])
    browser.get("/")
    browser.send("/logout")
    assert browser.client.get("/oidc/back", params=query).status_code == 401
    assert not is_in(browser.client)


def test_nobody_proves_who_is_not_logged_in(world, provider):
    assert world.client().get("/oidc/proof").headers["location"] == "/"


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "javascript:1"])
def test_a_proof_leads_to_no_other_host(world, provider, back):
    client = world.client()
    assert come_back(client, provider).status_code == 200
    begun = client.get("/oidc/proof", params={"back": back})
    answer = client.get("/oidc/back", params=provider.agree(begun.headers["location"]))
    assert 'content="0; url=/"' in answer.text


def test_a_login_by_way_of_the_provider_makes_the_browser_known(world, provider):
    client = world.client("203.0.113.9")
    assert come_back(client, provider).status_code == 200
    assert devices.recognised(world.desk, client.cookies["clouddeploy_device"], ADMIN)


def test_a_configuration_of_another_issuer_is_refused(world, provider):
    provider.says_issuer = "https://evil.example"
    assert world.client().get("/oidc").status_code == 500


def test_without_https_there_is_no_provider():
    with pytest.raises(Invalid, match="not by HTTPS"):
        Provider("http://login.example", CLIENT, Secret(SECRET), "https://dash.example/oidc/back")


def test_without_a_provider_there_is_no_such_page(world):
    assert world.client().get("/oidc").status_code == 404
    assert "/oidc" not in world.client().get("/").text
