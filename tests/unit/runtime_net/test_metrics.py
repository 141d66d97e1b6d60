"""What the server counts of itself, how it shows it, and what the endpoint does with those who misuse it."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from clouddeploy_runtime import settings
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import AlreadyRunning, InvalidCommand
from clouddeploy_runtime.job.messages import Progress
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.jobs.rounds import Round
from clouddeploy_runtime.server import endpoint, metrics, monitoring, tally
from clouddeploy_runtime.server.commands import Commands
from clouddeploy_runtime.server.endpoint import Endpoint, Reply
from clouddeploy_runtime.server.health import Health, Lag
from clouddeploy_runtime.server.monitoring import Monitoring
from clouddeploy_runtime.server.rounds import Rounds, read
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.tally import Cause, Distribution, Tally, Way
from clouddeploy_runtime.settings import Address
from prometheus_client.parser import text_string_to_metric_families

SERVER = Path(tally.__file__).parent
ROOT = Path(__file__).parents[3]
SIZE = 16 << 20
"""More than the kernel keeps for a reader that takes nothing."""
TABLE = ROOT / "docs/metrics.md"


# The endpoint.


async def asked(port, request=b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"):
    """Everything that the endpoint says to a request until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 2)
    writer.close()
    return answer


def serving(test, **bounds):
    """Run a test against an endpoint with one page that works and one that does not."""

    async def page():
        return Reply(HTTPStatus.OK, b"said\n")

    async def broken():
        raise KeyError("page")

    async def run():
        one = Endpoint({"/page": page, "/broken": broken}, **bounds)
        try:
            return await test(await one.open("127.0.0.1", 0))
        finally:
            await one.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /page HTTP/1.1", 200),
        (b"GET /page?x=1 HTTP/1.0", 200),
        (b"GET /other HTTP/1.1", 404),
        (b"GET /page/../page HTTP/1.1", 404),
        (b"GET \xff HTTP/1.1", 404),
        (b"POST /page HTTP/1.1", 405),
        (b"GET /page HTTP/2", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"", 400),
        (b"GET /broken HTTP/1.1", 500),
    ],
)
def test_a_request_has_its_status(request_line, status):
    answer = serving(lambda port: asked(port, request_line + b"\r\n\r\n"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b"said" in answer) == (status == 200)
    assert (b"Allow: GET, HEAD\r\n" in answer) == (status == 405)


def test_head_brings_the_length_and_no_page():
    answer = serving(lambda port: asked(port, b"HEAD /page HTTP/1.1\r\n\r\n"))
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_head_without_end_is_refused():
    answer = serving(lambda port: asked(port, b"GET /page HTTP/1.1\r\nX: " + b"x" * (2 * endpoint.MAX_HEAD_BYTES)))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.fault("slow connections to the metrics", "others are answered; the slow ones are cut")
def test_who_sends_slowly_keeps_nobody_out_and_is_cut():
    async def test(port):
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in slow:
            writer.write(b"GET /page HT")
        assert (await asked(port)).endswith(b"said\n")
        ends = [await asyncio.wait_for(reader.read(), 2) for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        return ends

    assert serving(test, deadline_s=0.3, most=4) == [b""] * 4


def test_the_oldest_connection_gives_way_to_one_too_many():
    async def test(port):
        oldest, writer = await asyncio.open_connection("127.0.0.1", port)
        newer = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        answer = await asyncio.wait_for(oldest.read(), 2)
        for one in (writer, *(writer for _, writer in newer)):
            one.close()
        return answer

    assert serving(test, deadline_s=60, most=3) == b""


def test_a_reader_that_takes_nothing_is_cut():
    async def large():
        return Reply(HTTPStatus.OK, b"x" * SIZE)

    async def run():
        one = Endpoint({"/": large}, deadline_s=0.2)
        port = await one.open("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", port)) as reader:
            reader.send(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: one._open)
            await until(lambda: not one._open)
        await one.close()

    asyncio.run(run())


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 2
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def test_a_port_that_is_taken_is_named():
    async def test(port):
        with pytest.raises(AlreadyRunning, match=f"Cannot serve metrics at 127.0.0.1:{port}") as refused:
            await Endpoint({}).open("127.0.0.1", port)
        assert refused.value.hint

    serving(test)


@pytest.mark.parametrize(("host", "is_warned"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
def test_metrics_that_leave_the_machine_are_warned_of(caplog, host, is_warned):
    async def run():
        one = Endpoint({})
        await one.open(host, 0)
        await one.close()

    asyncio.run(run())
    assert ("without encryption" in caplog.text) == is_warned


# Whether and where.


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        ("[::1]:9090", ("::1", 9090)),
        ("localhost:0", ("localhost", 0)),
        ("9090", None),
        (":9090", None),
        ("host:port", None),
        ("host:65536", None),
        ("host:٣", None),
    ],
)
def test_the_environment_says_where(monkeypatch, text, address):
    monkeypatch.setenv(monitoring.VARIABLE, text)
    own = settings.Settings(metrics=Address("127.0.0.1", 1))
    if address:
        assert monitoring.asked_for(own) == address
    else:
        with pytest.raises(settings.BadSettings, match="not host:port"):
            monitoring.asked_for(own)


def test_without_the_variable_the_settings_count(monkeypatch):
    monkeypatch.delenv(monitoring.VARIABLE, raising=False)
    assert monitoring.asked_for(settings.Settings(metrics=Address("127.0.0.1", 1))) == ("127.0.0.1", 1)
    assert monitoring.asked_for(settings.Settings()) is None


@pytest.mark.parametrize(
    ("args", "address"),
    [
        ({}, ("127.0.0.1", 9090)),
        ({"host": "0.0.0.0", "port": 1234}, ("0.0.0.0", 1234)),  # noqa: S104
        ({"port": "9090"}, "port"),
        ({"port": True}, "port"),
        ({"port": 70_000}, "port"),
        ({"host": ""}, "host"),
        ({"host": 5}, "host"),
    ],
)
def test_the_component_of_the_settings_says_where(tmp_path, args, address):
    component = {"id": "metrics_endpoint", "args": args}
    (tmp_path / "resources.json").write_text(json.dumps({"components": [component]}))
    if isinstance(address, str):
        with pytest.raises(settings.BadSettings, match=address):
            settings.load(tmp_path)
    else:
        assert settings.load(tmp_path).metrics == address


def test_what_nobody_asked_for_is_not_loaded():
    """The library is imported by one module, which no module imports before it is needed."""
    for path in SERVER.parent.rglob("*.py"):
        text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith(" "))
        assert ("prometheus_client" in text) == (path.name == "metrics.py")
        assert "server.metrics" not in text
        assert "import metrics" not in text


