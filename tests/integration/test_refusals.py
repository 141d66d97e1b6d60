"""Each refusal is one clear line on both sides, within seconds, and in the site's status.json."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from clouddeploy_runtime import identity_proof, kit, server_proof, tls
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc
from cryptography import x509

from tests.integration.federation import SERVER, Authority, Federation, until


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    one.environment["CLOUDDEPLOY_HEARTBEAT_S"] = "1"
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def detail(one, name):
    with contextlib.suppress(FileNotFoundError):
        return json.loads((one.workspace(name) / "status.json").read_bytes())["detail"]
    return ""


def serve(one):
    one.start("server")
    one.wait_for("server", "serving")


def refused(one, name, text):
    """The line is in both logs and in the status file."""
    until(lambda: f"The server refused this site: {text}" in one.log(name), what=f"at {name}: {one.log(name)}")
    until(lambda: text in detail(one, name), what="status.json")
    assert f"Refused the registration of {name!r}" in one.log("server")
    assert text in one.log("server")


def of_another_project(one):
    one.authority.project = "other"
    return one.authority.client("site-1")


def of_an_admin(one):
    return one.authority.client("site-1", role="lead")


def of_a_disabled_site(one):
    one.workspace("server").mkdir(exist_ok=True)
    (one.workspace("server") / "disabled_clients.json").write_text('{"disabled_clients": ["site-1"]}')
    return one.authority.client("site-1")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (of_another_project, "this server runs the project 'example', not 'other'"),
        (of_an_admin, "an admin's certificate cannot register a site"),
        (of_a_disabled_site, "site-1 is disabled at this server"),
    ],
)
@pytest.mark.fault("client that may not register", "refused, named on both sides")
def test_a_site_that_may_not_register_is_told_why(federation, make, said):
    federation.kits["site-1"] = make(federation)
    serve(federation)
    federation.start("site-1")
    refused(federation, "site-1", said)


@pytest.mark.fault("more clients than the server takes", "refused, named, joins later")
def test_one_more_site_than_the_server_takes_waits_until_another_leaves(federation):
    resources = {"format_version": 2, "servers": [{"max_num_clients": 1}]}
    (federation.kits["server"] / "local" / "resources.json").write_text(json.dumps(resources))
    serve(federation)
    federation.start("site-1")
    federation.wait_for("site-1", "registered")
    federation.start("site-2")
    refused(federation, "site-2", "the server takes 1 clients (max_num_clients)")
    federation.stop("site-1", signal.SIGKILL)
    federation.wait_for("site-2", "registered")
    assert "Client site-1 is gone. Total clients: 0" in federation.log("server")


@pytest.mark.fault("two clients with one kit", "the second is refused and named, the first stays")
def test_a_second_machine_with_the_same_kit_is_refused_and_the_first_one_stays(federation):
    serve(federation)
    federation.start("site-1")
    federation.wait_for("site-1", "registered")
    federation.kits["copy"] = federation.folder / "copy"
    shutil.copytree(federation.kits["site-1"], federation.kits["copy"])
    federation.start("copy")
    said = "another site-1 is registered from 127.0.0.1"
    until(lambda: federation.log("copy").count(said) > 1, what="refused again")
    assert said in federation.log("server")
    assert federation.status("site-1") == "registered"
    assert "is gone" not in federation.log("server")
    federation.stop("site-1", signal.SIGKILL)
    federation.wait_for("copy", "registered")


@pytest.mark.fault("list of disabled clients broken", "the server does not start and says why")
def test_a_list_of_disabled_clients_that_cannot_be_read_keeps_the_server_from_starting(federation):
    federation.workspace("server").mkdir()
    (federation.workspace("server") / "disabled_clients.json").write_text("[")
    assert federation.start("server").wait(20) == 4
    out = (federation.folder / "server.out").read_text()
    assert "disabled_clients.json cannot be used" in out
    assert "Traceback" not in out


@pytest.mark.fault("client of another project", "refused and named")
def test_a_site_of_another_authority_hears_that_from_its_own_log(federation):
    serve(federation)
    federation.kits["site-1"] = Authority(federation.folder / "strangers", port=federation.port).client("site-1")
    federation.start("site-1")
    said = "The server's certificate was issued by another authority (CN=example) than this kit's rootCA.pem"
    until(lambda: said in federation.log("site-1"), what=federation.log("site-1"))
    assert federation.log("site-1").count("Setting flag for stopping training") == 1
    until(lambda: said in detail(federation, "site-1"), what="status.json")


@pytest.mark.nightly
@pytest.mark.fault("client's certificate expires while it waits", "named at the client")
def test_a_certificate_that_expires_while_the_site_waits_is_named(federation):
    federation.authority.validity = timedelta(seconds=4)
    federation.kits["site-1"] = federation.authority.client("site-1")
    serve(federation)
    federation.start("site-1")
    federation.wait_for("site-1", "registered")
    end = x509.load_pem_x509_certificate((federation.kits["site-1"] / "startup/client.crt").read_bytes())
    federation.stop("server")
    until(lambda: _is_over(end), what="the certificate's end")
    serve(federation)
    said = "The server refuses this site's certificate: it expired on"
    until(lambda: said in detail(federation, "site-1"), timeout_s=40, what=federation.log("site-1")[-2000:])
    assert said in federation.log("site-1")


def _is_over(cert):
    return datetime.now(UTC) > cert.not_valid_after_utc


@pytest.mark.parametrize("security", ["tls", "clear"])
def test_sites_and_people_without_a_certificate_in_tls_prove_themselves(tmp_path, security):
    one = Federation(tmp_path)
    one.authority.security = security
    shutil.rmtree(one.kits["server"])
    one.kits["server"] = one.authority.server()
    if security == "clear":
        process = one.start("server")
        assert process.wait(20) == 4
        assert "everybody on the way could read" in (tmp_path / "server.out").read_text()
        (one.kits["server"] / "local" / "comm_config.json").write_text('{"allow_clear": true}')
    try:
        serve(one)
        one.start("site-1")
        one.wait_for("site-1", "registered")
        with one.admin() as session:
            assert one.connected(session) == {"site-1"}
            assert session.list_jobs() == []
        stranger = Authority(tmp_path / "strangers", port=one.port)
        stranger.security = security
        one.kits["site-2"] = stranger.client("site-2")
        one.start("site-2")
        said = {"tls": "another authority (CN=example) than this kit's", "clear": "its certificate is not one of this"}
        until(lambda: said[security] in one.log("site-2"), what=one.log("site-2"))
        _raw_refusals(one, stranger, security)
        assert (security == "clear") == ("everybody on the way" in one.log("site-1"))
    finally:
        for name in list(one.processes):
            one.stop(name)


def _raw_refusals(one, stranger, security):
    """What a client can say that does not follow the rules."""
    own = kit.load(one.client_kit("site-1"))
    foreign = kit.load(stranger.client("site-3"))
    with tls.channel(own) as channel:
        number = prove(channel, own, security)
        with pytest.raises(grpc.RpcError, match="another authority"):
            register(channel, own, proof=identity_proof.make(foreign, number=number))
        with pytest.raises(grpc.RpcError, match="is missing or cannot be read"):
            register(channel, own, proof=b"")
        with pytest.raises(grpc.RpcError, match="too old or was used before"):
            register(channel, own, proof=identity_proof.make(own, number=bytes(56)))
        proof = identity_proof.make(own, number=number)
        with pytest.raises(grpc.RpcError, match="not that of 'site-9', but of 'site-1'"):
            register(channel, own, proof=proof, name="site-9")
        with pytest.raises(grpc.RpcError, match="was used before"):
            register(channel, own, proof=proof)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(channel.stream_stream(rpc.SESSION)(iter([b""]), metadata=((rpc.TOKEN_KEY, "x"),)))


def prove(channel, own, security):
    nonce = server_proof.nonce()
    request = server_proof.request(nonce, security=security, certificate=own.cert_file.read_bytes())
    reply = channel.unary_unary(rpc.PROVE)(request, metadata=((rpc.SECURITY_KEY, security),), timeout=5)
    proof, _ = server_proof.check(
        reply,
        nonce=nonce,
        own=certificate(own.cert_file),
        server_name=SERVER,
        trusted=authorities(own.root_cert_file),
    )
    return proof.number


def register(channel, own, *, proof=b"", name="", jobs=()):
    request = pb.RegisterRequest(
        project=own.project, name=name or own.name, proof=proof, instance="a", active_jobs=list(jobs)
    )
    call = channel.unary_unary(
        rpc.REGISTER,
        request_serializer=pb.RegisterRequest.SerializeToString,
        response_deserializer=pb.RegisterReply.FromString,
    )
    return call(request, timeout=5)


def test_a_kit_whose_security_is_not_the_servers_is_told_so(federation):
    serve(federation)
    federation.authority.security = "tls"
    federation.start("site-1")
    said = "The server demands a certificate in TLS (mtls), and this site's kit has connection_security tls"
    until(lambda: said in detail(federation, "site-1"), what=federation.log("site-1"))
    federation.authority.security = "clear"
    federation.start("site-2")
    said = "The server speaks TLS, and this site's kit has connection_security clear"
    until(lambda: said in detail(federation, "site-2"), what=federation.log("site-2"))


def test_an_mtls_kit_at_a_tls_server_is_told_so(federation):
    federation.client_kit("site-1")
    federation.authority.security = "tls"
    shutil.rmtree(federation.kits["server"])
    federation.kits["server"] = federation.authority.server()
    serve(federation)
    federation.start("site-1")
    said = "the server has connection_security tls, the kit that calls has mtls"
    until(lambda: said in detail(federation, "site-1"), what=federation.log("site-1"))
    assert said in federation.log("server")
    federation.authority.security = "mtls"
    with pytest.raises(RuntimeFault, match="connection_security tls"), federation.admin():
        pass


@pytest.mark.fault("token stolen", "worth nothing on another connection")
def test_a_token_is_worth_nothing_on_another_connection_and_is_signed(federation):
    serve(federation)
    own = kit.load(federation.client_kit("site-1"))
    with tls.channel(own) as first, tls.channel(own) as second:
        reply = register(first, own, jobs=["gone"])
        assert list(reply.ended_jobs) == ["gone"]
        key = certificate(federation.kits["server"] / "startup/server.crt").public_key()
        given = {"name": "site-1", "token": reply.token, "instance": "a"}
        assert tokens.is_genuine(key, reply.token_signature, **given)
        assert not tokens.is_genuine(key, reply.token_signature, **{**given, "instance": "b"})
        metadata = ((rpc.TOKEN_KEY, reply.token),)
        with pytest.raises(grpc.RpcError, match="given to another connection; register again"):
            list(second.unary_stream(rpc.DOWNLOAD)(b"{}", metadata=metadata))
        with pytest.raises(grpc.RpcError, match=r"INVALID_ARGUMENT|NOT_FOUND"):
            list(first.unary_stream(rpc.DOWNLOAD)(b"{}", metadata=metadata))
    assert reply.token not in federation.log("server")
    assert tokens.fingerprint(reply.token) in federation.log("server")
    # Nobody opened a stream for it.
    until(lambda: "registered, but does not listen" in federation.log("server"), what="its end")
