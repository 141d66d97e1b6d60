"""Jobs whose code fails, or means harm: the parent lives, the job ends, and the reason names site and cause."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime.client.jobs import sweep
from clouddeploy_runtime.job import confine, landlock, tensors
from clouddeploy_runtime.job.buffers import PAGE, BufferPool
from clouddeploy_runtime.job.messages import MAX_FRAME, Abort, Done, Frame, Progress, Release, Result, Task, encode
from clouddeploy_runtime.launchers import job_process
from clouddeploy_runtime.launchers.base import JobLaunch
from clouddeploy_runtime.launchers.output import FILE_BYTES
from clouddeploy_runtime.launchers.process import ProcessLauncher

EXECUTOR = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
START = """
import ctypes, fcntl, json, os, signal, socket, sys, time
from clouddeploy_runtime.job import client_api as flare
from clouddeploy_runtime.job.messages import Frame, Progress, Release, Result, encode
flare.init()
model = flare.receive()

def parent():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                return int(name)
        except OSError:
            pass

def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"
"""
FOREVER = "\nprint('busy', flush=True)\nwhile True:\n    time.sleep(60)\n"


@dataclass
class Site:
    """A kit with its workspace in it, and one job there."""

    kit: Path
    pool: BufferPool = field(default_factory=lambda: BufferPool(64 << 20))

    def __post_init__(self):
        self.key = self.kit / "startup" / "client.key"
        self.audit = self.kit / "workspace" / "audit.jsonl"
        self.other = self.kit / "workspace" / "jobs" / "other" / "run" / "model"
        for path in (self.key, self.audit, self.other):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("secret")
        self.folder = self.kit / "workspace" / "jobs" / "job"
        self.app = self.folder / "job" / "app"
        self.run = self.folder / "run"
        self.data = self.kit / "workspace" / "data"
        self.data.mkdir()
        (self.data / "train.csv").write_text("1,2\n")
        (self.app / "config").mkdir(parents=True)
        (self.app / "custom").mkdir()
        executor = {"tasks": ["train"], "executor": {"path": EXECUTOR, "args": {"task_script_path": "train.py"}}}
        document = {"format_version": 2, "executors": [executor]}
        (self.app / "config" / "config_fed_client.json").write_text(json.dumps(document))

    def log(self):
        return (self.run / "log.txt").read_text()

    def printed(self):
        """Return the object that the script printed."""
        return json.loads(next(line for line in self.log().splitlines() if line.startswith("{")))

    @asynccontextmanager
    async def started(self, script, *, launcher=None, **given):
        """Start the job and send it a task, which it takes."""
        (self.app / "custom" / "train.py").write_text(START + script)
        job = JobLaunch(
            job_id="job",
            role="trainer",
            site="site-1",
            app_dir=self.app,
            run_dir=self.run,
            sites=("site-1",),
            data_dir=self.data,
            hidden=(self.kit,),
            **given,
        )
        process = await (launcher or ProcessLauncher()).launch(job, self.pool)
        try:
            model = {"w": np.arange(3.0)}
            buffer = self.pool.acquire(tensors.size_of(model))
            tensors.write(model, buffer.view)
            await process.send(Task("t", "train", 0, 1, ["site-1"], {}, buffer.size), buffer)
            yield process
        finally:
            process.kill()
            await process.wait()

    async def ended(self, script, **given):
        """Return how a job ended, what it said last and whether its buffers could be read."""
        done = None
        async with self.started(script, **given) as process:
            while (received := await process.receive()) is not None:
                message, buffer = received
                if buffer is not None:
                    bytes(buffer.view)
                if isinstance(message, Done):
                    done = message
            return process.ending(), done

    def ending(self, script, **given):
        return asyncio.run(self.ended(script, **given))


@pytest.fixture
def site(tmp_path):
    one = Site(tmp_path / "site-1")
    yield one
    one.pool.close()


async def until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


SEND_OWN_MEMORY = """
def send(seals, size=4096):
    fd = os.memfd_create("own", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes(4096))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    frame = encode(Frame(Result("t", "site-1", "train", 0, {}, size), key=99, capacity=4096))
    socket.send_fds(socket.socket(fileno=os.dup(parent())), [frame], [fd])
    return fd
