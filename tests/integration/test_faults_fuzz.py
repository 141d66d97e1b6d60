"""Broken messages to every call of a live server: each has an error for its answer, no defect, and jobs run on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import queue
import random
import signal
import socket
import ssl
import zipfile
from datetime import UTC, datetime

import grpc
import msgspec
import numpy as np
import pytest
import safetensors.numpy
from clouddeploy_runtime import jobs, kit, server_proof, tls
from clouddeploy_runtime.admin.signatures import Signatures
from clouddeploy_runtime.job.messages import Delivery, Result, Task
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.signing import JobStatement
from clouddeploy_runtime.wire import blobs, rpc
from clouddeploy_runtime.wire import federation_pb2 as pb

from tests.integration.rounds import ROOT, Jobs, check_completed, job

COUNTS = [pytest.param(30, id="30"), pytest.param(500, id="500", marks=pytest.mark.nightly)]
WAIT_S = 20.0
PIECES = (b"\0", b"\xff" * 9, b"\xdf\xff\xff\xff\xff", b"\x91" * 5000, b"[" * 100_000, b"../../", b"\xc3(", b"\r\n\r\n")
VALUES = (None, True, "", "x", "server", "../..", "\0", "ü" * 300, -1, 0, 1.5, 1 << 63, 1e308, [], [1], {}, [[[[]]]])


class Chance(random.Random):
    """The same faults each time."""

    def bytes_of(self, samples):
        """Return a sample with a few changes, or noise."""
        if self.random() < 0.1:
            return self.randbytes(self.randrange(300))
        raw = bytearray(self.choice(samples))
        for _ in range(self.randint(1, 6)):
            place = self.randrange(len(raw) + 1)
            match self.randrange(5):
                case 0 if place < len(raw):
                    raw[place] = self.randrange(256)
                case 1:
                    raw.insert(place, self.randrange(256))
                case 2:
                    del raw[place : place + self.randint(1, 9)]
                case 3:
                    raw[place:place] = self.choice(PIECES)
                case _:
                    raw[place:] = raw[:place]
        return bytes(raw)

    def document_of(self, document):
        """Return an object with some of its values replaced, missing or new."""
        changed = dict(document)
        for _ in range(self.randint(1, 3)):
            key = self.choice([*changed, "new", "job_id"])
            if self.random() < 0.2:
                changed.pop(key, None)
            else:
                changed[key] = self.choice(VALUES)
        return changed


@pytest.fixture
def federation(tmp_path):
    one = Jobs(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(Exception):
            one.stop(name, signal.SIGKILL)


def answer(call, *arguments, **given):
    """Return the code of the answer; there is one."""
    try:
        reply = call(*arguments, timeout=WAIT_S, **given)
        if not isinstance(reply, bytes):
            list(reply)
    except grpc.RpcError as exc:
        return exc.code(), exc.details()
    return grpc.StatusCode.OK, ""


def check(server_side, codes):
    """Every answer says what is wrong; none says that the server has a defect."""
    bad = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED}
    said = server_side.log("server") + (server_side.folder / "server.out").read_text()
    assert not [one for one in codes if one[0] in bad], said[-6000:]
    assert "Traceback" not in said, said[said.index("Traceback") - 1000 :][:4000]
    assert "could not be handled" not in said
    assert server_side.processes["server"].poll() is None


class Puppet:
    """A registered site's connection, without a site behind it: it says what it is told to."""

    def __init__(self, own):
        self._own = own
        self.channel = tls.channel(own)
        self.register()

    def registration(self, **given):
        request = pb.RegisterRequest(project=self._own.project, name=self._own.name, instance="puppet", **given)
        return request.SerializeToString()

    def register(self):
        reply = self.channel.unary_unary(rpc.REGISTER)(self.registration(), timeout=WAIT_S)
        self.token = (rpc.TOKEN_KEY, pb.RegisterReply.FromString(reply).token)

    def listen(self):
        """Open the session, and return the call that yields events and the function that says one."""
        self.register()
        mouth = queue.SimpleQueue()
        call = self.channel.stream_stream(rpc.SESSION)(iter(mouth.get, None), metadata=(self.token,), timeout=120)
        next(call)  # the greeting
        return call, mouth.put

    def upload(self, job_id, *messages):
        metadata = (self.token, (rpc.JOB_KEY, job_id))
        return answer(self.channel.stream_unary(rpc.UPLOAD), iter(messages), metadata=metadata)

    def download(self, job_id, request):
        metadata = (self.token, (rpc.JOB_KEY, job_id))
        return answer(self.channel.unary_stream(rpc.DOWNLOAD), request, metadata=metadata)


