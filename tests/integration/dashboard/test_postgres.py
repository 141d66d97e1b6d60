"""The dashboard's tables in a real PostgreSQL: their steps, a whole workflow, and two processes at once."""

import contextlib
import getpass
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from clouddeploy_rehearsal.probe import until
from sqlalchemy import create_engine, text

from clouddeploy.dashboard.database import Database
from clouddeploy.dashboard.errors import Conflict
from tests.unit.dashboard.visitors import API, World, unpack

pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
RIVAL = Path(__file__).with_name("rival.py")
ROUNDS = 8


def programs():
    """Where Debian's package, or another, has PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(on_path).parent


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL of this module's, on a socket in a folder; it refuses to run as root."""
    where, user = programs(), None
    if os.geteuid() == 0:
        user = "postgres"  # whom Debian's package makes
        assert pwd.getpwnam(user)
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        common = {"user": user, "cwd": "/", "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        data = str(folder / "data")
        owner = user or getpass.getuser()
        words = [where / "initdb", "-D", data, "-A", "trust", "-U", owner, "--no-sync", "--no-instructions"]
        made = subprocess.run([*words, "-E", "UTF8"], check=False, **common)
        assert made.returncode == 0, made.stdout.decode()
        words = [where / "postgres", "-D", data, "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen(words, **{**common, "stdout": subprocess.DEVNULL}) as process:
            url = f"postgresql+psycopg://{owner}@/postgres?host={name}"
            engine = create_engine(url, isolation_level="AUTOCOMMIT")
            try:
                assert until(lambda: answers(engine))
                yield engine, f"postgresql+psycopg://{owner}@/{{}}?host={name}"
            finally:
                engine.dispose()
                process.send_signal(signal.SIGINT)  # without waiting for connections


def answers(engine):
    try:
        with engine.connect():
            return True
    except Exception:  # noqa: BLE001 - it starts
        return False


def new_database(server, name):
    engine, form = server
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return form.format(name)


@pytest.fixture
def url(server, request):
    """A database of the test's own."""
    return new_database(server, request.node.originalname)


pytestmark = pytest.mark.xdist_group("dashboard-postgres")


def test_the_steps_lead_to_the_model(url):
    opened = Database(url)
    opened.migrate()
    assert opened.schema_differences() == []
    opened.migrate()
    opened.close()


def test_what_the_first_version_had_is_still_there(url):
    opened = Database(url)
    opened.migrate("first")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO organization (name) VALUES ('hub')"))
        connection.execute(
            text(
                "INSERT INTO user_account (email, name, description, password_hash, role, organization_id, "
                "approval_state, download_count, created_at) VALUES "
                "('root@hub.example', '', '', 'x', 'project_admin', 1, 200, 3, now())"
            )
        )
        connection.execute(
            text(
                "INSERT INTO login (digest, kind, user_id, name, scopes, form_token, created_at, seen_at, expires_at) "
                "VALUES ('d', 'browser', 1, '', '', '', now(), now(), now())"
            )
        )
    opened.migrate()
    assert opened.schema_differences() == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT email, download_count FROM user_account")).all() == [
            ("root@hub.example", 3)
        ]
        assert connection.execute(text("SELECT digest, proved_at FROM login")).all() == [("d", None)]
    engine.dispose()
    opened.close()


def test_the_whole_way_to_a_kit(url, tmp_path):
    with World(tmp_path / "dashboard", url=url) as world:
        root = world.configure(freeze=True)
        ann = world.person()
        site = ann.site(approved_by=root)
        answer = ann.post(f"/clients/{site}/blob")
        kit = unpack(answer.content, answer.headers["x-kit-code"], tmp_path / "kit")
        assert (kit / "startup" / "client.crt").exists()
        assert ann.post("/clients", {"name": "site-1"}).status_code == 409
        assert ann.get("/clients", q="SITE", state="approved").json()["paging"]["total"] == 1
        assert ann.get("/clients", q="%").json()["paging"]["total"] == 0
        assert world.client().get(f"{API}/clients?q=%00").status_code in {400, 401}
        for _ in range(5):
            world.client().post(f"{API}/login", json={"email": "ann@org-a.example", "password": "wrong"})
        assert not (tmp_path / "dashboard" / "db.sqlite").exists()
    opened = Database(url)
    with opened.begin() as db:
        assert db.scalar(text("SELECT max(failures) FROM attempt")) >= 5
    with pytest.raises(Conflict), opened.begin() as db:
        db.execute(text("INSERT INTO organization (name) VALUES ('hub')"))
    opened.close()


@pytest.fixture(scope="module")
def rivals(server, tmp_path_factory):
    """A dashboard, and two processes on its tables; yields what has each do something, both at once."""
    folder = tmp_path_factory.mktemp("rivals")
    url = new_database(server, "rivals")
    with World(folder / "dashboard", url=url) as world, contextlib.ExitStack() as stack:
        world.configure()
        started = []
        for number in range(2):
            words = [sys.executable, str(RIVAL), url, str(folder / f"rival-{number}")]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            started.append(stack.enter_context(subprocess.Popen(words, **pipes, text=True, bufsize=1)))
        assert [one.stdout.readline() for one in started] == ["ready\n"] * 2

        def both(*lines):
            for one, line in zip(started, lines, strict=True):
                one.stdin.write(f"{line}\n")
                one.stdin.flush()
            return sorted(json.loads(one.stdout.readline()) for one in started)

        yield world, both
        for one in started:
            one.stdin.close()


def test_of_two_processes_that_approve_at_once_one_decides(rivals):
    world, both = rivals
    ids = [world.person(f"a{number}", approved=False).id for number in range(ROUNDS)]
    for one in ids:
        # Who comes second saw somebody who waits, or already somebody approved.
        assert both(f"approve {one}", f"approve {one}") in (["CHANGED", "decided"], ["decided", "done"])
    assert {world.program().get(f"/users/{one}").json()["user"]["approval_state"] for one in ids} == {100}


def test_nobody_is_moved_while_being_approved(rivals):
    world, both = rivals
    ids = [world.person(f"b{number}", approved=False).id for number in range(ROUNDS)]
    for one in ids:
        ends = both(f"approve {one}", f"move {one}")
        user = world.program().get(f"/users/{one}").json()["user"]
        state = 0 if "CHANGED" in ends else 100  # approved as of org_a, which they are no longer: refused
        assert (user["organization"], user["approval_state"]) == ("org_a" if "CONFLICT" in ends else "org_b", state)


def test_an_address_gets_one_account(rivals):
    _, both = rivals
    lines = [f"sign_up c{number}@a.example" for number in range(ROUNDS)]
    assert [both(one, one) for one in lines] == [["CONFLICT", "done"]] * ROUNDS