"""
GIVE_BACK = """
def give_back(key=1, size=8):
    os.write(parent(), encode(Frame(Result("t", "site-1", "train", 0, {}, size), key=key, is_yours=True)))
"""


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("os._exit(7)", "ended with exit code 7"),
        ("ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV, segmentation fault)"),
        ("os.abort()", "was killed by signal 6 (SIGABRT, aborted)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9 (SIGKILL, killed)"),
        (
            "os.write(parent(), b'garbage')\ntime.sleep(60)",
            "was ended by its parent: it sent what is no message",
        ),
        (
            "os.write(parent(), bytes(200_000))\ntime.sleep(60)",
            "was ended by its parent: it sent what is no message: more than 163840 bytes",
        ),
        (
            "os.write(parent(), encode(Frame(Result('t', 's', 'n', 0, {}, 5), key=7)))\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: number 7 never came",
        ),
        (
            SEND_OWN_MEMORY + "os.ftruncate(send(0), 0)\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: its size is not sealed",
        ),
        (
            SEND_OWN_MEMORY + "send(fcntl.F_SEAL_SHRINK, 1 << 40)\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: 1099511627776 bytes in one of 4096",
        ),
        (
            GIVE_BACK + "give_back(key=77)\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: number 77 was not lent",
        ),
        (
            GIVE_BACK + "give_back()\ngive_back()\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: number 1 was not lent",
        ),
        (
            GIVE_BACK + "give_back(size=5000)\ntime.sleep(60)",
            "was ended by its parent: a buffer cannot be used: 5000 bytes in one of 4096",
        ),
        (
            "while True:\n    os.write(parent(), encode(Frame(Release(5))))",
            "was ended by its parent: it gave back what it did not have over and over",
        ),
        (
            "while True:\n    os.write(parent(), encode(Frame(Progress(1, 1, {}))))",
            "was ended by its parent: it sent Progress over and over",
        ),
    ],
    ids=[
        *("exit", "segfault", "abort", "kill", "garbage", "long", "no buffer", "unsealed", "size"),
        *("not lent", "twice", "too much", "releases", "another's messages"),
    ],
)
@pytest.mark.fault("job process breaks off or says nonsense", "it ends with site and cause")
def test_a_job_that_breaks_off_or_says_nonsense_ends_with_site_and_cause(site, script, how):
    reason, done = site.ending(script)
    assert reason.startswith(f"site-1: the trainer {how}")
    assert done is None


def test_memory_that_the_parent_has_mapped_cannot_be_taken_away(site):
    script = (
        SEND_OWN_MEMORY + "fd = send(fcntl.F_SEAL_SHRINK)\nprint(json.dumps({'shrunk': attempt(os.ftruncate, fd, 0)}))"
    )
    reason, done = site.ending(script)
    assert (reason, done.status) == ("site-1: the trainer ended with exit code 0", "FINISHED:COMPLETED")
    assert site.printed() == {"shrunk": "PermissionError"}


def test_a_file_that_holds_a_task_cannot_be_taken_away(site):
    site.pool = BufferPool(0)
    script = """
seen = {}
for name in os.listdir("/proc/self/fd"):
    path = "/proc/self/fd/" + name
    if os.path.lexists(path) and os.readlink(path).endswith("(deleted)"):
        seen["open"] = attempt(os.open, path, os.O_RDWR)
        seen["cut"] = attempt(os.truncate, path, 0)
        seen["held"] = attempt(os.ftruncate, int(name), 0)
seen["sum"] = float(model.params["w"].sum())
print(json.dumps(seen))
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0"
    assert site.printed() == {"open": "PermissionError", "cut": "PermissionError", "held": "OSError", "sum": 3.0}


@pytest.mark.fault("job talks without end", "its parent goes on with the others")
def test_a_job_that_talks_without_end_leaves_its_parent_time_for_the_others(site):
    script = """
frame = encode(Frame(Result("t", "site-1", "train", 0, {}, 0)))
while True:
    os.write(parent(), frame)
"""

    async def run():
        turns = heard = 0

        async def another():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with site.started(script) as process:
            while await process.receive() is not None and heard < 2000:
                if not heard:
                    other = asyncio.create_task(another())
                heard += 1
            other.cancel()
            return heard, turns

    heard, turns = asyncio.run(run())
    assert heard == 2000
    assert turns > heard // 64