EVENTS = [
    pb.ClientEvent(heartbeat=pb.Heartbeat()),
    pb.ClientEvent(job_ended=pb.JobEnded(job_id="x", reason="y\nz", crashed=True)),
    pb.ClientEvent(task_failed=pb.TaskFailed(job_id="x", task_id="x/0/train", reason="y")),
    pb.ClientEvent(job_deployed=pb.JobDeployed(job_id="x", reason="y")),
    pb.ClientEvent(resources=pb.Resources(job_id="x", reservation="y", reason="z", offer=b'{"num_of_gpus": 1}')),
    pb.ClientEvent(resources=pb.Resources(offer=b"[" * 100_000)),
]


def wait_for(call, kind):
    """Return the next event of a kind that the server pushes."""
    for raw in call:
        event = pb.ServerEvent.FromString(raw)
        if event.WhichOneof("event") == kind:
            return getattr(event, kind)
    raise AssertionError(kind)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.fault("mutated messages of a registered site, to each of its calls", "errors, no defect, jobs run on")
def test_no_message_of_a_registered_site_breaks_the_server_or_its_job(federation, tmp_path, count):
    """In the end the same connection gives the right answer, and the job completes."""
    chance = Chance(count)
    federation.begin("site-1")
    own = kit.load(federation.client_kit("site-2"))
    puppet = Puppet(own)
    channel, codes = puppet.channel, []

    number = [server_proof.nonce()]
    registrations = [puppet.registration(), puppet.registration(active_jobs=["x"] * 9, kind="relay", proof=b"x" * 99)]
    for _ in range(count):
        codes.append(answer(channel.unary_unary(rpc.PROVE), chance.bytes_of(number)))
        codes.append(answer(channel.unary_unary(rpc.REGISTER), chance.bytes_of(registrations)))
    check(federation, codes)

    for _ in range(count // 10):
        call, say = puppet.listen()
        for _ in range(10):
            say(chance.bytes_of([one.SerializeToString() for one in EVENTS]))
        say(None)
        codes.append(answer(lambda call=call, **_: call))
    check(federation, codes)

    call, say = puppet.listen()
    job_id, start, run, result = begin(federation, call, say, tmp_path / "job")
    model = safetensors.numpy.save({"w": np.full(3, 3.0)})
    for number in range(count):
        wanted = {"blob": chance.choice([start.blob, run.blob]), "offset": 5}
        document = json.dumps(chance.document_of(wanted)).encode()
        codes.append(puppet.download(chance.choice(["", "..", "x" * 5000, job_id]), document))
        codes.append(puppet.download(job_id, chance.bytes_of([document])))
        meta = chance.document_of(result.meta)
        changed = msgspec.structs.replace(result, size=chance.choice(SIZES), meta=meta, round=chance.choice(SIZES))
        header = encoded(Delivery(changed, "00", run.checksum))
        rest = [chance.bytes_of([model]) for _ in range(chance.randrange(3))]
        codes += [puppet.upload(job_id, one, *rest) for one in (header, chance.bytes_of([header]))]
        say(pb.ClientEvent(heartbeat=pb.Heartbeat()).SerializeToString())
        if puppet.upload(job_id)[0] is grpc.StatusCode.NOT_FOUND:  # a wrong answer may end its job, by name
            info = federation.ended(job_id)
            assert info.status is JobStatus.EXECUTION_EXCEPTION
            assert "site-2" in info.reason
            job_id, start, run, result = begin(federation, call, say, tmp_path / f"job-{number}")
    deep = b"\x83\xa6result" + b"\x91" * 5000, b'{"blob":' + b"[" * 100_000
    codes += [puppet.upload(job_id, deep[0]), puppet.download(job_id, deep[1])]
    assert [one[0] for one in codes[-2:]] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
    check(federation, codes)
    with federation.admin(*ROOT) as session:
        session.abort(job_id)
    federation.ended(job_id)

    job_id, start, run, result = begin(federation, call, say, tmp_path / "last")
    result = msgspec.structs.replace(result, size=len(model))
    good = encoded(Delivery(result, blobs.checksum(model), run.checksum))
    assert puppet.upload(job_id, good, model[:50], model[50:]) == (grpc.StatusCode.OK, ""), federation.all_logs()
    check_completed(federation, job_id, rounds=1)
    say(None)
    puppet.channel.close()
    check(federation, codes)


encoded = msgspec.msgpack.encode
SIZES = (0, 99, 101, 1 << 20, 1 << 40, 1 << 50, 1 << 62)


def begin(federation, call, say, folder):
    """Start a job of one round; returns what the server says of it, and an answer without parameters."""
    job_id = federation.submit(job(folder, rounds=1))
    start = wait_for(call, "start_job")
    assert start.job_id == job_id
    say(pb.ClientEvent(job_deployed=pb.JobDeployed(job_id=job_id)).SerializeToString())
    run = wait_for(call, "run_task")
    task = msgspec.msgpack.decode(run.task, type=Task)
    return job_id, start, run, Result(task.task_id, "site-2", task.name, 0, {"samples": 1, "metrics": {}}, 0)


def rezipped(archive, chance):
    """Return the archive with one of its files, or its name, changed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as target:
        entries = source.infolist()
        chosen = chance.choice(entries)
        for entry in entries:
            name, content = entry.filename, source.read(entry)
            if entry is chosen:
                match chance.randrange(4):
                    case 0:
                        name = chance.choice(["../x", "/etc/x", "a/../../x", "con", "x" * 3000, "\\x", ""])
                    case 1 if name.endswith(".json"):
                        content = json.dumps(chance.document_of(json.loads(content))).encode()
                    case 2:
                        content = chance.choice([b"[" * 100_000, b'{"a":' * 50_000, b"", b"\xff", b"null", b"0"])
                    case _:
                        content = chance.bytes_of([content])
            target.writestr(name or "x", content)
    return whole.getvalue()


COMMANDS = [
    *("list_jobs", "job_meta", "abort_job", "delete_job", "clone_job", "job_log", "list_components", "system_status"),
    *("report_resources", "disable_client", "enable_client", "remove_client", "update_crl", "nonsense"),
]


class Person:
    """Signs what an admin's session would not send."""

    def __init__(self, own, channel):
        self._own = own
        self._ask = channel.unary_unary(rpc.CHALLENGE)
        self._signatures = Signatures(own, self._challenge)

    def _challenge(self):
        return self._ask(b"", timeout=WAIT_S).decode()

    def command(self, document):
        arguments = {key: value for key, value in document.items() if key != "command" and isinstance(value, str)}
        return self._signatures.command(str(document.get("command", "")), arguments)

    def job(self, archive):
        """Sign what is in an archive, as far as it is one."""
        files = {}
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(archive)) as source:
            files = {entry.filename: hashlib.sha256(source.read(entry)).hexdigest() for entry in source.infolist()}
        statement = JobStatement(
            project=self._own.project,
            server=self._own.server_name,
            nonce=self._challenge(),
            time=datetime.now(UTC),
            study="",
            files=files,
        )
        return self._signatures._signed(statement)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.fault("mutated commands, archives and job files of an admin", "errors, no defect, jobs run on")