# Health.


class Stop:
    cause = ""


def probes(health):
    """What the two probes say: status and problems of each."""

    async def run():
        found = []
        for problems in (health.problems, health.hindrances):
            reply = await Monitoring._page(problems)()
            found.append((reply.status.value, json.loads(reply.body)["problems"]))
        return found

    return run()


async def for_ever():
    await asyncio.Event().wait()


def test_a_server_that_starts_lives_and_stops_says_so():
    async def run():
        stop = Stop()
        health = Health(stop)
        assert [status for status, _ in await probes(health)] == [503, 503]
        part = asyncio.create_task(for_ever())
        health.watch(scheduler=part)
        assert await probes(health) == [(200, {}), (200, {})]
        stop.cause = "admin"
        assert await probes(health) == [(200, {}), (503, {"server": "it stops"})]
        part.cancel()

    asyncio.run(run())


@pytest.mark.fault("the scheduler dies", "/healthz says 503 and why")
def test_health_fails_when_the_scheduler_has_died():
    async def die():
        raise KeyError("secret path")

    async def run():
        gate, scheduler = asyncio.create_task(for_ever()), asyncio.create_task(die())
        health = Health(Stop())
        health.watch(scheduler=scheduler, gate=gate)
        await asyncio.wait({scheduler})
        why = {"scheduler": "it has ended by a KeyError, see log.txt"}
        assert await probes(health) == [(503, why), (503, why)]
        gate.cancel()
        await asyncio.wait({gate})
        assert (await probes(health))[0][1]["gate"] == "it was stopped"

    asyncio.run(run())


def test_the_worst_lag_is_told(monkeypatch):
    monkeypatch.setattr("clouddeploy_runtime.server.health._BEAT_S", 0.001)
    times = iter([0.0, 0.001, 10.0, 12.501, 20.0])

    async def run():
        lag = Lag(clock=lambda: next(times, 20.0))
        work = asyncio.create_task(lag.run())
        await until(lambda: len(lag._seen) >= 2)
        work.cancel()
        assert lag.worst_s == pytest.approx(2.5)

    asyncio.run(run())


# The numbers.