@pytest.mark.fault("job nests 1100 folders in its temporary folder", "removed, its parent goes on")
def test_folders_that_a_job_has_nested_too_deep_for_python_are_removed(site):
    script = """
print(os.environ["TMPDIR"], flush=True)
os.chdir(os.environ["TMPDIR"])
for _ in range(1100):
    os.mkdir("d")
    os.chdir("d")
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0"
    temporary = Path(site.log().splitlines()[-1])
    assert temporary.name.startswith("clouddeploy-job-")
    assert not temporary.exists()


@pytest.mark.fault("job closes its connection and goes on", "it is ended and named")
def test_a_job_that_closes_its_connection_and_goes_on_is_ended(site, monkeypatch):
    monkeypatch.setattr(job_process, "_LEFT_S", 0.2)
    reason, _ = site.ending("os.close(parent())" + FOREVER)
    assert reason == "site-1: the trainer was ended by its parent: it closed its connection and went on"


@pytest.mark.fault("endless loop that ignores SIGTERM", "killed after its grace")
def test_an_endless_loop_that_ignores_sigterm_ends_with_its_grace(site):
    async def run():
        async with site.started("signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FOREVER) as process:
            await until(lambda: "busy" in site.log())
            begin = time.monotonic()
            await process.stop("enough", grace_s=0.4)
            return process.ending(), time.monotonic() - begin

    reason, seconds = asyncio.run(run())
    assert reason == "site-1: the trainer did not end within 0.4 s of being asked to, and was killed"
    assert seconds < 3


@pytest.mark.fault("job does not read what it is sent", "it cannot delay its end")
def test_a_job_that_does_not_read_cannot_delay_its_end(site):
    async def run():
        async with site.started("signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FOREVER) as process:
            await until(lambda: "busy" in site.log())
            meta = {"filler": "x" * (MAX_FRAME // 2)}

            async def flood():
                with suppress(OSError):
                    while True:
                        await process.send(Task("t", "train", 0, 1, [], meta, 0))

            flooding = asyncio.create_task(flood())
            begin = time.monotonic()
            await process.stop("enough", grace_s=0.4)
            seconds = time.monotonic() - begin
            await asyncio.wait_for(flooding, 5)
            return seconds

    assert asyncio.run(run()) < 3


def test_a_release_that_finds_the_connection_full_comes_later(site):
    number = 5000  # more than the kernel holds for a job that does not read
    script = f"""
from clouddeploy_runtime.job.messages import decode
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("busy", flush=True)
signal.sigwait([signal.SIGUSR1])
connection = socket.socket(fileno=os.dup(parent()))
keys = [decode(connection.recv(1 << 17)).message.key for _ in range({number})]
print(json.dumps({{"keys": keys == list(range({number}))}}))
"""

    async def run():
        async with site.started(script) as process:
            await until(lambda: "busy" in site.log())
            for key in range(number):
                process._give_back(key)
            os.kill(process.pid, signal.SIGUSR1)
            while await process.receive() is not None:
                pass

    asyncio.run(run())
    assert site.printed() == {"keys": True}


DAEMON = """
import subprocess
pid = os.fork()
if pid == 0:
    os.setsid()
    if os.fork() == 0:
        {wipe}
        print("pid", os.getpid(), flush=True)
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    os._exit(0)
os.waitpid(pid, 0)
while "pid" not in open("log.txt").read():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("wipe", ["pass", "os.environ.clear()"], ids=["environment", "without"])
@pytest.mark.parametrize("end", ["", "os._exit(3)", "os.kill(os.getpid(), 9)"], ids=["return", "exit", "kill"])
@pytest.mark.fault("job leaves a daemon", "it does not outlive its job")
def test_a_daemon_in_a_session_of_its_own_does_not_outlive_its_job(site, wipe, end):
    site.ending(DAEMON.format(wipe=wipe) + end)
    pid = int(site.log().partition("pid ")[2].split()[0])
    assert not is_alive(pid)


@pytest.mark.fault("job left by a killed parent", "ended before the job starts again")
def test_what_a_parent_that_was_killed_has_left_ends_before_the_job_starts_again(site):
    async def run():
        mark = {"CLOUDDEPLOY_JOB_FOLDER": str(site.run)}
        left = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True, env=mark)
        async with site.started(FOREVER):
            return await asyncio.wait_for(left.wait(), 5)

    assert asyncio.run(run()) == -signal.SIGKILL


