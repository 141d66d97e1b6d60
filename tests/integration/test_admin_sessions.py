"""People log in and out: what a session is worth, how it ends, and that a restart of the server does not end it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time

import grpc
import pytest
from clouddeploy_runtime import audit, kit, login_proof, server_proof, tls
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import AuthenticationRefused, AuthorizationRefused, NoSession, SessionExpired
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.wire import rpc

from tests.integration.federation import SERVER, Federation, until

pytestmark = pytest.mark.xdist_group("admin_sessions")
ROOT, LEAD, MEMBER = (
    ("root@org.example", "project_admin"),
    ("lead@org.example", "lead"),
    ("mem@org.example", "member"),
)


def stopped(one):
    for name in list(one.processes):
        one.stop(name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server, for all tests that leave it as it is."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    one.start("server")
    one.wait_for("server", "serving")
    yield one
    stopped(one)


@pytest.fixture
def own_federation(tmp_path):
    one = Federation(tmp_path)
    yield one
    stopped(one)


def recorded(one):
    path = one.workspace("server") / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_session_is_listed_with_its_person_and_gone_after_logout(federation):
    with federation.admin(*ROOT) as root, federation.admin(*LEAD) as lead:
        (seen,) = [one for one in root.sessions() if one.user == LEAD[0]]
        assert (seen.role, seen.org, seen.study, seen.address) == ("lead", "org", "default", "127.0.0.1")
        lead.logout()
        lead.logout()  # once more does no harm
        assert LEAD[0] not in {one.user for one in root.sessions()}
        with pytest.raises(SessionExpired, match="it was logged out"):
            lead.list_jobs()
    actions = [(one["user"], one["action"], one["result"]) for one in recorded(federation)]
    for expected in ((LEAD[0], "login", "allowed"), (LEAD[0], "logout", "allowed"), (ROOT[0], "logout", "allowed")):
        assert expected in actions
    assert f"Created user session for {LEAD[0]}" in federation.log("server")


def test_the_token_of_a_session_that_was_logged_out_is_worth_nothing(federation):
    with federation.admin(*LEAD) as lead:
        channel = lead._channel
        lead.logout()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(rpc.COMMAND)(b'{"command": "list_jobs"}', timeout=5)
    assert dict(caught.value.trailing_metadata())[rpc.ERROR_KEY] == "SESSION_EXPIRED"
    last = [one for one in recorded(federation) if one["user"] == LEAD[0] and one["action"] == "list_jobs"][-1]
    assert last["result"] == "refused"


def test_sessions_of_the_same_person_stand_for_themselves(federation):
    with federation.admin(*LEAD) as one, federation.admin(*LEAD) as other:
        one.logout()
        assert other.list_jobs() == []


def test_an_operator_ends_a_persons_sessions_and_they_do_not_come_back(federation):
    with federation.admin(*ROOT) as root, federation.admin(*LEAD) as lead:
        with pytest.raises(AuthorizationRefused):
            lead.end_sessions(ROOT[0])
        with pytest.raises(AuthorizationRefused):
            lead.sessions()
        assert root.end_sessions("nobody@org.example") == 0
        assert root.end_sessions(LEAD[0]) == 1
        for _ in range(2):
            with pytest.raises(SessionExpired, match=f"ended by {ROOT[0]}"):
                lead.list_jobs()
    with federation.admin(*LEAD) as again:
        assert again.list_jobs() == []
    until(lambda: any(one["action"] == "session_end" for one in recorded(federation)), what="its entry")


def test_without_a_login_a_certificate_alone_is_worth_nothing(federation):
    own = kit.load(_kit(federation))
    with tls.channel(own) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(rpc.COMMAND)(b'{"command": "list_jobs"}', timeout=5)
    assert dict(caught.value.trailing_metadata())[rpc.ERROR_KEY] == NoSession.error_code


def _kit(federation, person=LEAD):
    if person[0] not in federation.kits:
        federation.kits[person[0]] = federation.authority.admin(*person)
    return federation.kits[person[0]]


def prove(channel, own):
    nonce = server_proof.nonce()
    reply = channel.unary_unary(rpc.PROVE_TO_ADMIN)(nonce, metadata=((rpc.SECURITY_KEY, "mtls"),), timeout=5)
    return server_proof.check(
        reply, nonce=nonce, own=certificate(own.cert_file), server_name=SERVER, trusted=authorities(own.root_cert_file)
    )


def refused(channel, proof):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(rpc.LOGIN)(proof, timeout=5)
    return caught.value.details()


def test_a_login_is_good_once_for_its_own_connection_server_and_study(federation):
    lead, member = kit.load(_kit(federation)), kit.load(_kit(federation, MEMBER))
    with tls.channel(lead) as channel, tls.channel(member) as foreign:
        proof, server = prove(channel, lead)
        login = login_proof.make(lead, number=proof.number, study="default", server=server)
        token = channel.unary_unary(rpc.LOGIN)(login, timeout=5)
        assert "used before" in refused(channel, login)
        fresh = {"number": prove(channel, lead)[0].number, "study": "default"}
        own = certificate(lead.cert_file)
        assert "does not hold the key" in refused(channel, login_proof.make(lead, server=own, **fresh))
        stolen = login_proof.make(lead, server=server, **fresh)
        assert "another certificate than the connection's" in refused(foreign, stolen)
        assert "cannot be read" in refused(channel, b"x")
        assert "used before" in refused(
            channel, login_proof.make(lead, number=bytes(56), study="default", server=server)
        )
        with pytest.raises(grpc.RpcError) as caught:  # the token of one on the connection of another
            foreign.unary_unary(rpc.COMMAND)(
                b'{"command": "list_jobs"}', metadata=((rpc.TOKEN_KEY, token.decode()),), timeout=5
            )
        assert dict(caught.value.trailing_metadata())[rpc.ERROR_KEY] == NoSession.error_code


@pytest.mark.parametrize(
    ("study", "code"), [("No Study", "AUTH_INVALID_STUDY_NAME"), ("cancer-research", "AUTH_STUDY_NOT_CONFIGURED")]
)
def test_a_login_to_a_study_that_is_not_there_names_the_reason(federation, study, code):
    with pytest.raises(AuthenticationRefused) as caught, AdminSession(kit.load(_kit(federation)), study=study):
        pass
    assert (caught.value.error_code, caught.value.exit_code) == (code, 2)


def test_a_session_survives_a_restart_of_the_server_but_a_logout_does_too(own_federation):
    one = own_federation
    one.start("server")
    one.wait_for("server", "serving")
    with one.admin(*LEAD) as lead, one.admin(*MEMBER) as member:
        member.logout()
        one.stop("server")
        one.start("server")
        one.wait_for("server", "serving")
        assert lead.list_jobs() == []
        with pytest.raises(SessionExpired):
            member.list_jobs()
        one.stop("server")
        began = time.monotonic()
    assert time.monotonic() - began < 2  # who leaves does not wait for a server that is gone


@pytest.mark.parametrize("security", ["mtls", "tls"])
def test_a_session_that_nobody_uses_ends(own_federation, security):
    one = own_federation
    one.authority.security = security
    shutil.rmtree(one.kits["server"])
    one.kits["server"] = one.authority.server()
    settings = {"format_version": 2, "components": [{"id": "admin_sessions", "args": {"idle_timeout": 0.3}}]}
    (one.kits["server"] / "local" / "resources.json").write_text(json.dumps(settings))
    one.start("server")
    one.wait_for("server", "serving")
    with one.admin(*LEAD) as lead:
        until(lambda: "session_end" in {entry["action"] for entry in recorded(one)}, what="its end")
        with pytest.raises(SessionExpired, match=r"not used for 0\.3 s"):
            lead.list_jobs()


def test_a_token_that_has_become_old_is_exchanged_without_a_word(own_federation):
    one = own_federation
    settings = {"format_version": 2, "components": [{"id": "admin_sessions", "args": {"max_lifetime": 0.2}}]}
    (one.kits["server"] / "local" / "resources.json").write_text(json.dumps(settings))
    one.start("server")
    one.wait_for("server", "serving")
    with one.admin(*LEAD) as lead:

        def logins():
            with contextlib.suppress(NoSession):
                lead.list_jobs()
            return [entry["action"] for entry in recorded(one)].count("login") > 2

        until(logins, what="two more logins")