class World:
    """A server with jobs and sites that never were."""

    def __init__(self):
        self.now = 100.0
        self.registry = Registry(clock=lambda: self.now)
        self.infos = {}
        self.running = {}
        self.store = SimpleNamespace(all=lambda: list(self.infos.values()), get=lambda job_id: self.infos[job_id])

    def join(self, name):
        session = self.registry.register(name=name, address="127.0.0.1", active_jobs=set())
        self.registry.opened(session)
        return session

    def job(self, job_id, status, **more):
        self.infos[job_id] = JobInfo(job_id, "job", status, **more)
        if status is JobStatus.RUNNING:
            self.running[job_id] = SimpleNamespace(open_tasks=2, shared_bytes=4096)
        else:
            self.running.pop(job_id, None)

    def text(self):
        scheduler = SimpleNamespace(running=tuple(self.running), find=self.running.get)
        not_after = datetime.now(UTC) + timedelta(days=30)
        sources = metrics.Sources(self.registry, scheduler, self.store, Lag(), not_after)
        return metrics.text(metrics.collect(sources)).decode()

    def families(self):
        return {family.name: family for family in text_string_to_metric_families(self.text())}

    def samples(self):
        return {
            (sample.name.removeprefix(metrics.PREFIX), *sample.labels.values()): sample.value
            for family in self.families().values()
            for sample in family.samples
        }


def test_the_page_parses_and_everything_bears_our_name():
    families = World().families()
    assert len(families) > 15
    assert all(name.startswith(metrics.PREFIX) and family.documentation for name, family in families.items())


def test_the_numbers_are_those_of_the_server():
    world = World()
    world.join("site-1")
    world.join("site-2").heard = 60.0
    world.job("a", JobStatus.RUNNING, rounds=3, total_rounds=10)
    world.job("b", JobStatus.COMPLETED, rounds=5, total_rounds=5)
    world.registry.tally.failures[Cause.GONE] += 1
    found = world.samples()
    assert found["sites_connected",] == 2
    assert found["registrations_total",] == 2
    assert found["heartbeat_age_max_seconds",] == 40
    assert found["jobs", "RUNNING"] == found["jobs", "FINISHED:COMPLETED"] == 1
    assert found["jobs", "SUBMITTED"] == 0
    assert (found["job_rounds_finished", "a"], found["job_rounds_planned", "a"]) == (3, 10)
    assert (found["open_tasks",], found["shared_memory_bytes",]) == (2, 4096)
    assert (found["tasks_failed_total", "gone"], found["tasks_failed_total", "said"]) == (1, 0)
    assert found["certificate_days_left",] == pytest.approx(30, abs=0.01)
    assert found["process_resident_memory_bytes",] > 1 << 20
    assert found["process_cpu_seconds_total",] > 0
    assert found["process_open_fds",] > 2


def test_a_job_that_has_ended_has_no_series():
    world = World()
    world.job("a", JobStatus.RUNNING)
    assert 'job="a"' in world.text()
    world.job("a", JobStatus.ABORTED)
    assert "job=" not in world.text()


def test_labels_are_escaped():
    world = World()
    world.registry.tally.moved[Way.TO_SITE]['a"\n\\b'] = 5
    assert world.samples()["sent_bytes_total", 'a"\n\\b'] == 5


def test_a_distribution_counts_what_is_up_to_each_bound():
    one = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        one.add(value)
    assert one.buckets == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert one.sum == 12.0


def test_a_complete_transfer_has_bytes_and_time_and_a_broken_one_bytes_alone():
    times = iter([0.0, 2.0, 10.0])
    one, noted = Tally(clock=lambda: next(times)), []

    async def chunks(*, breaks):
        yield b"1234"
        yield b"56"
        if breaks:
            raise ConnectionError

    async def run():
        for breaks in (False, True):
            passing = one.passing(Way.TO_SITE, "site-1", chunks(breaks=breaks), note=lambda *said: noted.append(said))
            try:
                assert [chunk async for chunk in passing] == [b"1234", b"56"]
            except ConnectionError:
                assert breaks

    asyncio.run(run())
    assert one.moved[Way.TO_SITE]["site-1"] == 12
    assert (one.transfers[Way.TO_SITE].sum, one.transfers[Way.TO_SITE].buckets[-1][1]) == (2.0, 1.0)
    assert noted == [(Way.TO_SITE, 4), (Way.TO_SITE, 2)] * 2


def test_a_refusal_is_counted_and_still_one():
    one, said = Tally(), []

    class Context:
        def peer(self):
            return "ipv4:127.0.0.1:1"

        async def abort(self, *words):
            said.append(words)
            raise PermissionError

    async def register(request, context):
        if request == b"bad":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "site-1 is disabled at this server; ask")
        return context.peer()

    handlers = one.counted({"Register": grpc.unary_unary_rpc_method_handler(register, response_serializer=len)})
    assert handlers["Register"].response_serializer is len
    assert asyncio.run(handlers["Register"].unary_unary(b"", Context())) == "ipv4:127.0.0.1:1"
    with pytest.raises(PermissionError):
        asyncio.run(handlers["Register"].unary_unary(b"bad", Context()))
    assert said == [(grpc.StatusCode.PERMISSION_DENIED, "site-1 is disabled at this server; ask")]
    assert one.refusals["disabled"] == sum(one.refusals.values()) == 1