@pytest.mark.fault("job left by a killed parent that has no such job any more", "ended at its parent's next start")
def test_what_jobs_of_a_killed_parent_have_left_ends_when_the_parent_starts(site):
    async def run():
        below = site.kit / "workspace" / "jobs"
        left, other = [
            await asyncio.create_subprocess_exec(
                "sleep", "60", start_new_session=True, env={"CLOUDDEPLOY_JOB_FOLDER": str(folder)}
            )
            for folder in (below / "gone" / "run", site.kit / "workspace" / "jobs-of-another" / "run")
        ]
        sweep(below)
        ended = await asyncio.wait_for(left.wait(), 5), other.returncode
        other.kill()
        await other.wait()
        return ended

    assert asyncio.run(run()) == (-signal.SIGKILL, None)


def test_what_the_parent_runs_itself_is_left_alone(site):
    async def run():
        own = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        async with site.started(FOREVER) as other:
            await until(lambda: "busy" in site.log())
            second = Site(site.kit.parent / "site-2")
            await second.ended("os._exit(3)")
            alive = is_alive(own.pid), is_alive(other.pid)
        own.kill()
        await own.wait()
        return alive

    assert asyncio.run(run()) == (True, True)


@pytest.mark.fault("trainer at its limit of memory", "MemoryError, named with its site")
def test_a_job_at_its_limit_of_memory_ends_with_a_memory_error(site):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
    reason, done = site.ending(limit + "held = bytearray(8 << 30)")
    assert done.status == "FINISHED:EXECUTION_EXCEPTION"
    assert done.reason.startswith("site-1: MemoryError")
    assert reason.startswith("site-1: the trainer ended with exit code")


@pytest.fixture
def small_memory():
    """A control group of 100 MiB."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        name = "memory.max" if number == "0" else "memory.limit_in_bytes"
        if number != "0" and controllers != "memory":
            continue
        root = Path("/sys/fs/cgroup") / controllers / path.strip("/")
        group = root / f"clouddeploy-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(100 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        deadline = time.monotonic() + 5
        while group.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                group.rmdir()
        return
    pytest.skip("no control group can be made here")


@pytest.mark.fault("trainer ended by the kernel for its memory", "out of memory, named with its site")
def test_a_job_that_the_kernel_ends_for_its_memory_says_so(site, small_memory):
    async def run():
        script = "print('busy', flush=True)\nflare.receive()\nheld = b'x' * (1 << 30)\n"
        async with site.started(script) as process:
            await until(lambda: "busy" in site.log())
            (small_memory / "cgroup.procs").write_text(str(process.pid))
            await process.send(Abort(reason=""))
            while await process.receive() is not None:
                pass
            return process.ending()

    assert asyncio.run(run()) == "site-1: the trainer was killed by the kernel: out of memory"


def test_the_kernel_takes_a_job_before_its_parent(site):
    site.ending("print(json.dumps({'score': int(open('/proc/self/oom_score_adj').read())}))")
    assert site.printed()["score"] > int(Path("/proc/self/oom_score_adj").read_text())


needs_landlock = pytest.mark.skipif(landlock.version() == 0, reason="the kernel has no Landlock")


@needs_landlock
def test_a_job_reads_neither_key_nor_log_nor_other_jobs_and_writes_in_its_own_folders_only(site, monkeypatch):
    monkeypatch.setenv("SECRET", "of the parent")
    outside = site.kit.parent / "outside"
    (outside).mkdir()
    script = f"""
