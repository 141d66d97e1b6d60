"""Logging in by way of a provider: who gets in, and everything that must not."""

import pytest
from joserfc.jwk import RSAKey

from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.oidc import Provider, SignIn
from clouddeploy.dashboard.web import app
from clouddeploy.secrets import Secret
from tests.unit.dashboard import provider as providers
from tests.unit.dashboard.provider import CLIENT, SECRET
from tests.unit.dashboard.visitors import ADMIN, HOST

GOOD = {"email": ADMIN, "email_verified": True, "name": "Root"}


@pytest.fixture
def provider(world):
    with providers.running(world.clock) as one:
        one.claims = dict(GOOD)
        given = Provider(one.issuer, CLIENT, Secret(SECRET), f"{HOST}/oidc/back")
        world.app = app.make(
            world.desk, is_tls=False, version="1", hosts=["127.0.0.1"], sign_in=SignIn(world.desk, given)
        )
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
    assert mine.get("/oidc/back", params=query).status_code == 401, "it was tried elsewhere"
    query = provider.agree(mine.get("/oidc").headers["location"])
    assert mine.get("/oidc/back", params=query).status_code == 200
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


def test_a_configuration_of_another_issuer_is_refused(world, provider):
    provider.says_issuer = "https://evil.example"
    assert world.client().get("/oidc").status_code == 500


def test_without_https_there_is_no_provider():
    with pytest.raises(Invalid, match="not by HTTPS"):
        Provider("http://login.example", CLIENT, Secret(SECRET), "https://dash.example/oidc/back")


def test_without_a_provider_there_is_no_such_page(world):
    assert world.client().get("/oidc").status_code == 404
    assert "/oidc" not in world.client().get("/").text
