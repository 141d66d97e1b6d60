"""The table of people's sessions, on a clock of its own; and what a login proves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from clouddeploy_runtime import kit, login_proof
from clouddeploy_runtime.errors import AuthenticationRefused, InvalidCommand, NoSession, SessionExpired
from clouddeploy_runtime.identity_proof import IdentityRefused
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.logins import LIFE_S, Logins
from clouddeploy_runtime.tls import Peer

from tests.integration.federation import Authority

ANN, BOB = (Peer(name=name, org="lab", role="lead", serial=serial) for name, serial in (("ann", 1), ("bob", 2)))
ROOT = Peer(name="root", org="lab", role="project_admin", serial=3)
DAY_S = 86_400.0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def logins(clock):
    return Logins(idle_s=60, life_s=600, clock=clock)


def opened(logins, peer=ANN, *, study="default", valid_s=DAY_S):
    return logins.open(peer, study=study, address="192.0.2.1", valid_s=valid_s)


def test_a_token_names_its_session_until_nobody_used_it_for_a_while(logins, clock):
    login = opened(logins)
    for _ in range(3):
        clock.now += 59
        assert logins.of(login.token) is login
    clock.now += 60
    for _ in range(2):
        with pytest.raises(SessionExpired, match="not used for 60 s"):
            logins.of(login.token)
    assert logins.was(login.token) is login
    assert [(one.peer.name, why) for one, why in logins.take_ended()] == [("ann", "it was not used for 60 s")]
    assert logins.take_ended() == []


def test_what_nobody_uses_ends_without_being_asked_for(logins, clock):
    idle, used = opened(logins), opened(logins, BOB)
    clock.now += 59
    logins.of(used.token)
    clock.now += 1
    logins.expire()
    assert logins.all() == [used]
    assert logins.take_ended()[0][0] is idle


@pytest.mark.parametrize(
    ("life_s", "valid_s", "expected"), [(600, DAY_S, 600), (600, 50, 50), (10 * DAY_S, DAY_S, LIFE_S)]
)
def test_a_token_is_good_as_long_as_set_the_certificate_and_half_a_day(clock, life_s, valid_s, expected):
    logins = Logins(idle_s=2 * DAY_S, life_s=life_s, clock=clock)
    login = opened(logins, valid_s=valid_s)
    clock.now += expected - 0.5
    assert logins.of(login.token) is login
    clock.now += 0.5
    with pytest.raises(NoSession):  # who holds the key may come back
        logins.of(login.token)


def test_an_ended_session_says_why_and_a_token_that_never_was_does_not(logins):
    login = opened(logins)
    logins.end(login, "ended by root")
    logins.end(login, "twice")
    with pytest.raises(SessionExpired, match="ended by root"):
        logins.of(login.token)
    with pytest.raises(NoSession):
        logins.of("x")
    with pytest.raises(NoSession):
        logins.of("")


def test_one_session_of_a_person_ends_without_the_other(logins):
    one, other = opened(logins), opened(logins)
    logins.end(one, "logged out")
    assert logins.of(other.token) is other


def test_somebody_with_many_sessions_pushes_out_only_his_own_and_those_come_back(logins):
    first, own = opened(logins), [opened(logins, BOB) for _ in range(30)]
    assert logins.of(first.token) is first
    assert logins.all()[1:] == own[10:]
    with pytest.raises(NoSession):
        logins.of(own[0].token)


def test_only_so_many_ended_ones_are_remembered(logins):
    first = opened(logins)
    logins.end(first, "logged out")
    for _ in range(1000):
        logins.end(opened(logins), "logged out")
    with pytest.raises(NoSession):
        logins.of(first.token)


def test_a_site_is_no_person(logins):
    with pytest.raises(AuthenticationRefused, match="site-1 is no person"):
        opened(logins, Peer(name="site-1", org="lab", role=""))


@pytest.mark.parametrize("study", ["", "A", "a b", "-a", "a-", "a" * 64, "default\n", "../x"])
def test_what_is_no_name_of_a_study_is_refused(logins, study):
    with pytest.raises(AuthenticationRefused) as caught:
        opened(logins, study=study)
    assert caught.value.error_code == "AUTH_INVALID_STUDY_NAME"


def test_without_studies_there_is_the_default_alone(logins):
    with pytest.raises(AuthenticationRefused) as caught:
        opened(logins, study="heart")
    assert caught.value.error_code == "AUTH_STUDY_NOT_CONFIGURED"
    assert opened(logins).user == ANN


def test_whoever_admits_says_which_role_counts(clock):
    def admit(peer, study):
        if (peer.name, study) != ("ann", "heart"):
            raise AuthenticationRefused("no", code="AUTH_STUDY_USER_NOT_MAPPED")
        return "member"

    logins = Logins(admit=admit, clock=clock)
    login = opened(logins, study="heart")
    assert (login.user.role, login.peer.role, login.study) == ("member", "lead", "heart")
    with pytest.raises(AuthenticationRefused) as caught:
        opened(logins, BOB, study="heart")
    assert caught.value.error_code == "AUTH_STUDY_USER_NOT_MAPPED"


def ask(logins, name, **arguments):
    return asyncio.run(logins.commands()[name].handle(Call(ROOT, arguments=arguments)))


def test_sessions_are_listed_without_their_tokens(logins, clock):
    login = opened(logins)
    clock.now += 3
    (shown,) = ask(logins, "list_sessions")
    assert (shown["user"], shown["study"], shown["idle_s"], shown["session"]) == ("ann", "default", 3.0, login.name)
    assert login.token not in str(shown)
    assert login.token not in repr(login)


def test_sessions_are_ended_by_person_or_one_by_name(logins):
    one, _, other = opened(logins), opened(logins), opened(logins, BOB)
    assert ask(logins, "end_sessions", user="ann", session=one.name) == {"ended": 1}
    assert ask(logins, "end_sessions", user="ann") == {"ended": 1}
    assert ask(logins, "end_sessions", user="nobody") == {"ended": 0}
    assert logins.all() == [other]
    with pytest.raises(InvalidCommand):
        ask(logins, "end_sessions", user=5)


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("kits"), port=1)
    server, ann = kit.load(authority.server()), kit.load(authority.admin("ann", "lead"))
    return server, ann, authorities(server.root_cert_file)


def made(kits, **changes):
    server, ann, _ = kits
    return login_proof.make(
        ann, **{"number": bytes(56), "study": "default", "server": certificate(server.cert_file), **changes}
    )


def checked(kits, data, *, now=None):
    server, _, trusted = kits
    return login_proof.check(data, server=certificate(server.cert_file), trusted=trusted, now=now)


def test_a_login_proves_who_it_is_and_for_what(kits):
    proof, cert = checked(kits, made(kits, study="heart"))
    assert (proof.name, proof.study, proof.project, proof.number) == ("ann", "heart", "example", bytes(56))
    assert cert == certificate(kits[1].cert_file)


@pytest.mark.parametrize("member", ["number", "study", "project", "signature"])
def test_nothing_of_a_login_can_be_changed(kits, member):
    document = msgspec.msgpack.decode(made(kits))
    document[member] = document[member] + document[member][:1]
    with pytest.raises(IdentityRefused, match="does not hold the key"):
        checked(kits, msgspec.msgpack.encode(document))


def test_a_login_is_for_one_server_and_for_the_time_of_its_certificate(kits):
    with pytest.raises(IdentityRefused, match="does not hold the key"):
        checked(kits, made(kits, server=certificate(kits[1].cert_file)))
    with pytest.raises(IdentityRefused, match="has expired"):
        checked(kits, made(kits), now=datetime.now(UTC) + timedelta(days=2))
    for data in (b"", b"x", made(kits)[:-1]):
        with pytest.raises(IdentityRefused, match="cannot be read"):
            checked(kits, data)