kit, outside = {str(site.kit)!r}, {str(outside)!r}
parent_folder = "/proc/%d/" % os.getppid()
seen = {{
    "key": attempt(open, kit + "/startup/client.key"),
    "relative": attempt(open, "../../../../startup/client.key"),
    "audit": attempt(open, kit + "/workspace/audit.jsonl"),
    "other job": attempt(open, kit + "/workspace/jobs/other/run/model"),
    "list": attempt(os.listdir, kit + "/startup"),
    "write": attempt(open, kit + "/startup/new", "w"),
    "write outside": attempt(open, outside + "/new", "w"),
    "write app": attempt(open, kit + "/workspace/jobs/job/job/app/custom/new.py", "w"),
    "write data": attempt(open, kit + "/workspace/data/new", "w"),
    "remove": attempt(os.unlink, kit + "/startup/client.key"),
    "move": attempt(os.rename, kit + "/startup/client.key", "key"),
    "link": attempt(os.link, kit + "/startup/client.key", "key"),
    "home": attempt(os.listdir, os.path.expanduser("~")),
    "memory of the parent": attempt(open, parent_folder + "mem", "rb"),
    "environment of the parent": attempt(open, parent_folder + "environ"),
    "read data": attempt(open, kit + "/workspace/data/train.csv"),
    "read app": attempt(open, kit + "/workspace/jobs/job/job/app/custom/train.py"),
    "write run": attempt(open, "result", "w"),
    "write temporary": attempt(open, os.environ["TMPDIR"] + "/new", "w"),
    "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[1] and "OSError" or "PermissionError",
}}
print(json.dumps(seen))
print(os.environ["TMPDIR"])
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0"
    seen = site.printed()
    allowed = {"read data", "read app", "write run", "write temporary"}
    assert {name for name, how in seen.items() if how == "done"} == allowed
    assert {how for name, how in seen.items() if name not in allowed} <= {"PermissionError", "OSError"}
    assert not Path(site.log().splitlines()[-1]).exists()


@pytest.mark.skipif(landlock.version() < 6, reason="the kernel keeps no signals back")
def test_a_job_cannot_send_signals_to_its_parent(site):
    assert site.ending("print(json.dumps({'kill': attempt(os.kill, os.getppid(), signal.SIGUSR1)}))")[1] is not None
    assert site.printed() == {"kill": "PermissionError"}


@needs_landlock
def test_a_module_of_the_job_that_is_named_like_one_of_pythons_does_not_run_before_the_bounds(site):
    site.run.mkdir()
    for name in ("sitecustomize", "usercustomize", "ctypes", "resource", "msgspec", "glob"):
        for folder in (site.app / "custom", site.run):
            (folder / f"{name}.py").write_text(f"open({str(site.kit / 'broken')!r}, 'w')\n")
    assert site.ending("")[0] == "site-1: the trainer ended with exit code 0"
    assert not (site.kit / "broken").exists()


def test_what_training_needs_works_inside_the_bounds(site):
    script = """
import locale, multiprocessing, sklearn.linear_model, ssl, subprocess, tempfile
import numpy as np
seen = {
    "sklearn": float(sklearn.linear_model.LinearRegression().fit(np.eye(3), np.ones(3)).predict(np.eye(3))[0]),
    "locale": bool(locale.setlocale(locale.LC_ALL, "")),
    "certificates": bool(ssl.create_default_context()),
    "shared memory": multiprocessing.Value("i", 5).value,
    "pool": multiprocessing.get_context("fork").Pool(2).map(abs, [-1, -2]),
    "program": subprocess.run(["sh", "-c", "echo hello > /dev/null; cat /proc/self/comm"]).returncode,
    "temporary": tempfile.TemporaryFile().write(b"abc"),
    "random": len(open("/dev/urandom", "rb").read(3)),
    "cores": os.cpu_count() > 0,
    "devices": os.path.isdir("/sys/devices"),
    "names": socket.gethostbyname("localhost"),
}
print(json.dumps(seen))
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0", site.log()
    assert site.printed() == {
        "sklearn": pytest.approx(1.0),
        "locale": True,
        "certificates": True,
        "shared memory": 5,
        "pool": [1, 2],
        "program": 0,
        "temporary": 3,
        "random": 3,
        "cores": True,
        "devices": True,
        "names": "127.0.0.1",
    }


@needs_landlock
def test_a_site_can_keep_its_jobs_from_sharing_memory_with_others(site):
    name = f"/dev/shm/clouddeploy-test-{os.getpid()}"
    Path(name).write_text("of another job")
    try:
        script = f"print(json.dumps({{'other': attempt(open, {name!r})}}))"
        site.ending(script)
        assert site.printed() == {"other": "done"}
        (site.run / "log.txt").unlink()
        site.ending(script, launcher=ProcessLauncher.of({"share_memory": False}))
        assert site.printed() == {"other": "PermissionError"}
    finally:
        Path(name).unlink()


def test_a_site_can_open_more_or_switch_the_bounds_off(site, caplog):
    script = f"print(json.dumps({{'key': attempt(open, {str(site.key)!r})}}))"
    site.ending(script, launcher=ProcessLauncher.of({"readable": [str(site.key.parent)]}))
    assert site.printed() == {"key": "done"}
    (site.run / "log.txt").unlink()
    caplog.clear()
    site.ending(script, launcher=ProcessLauncher.of({"confine": False}))
    assert site.printed() == {"key": "done"}
    assert "Jobs are not confined here (local/resources.json says so)" in caplog.text
    assert "not confined" in site.log()


def test_a_job_gets_the_environment_of_its_reservation_and_the_code_of_its_site(site):
    (site.kit / "local" / "custom").mkdir(parents=True)
    (site.kit / "local" / "custom" / "siteside.py").write_text("NAME = 'of the site'\n")
    script = "import siteside\nprint(json.dumps({'gpu': os.environ['CUDA_VISIBLE_DEVICES'], 'code': siteside.NAME}))"
    site.ending(script, environment={"CUDA_VISIBLE_DEVICES": "1"}, code=(site.kit / "local" / "custom",))
    assert site.printed() == {"gpu": "1", "code": "of the site"}


@pytest.mark.fault("job prints without end", "bounded, the end is kept")
def test_what_a_job_prints_is_bounded_and_its_end_is_kept(site):
    script = """