@pytest.mark.parametrize("phrase", [phrase for phrase, _ in tally._REASONS])
def test_what_a_label_is_known_by_is_said_somewhere(phrase):
    files = [SERVER / f"{name}.py" for name in ("registration", "gate", "membership")]
    assert phrase in "".join(path.read_text() for path in (*files, SERVER.parent / "identity_proof.py"))


def test_a_refusal_that_nobody_knows_is_another_one():
    assert tally.label_of("the moon is full") == tally.OTHER


def test_the_page_of_the_documentation_has_the_metrics_of_the_code():
    world = World()
    world.job("a", JobStatus.RUNNING)
    for way in Way:
        world.registry.tally.moved[way]["site-1"] = 1
    of_code = {
        (
            f"{name}_total" if family.type == "counter" else name,
            family.type,
            ", ".join(sorted({label for sample in family.samples for label in sample.labels} - {"le"})),
        )
        for name, family in world.families().items()
    }
    rows = [
        [cell.strip().strip("`") for cell in line.split("|")[1:4]]
        for line in TABLE.read_text().splitlines()
        if line.startswith(f"| `{metrics.PREFIX}")
    ]
    assert {tuple(row) for row in rows} == of_code
    assert len(rows) == len(of_code)


def test_the_page_of_the_documentation_has_every_label():
    text = TABLE.read_text()
    assert {label for label in (*tally.LABELS, *Cause) if f"`{label}`" not in text} == set()


def test_the_alerts_of_the_documentation_name_metrics_that_there_are():
    names = set(World().families())
    text = TABLE.read_text()
    for line in (line for line in text.splitlines() if line.strip().startswith("expr:")):
        used = {word for word in line.replace("(", " ").replace("[", " ").split() if word.startswith(metrics.PREFIX)}
        assert used
        assert {word.partition("{")[0].removesuffix("_total") for word in used} <= names


# Rounds.


def progress(number, **more):
    return Progress(number, 10, more)


def test_a_round_has_its_time_its_bytes_and_its_sites(tmp_path):
    now = [5.0]
    one, numbers = Rounds(tmp_path, counts := Tally(), clock=lambda: now[0]), []
    one.begin()
    one.moved(Way.TO_SITE, 100)
    one.moved(Way.FROM_SITE, 40)
    one.answered("site-1")
    one.failed("site-2", "site-2: no", Cause.SAID)
    now[0] = 7.0
    numbers.append(one.end(progress(1, loss=0.5)))
    one.begin()
    now[0] = 8.0
    numbers.append(one.end(progress(2)))
    first, second = numbers
    assert (first.seconds, first.bytes_down, first.bytes_up, first.metrics) == (2.0, 100, 40, {"loss": 0.5})
    assert (first.answered, first.failed, first.reasons) == (1, 1, ("site-2: no",))
    assert (second.seconds, second.bytes_down, second.answered, second.failed) == (1.0, 0, 0, 0)
    assert (counts.rounds.sum, counts.failures[Cause.SAID]) == (3.0, 1)
    assert one.known == read(tmp_path) == (first, second)


def test_what_a_controller_reports_is_bounded(tmp_path):
    metrics = {"x" * 1000: 1, "nan": float("nan"), "text": "t" * 9999, "yes": True, "list": [1]}
    done = Rounds(tmp_path).end(progress(1, **metrics, **{f"m{number}": number for number in range(100)}))
    assert len(done.metrics) == 32
    assert done.metrics["x" * 64] == 1.0
    assert done.metrics["nan"] is None
    assert not {"text", "yes", "list"} & set(done.metrics)
    assert read(tmp_path) == (done,)


def test_reasons_are_few_and_short(tmp_path):
    one = Rounds(tmp_path)
    for number in range(9):
        one.failed(f"site-{number}", "r" * 9999, Cause.SAID)
    done = one.end(progress(1))
    assert (done.failed, len(done.reasons), len(done.reasons[0])) == (9, 5, 200)