def test_no_message_of_an_admin_breaks_the_server(federation, tmp_path, count):
    chance = Chance(count)
    federation.begin("site-1", "site-2")
    job_id = federation.submit(job(tmp_path / "job", rounds=1))
    check_completed(federation, job_id, rounds=1)
    archive = jobs.pack(job(tmp_path / "sent"))
    own, codes = kit.load(federation.kits[ROOT[0]]), []
    with federation.admin(*ROOT) as session, tls.channel(own) as bare:
        channel = session._channel
        person = Person(own, channel)
        command, submit = channel.unary_unary(rpc.COMMAND), channel.stream_unary(rpc.SUBMIT)
        for _ in range(count):
            usual = {"command": chance.choice(COMMANDS), "job_id": job_id, "site": "server", "client": "site-9"}
            usual |= {"max_bytes": 9, "limit": 9, "crl": "x", "since": 1 << 62, "wait_s": 0}
            document = chance.document_of(usual)
            if document.get("command") in ("delete_job", "remove_client", "disable_client"):
                document |= {"job_id": "x", "client": "nobody"}
            signed = person.command(document) if chance.random() < 0.7 else chance.choice(VALUES)
            raw = msgspec.json.encode({**document, "signed": signed})
            codes.append(answer(command, raw))
            codes.append(answer(command, chance.bytes_of([raw])))
            codes.append(answer(bare.unary_unary(rpc.LOGIN), chance.bytes_of([raw])))
            codes.append(answer(channel.unary_unary(rpc.CHALLENGE), chance.bytes_of([raw])))
            codes.append(answer(channel.unary_stream(rpc.DOWNLOAD_JOB), chance.bytes_of([job_id.encode()])))
            sent = chance.choice((rezipped(archive, chance), chance.bytes_of([archive])))
            envelope = person.job(sent)
            if chance.random() < 0.2:
                envelope = chance.bytes_of([envelope])
            metadata = [(rpc.SIGNED_KEY, "1")]
            if chance.random() < 0.3:
                metadata.append((rpc.SUBMIT_TOKEN_KEY, chance.choice(["a", "..", "x" * 999])))
            codes.append(answer(submit, iter([envelope, sent[:99], b"", sent[99:]]), metadata=metadata))
    check(federation, codes)
    said = [one[1] for one in codes]
    assert any("meta.json" in one for one in said)  # it was read, so the signature was good
    with federation.admin(*ROOT) as session:
        for info in session.list_jobs():
            session.abort(info.job_id)
    check_completed(federation, federation.submit(job(tmp_path / "next")), rounds=2)
    check(federation, codes)