for _ in range(100 << 10):
    sys.stdout.write("x" * 1023 + chr(10))
print("the end", flush=True)
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0"
    assert site.log().endswith("the end\n")
    sizes = {path.name: path.stat().st_size for path in site.run.iterdir()}
    assert sizes.keys() == {"log.txt", "log.txt.1", "log.txt.2"}
    assert max(sizes.values()) <= FILE_BYTES


def test_a_job_that_puts_a_link_in_the_place_of_its_log_does_not_lead_its_parent_elsewhere(site):
    script = f"""
os.unlink("log.txt")
os.symlink({str(site.audit)!r}, "log.txt")
os.mkdir("log.txt.1")
for _ in range(25 << 10):
    sys.stdout.write("x" * 1023 + chr(10))
"""
    assert site.ending(script)[0] == "site-1: the trainer ended with exit code 0"
    assert site.audit.read_text() == "secret"


MESSAGES = (
    Frame(Task("t", "train", 0, 1, ["site-1"], {"a": [1, 2.5, None]}, 24), key=3, capacity=PAGE),
    Frame(Result("t", "site-1", "train", 0, {"samples": 3, "metrics": {"loss": 0.5}}, 24), key=3, capacity=PAGE),
    Frame(Progress(1, 5, {"loss": 0.5})),
    Frame(Done("FINISHED:COMPLETED", "", {})),
    Frame(Release(3)),
)


def mutated(chance):
    frame = bytearray(encode(chance.choice(MESSAGES)))
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(frame))
        match chance.randrange(4):
            case 0:
                frame[place] = chance.randrange(256)
            case 1:
                frame.insert(place, chance.randrange(256))
            case 2 if len(frame) > 1:
                del frame[place]
            case _:
                frame[place:place] = chance.choice((b"\xdf\xff\xff\xff\xff", b"\xc1", b"\x91" * 5000, b"\xd9\xff"))
    return bytes(frame)


@pytest.mark.fault("1000 mutated frames of a job process", "messages or faults, nothing else")
def test_a_thousand_mutated_frames_are_messages_or_faults_and_nothing_else(site):
    chance, faults, read = random.Random(20261), [], 0  # noqa: S311 - the same frames each time

    async def run():
        nonlocal read
        async with site.started(FOREVER) as process:
            process._refuse = faults.append
            for _ in range(1000):
                descriptors = [os.memfd_create("any")] if chance.random() < 0.2 else []
                read += process._read(mutated(chance), descriptors, is_cut_off=False) is not None
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptors[0] if descriptors else -1)

    asyncio.run(run())
    assert len(faults) + read == 1000
    assert len(faults) > 500


def test_guarding_a_parent_closes_its_memory_to_its_user():
    pid = os.fork()
    if pid == 0:
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        confine.guard_parent()
        os._exit(Path("/proc/self/environ").stat().st_uid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0  # the kernel gives its files to root