def test_the_last_thousand_rounds_are_kept_here_and_on_the_disk(tmp_path):
    one = Rounds(tmp_path)
    for number in range(1, 2502):
        one.end(progress(number))
    assert [known.round for known in one.known] == list(range(1502, 2502))
    assert read(tmp_path) == one.known
    assert len((tmp_path / "rounds.jsonl").read_bytes().splitlines()) <= 2000


def test_rounds_that_are_done_again_after_a_restart_replace_what_was_known(tmp_path):
    for number in (1, 2, 3):
        Rounds(tmp_path).end(progress(number, loss=1))
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 4, "tot')  # the server was killed
    again = Rounds(tmp_path)
    again.end(progress(2, loss=2))
    again.end(progress(3, loss=3))
    assert [(known.round, known.metrics["loss"]) for known in again.known] == [(1, 1), (2, 2), (3, 3)]
    assert read(tmp_path) == again.known


def test_a_full_disk_costs_the_file_and_not_the_rounds(tmp_path, caplog):
    one = Rounds(tmp_path / "gone")
    one.end(progress(1))
    one.end(progress(2))
    assert len(one.known) == 2
    assert caplog.text.count("are not kept") == 1
    (tmp_path / "gone").mkdir()
    one.end(progress(3))
    assert [known.round for known in read(tmp_path / "gone")] == [3]


def test_the_rounds_come_with_the_result_and_follow_no_link(tmp_path):
    result, secret = tmp_path / "result", tmp_path / "secret"
    result.mkdir()
    secret.write_text("secret")
    (result / "rounds.jsonl").symlink_to(secret)
    one = Rounds(tmp_path)
    one.end(progress(1))
    one.publish(result)
    assert read(result) == one.known
    assert secret.read_text() == "secret"
    assert not (result / "rounds.jsonl").is_symlink()


def test_rounds_are_asked_for_from_a_number_on(tmp_path):
    one = Rounds(tmp_path / "a")
    (tmp_path / "a").mkdir()
    for number in (1, 2, 3):
        one.end(progress(number))

    def asked(running, after):
        scheduler = SimpleNamespace(find=lambda _: running)
        others = dict.fromkeys(("registry", "membership", "submissions", "stop"))
        entry = Commands(None, store=SimpleNamespace(root=tmp_path), scheduler=scheduler, **others).table["job_rounds"]
        call = SimpleNamespace(job_id="a", number=lambda _: after)
        return [found["round"] for found in asyncio.run(entry.handle(call))]

    assert asked(SimpleNamespace(rounds=one), 1) == asked(None, 1) == [2, 3]
    assert asked(None, 3) == []


class Watcher(AdminSession):
    """Somebody who watches a job; what a server would answer is given.

    Args:
        states: status, and the number of finished rounds that its record has.
        known: the numbers that the server knows at each of these.
    """

    def __init__(self, states, known):
        self._states, self._known = iter(states), iter(known)
        self._revisions = itertools.count()
        self.asked = []

    def _changed(self, job_id, **_):
        status, rounds = next(self._states)
        self._now = next(self._known)
        return JobInfo(job_id, "job", status, rounds=rounds, revision=next(self._revisions))

    def job_rounds(self, _, *, after=0):
        self.asked.append(after)
        if self._now is None:
            raise InvalidCommand("There is no command 'job_rounds'")
        return tuple(Round(number, 9, 1.0) for number in self._now if number > after)

    def seen(self):
        return [[one.round for one in info.history] for info in self.watch("job", timeout_s=5)]


RUNNING, COMPLETED = JobStatus.RUNNING, JobStatus.COMPLETED


def test_who_watches_asks_for_the_new_rounds_only():
    one = Watcher([(RUNNING, 0), (RUNNING, 2), (RUNNING, 2), (COMPLETED, 3)], [[], [1, 2], [1, 2, 3], [1, 2, 3]])
    assert one.seen()[:3] == [[], [1, 2], [1, 2]]
    assert one.asked == [0, 2]


def test_rounds_that_the_record_does_not_have_yet_stay_seen():
    one = Watcher([(RUNNING, 1), (RUNNING, 1), (COMPLETED, 3)], [[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    assert one.seen() == [[1, 2, 3]] * 3
    assert one.asked == [0]


def test_a_job_that_goes_back_to_its_checkpoint_shows_its_rounds_again():
    one = Watcher([(RUNNING, 3), (RUNNING, 1), (COMPLETED, 2)], [[1, 2, 3], [1], [1, 2]])
    assert one.seen() == [[1, 2, 3], [1], [1, 2]]


def test_an_older_server_has_no_rounds_and_can_be_watched():
    assert Watcher([(RUNNING, 3), (COMPLETED, 4)], [None, ()]).seen() == [[], []]