def spoken(federation, raw, *, is_tls):
    """Say something on a new connection to the server's port and read what comes."""
    own = federation.kits["site-1"]
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.create_connection(("127.0.0.1", federation.port), timeout=0.1))
        if is_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            context.load_cert_chain(own / "startup/client.crt", own / "startup/client.key")
            link = stack.enter_context(context.wrap_socket(link))
        link.sendall(raw)
        link.recv(1 << 16)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(32) + b"\x20" + bytes(32) + b"\x00\x02\x13\x01" + bytes(120)
SPEECHES = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    HELLO,
    PREFACE + bytes.fromhex("000000040000000000"),
    PREFACE + bytes.fromhex("000000040000000000") + bytes.fromhex("000004010500000001") + b"\x82\x86\x84\xc0",
    PREFACE + bytes.fromhex("ffffff000000000001") + bytes(1000),
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.fault("noise on the server's port, with TLS and without", "connections end, jobs run on")
def test_noise_on_the_port_leaves_the_server_alone(federation, tmp_path, count):
    chance = Chance(count)
    federation.begin("site-1", "site-2")
    with contextlib.ExitStack() as silent:
        for _ in range(count):
            silent.enter_context(socket.create_connection(("127.0.0.1", federation.port)))
        for number in range(count):
            spoken(federation, chance.bytes_of(SPEECHES), is_tls=number % 2 == 0)
        check_completed(federation, federation.submit(job(tmp_path / "job")), rounds=2)
    check(federation, [])
