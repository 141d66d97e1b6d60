"""A dashboard without a network: a virtual clock, cheap hashes, and clients that send requests to it."""

import io
import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyzipper
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from clouddeploy.dashboard import audit_pages, database, people
from clouddeploy.dashboard.opening import make_folder, open_desk
from clouddeploy.dashboard.passwords import Passwords
from clouddeploy.dashboard.web import app
from clouddeploy.secrets import Secret

ADMIN, PASSWORD = "root@hub.example", "four words in a row"
API = "/api/v1"
HOST = "http://127.0.0.1"
_TOKEN = re.compile(r'name="form_token" value="([^"]*)"')
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.time = datetime.now(UTC)

    def __call__(self):
        return self.time

    def move(self, **how):
        self.time += timedelta(**how)


@cache
def empty_database():
    """The tables' file as a new dashboard has it: making it takes ten times as long as copying it."""
    with TemporaryDirectory() as folder:
        database.open_in(Path(folder)).close()
        return (Path(folder) / database.FILE).read_bytes()


class World:
    """A dashboard with its first project admin."""

    def __init__(self, folder, *, is_tls=False, url=""):
        self.clock = Clock()
        make_folder(folder)
        file = folder / database.FILE
        if not url and not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(empty_database())
        self.desk = open_desk(
            folder, passphrase=Secret("of the authority"), url=url, passwords=Passwords(CHEAP), now=self.clock
        )
        people.seed(self.desk, ADMIN, PASSWORD, "hub")
        self.app = app.make(self.desk, is_tls=is_tls, version="1", hosts=["127.0.0.1"])
        self.host = HOST.replace("http:", "https:") if is_tls else HOST
        self._open = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()
        self.desk.database.close()

    def client(self, address="192.0.2.1"):
        one = TestClient(self.app, base_url=self.host, follow_redirects=False, client=(address, 1))
        return self._open.enter_context(one)

    def program(self, email=ADMIN, password=PASSWORD):
        """Logs in by the REST interface."""
        client = self.client()
        answer = client.post(f"{API}/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        return Program(client, answer.json())

    def robot(self, *scopes):
        """Calls the REST interface with a token for automation that the project admin has made."""
        root = self.program()
        made = root.post("/tokens", {"name": "robot", "scopes": list(scopes)}).json()["token"]
        root.client.headers["authorization"] = f"Bearer {made}"
        return root

    def browser(self, email=ADMIN, password=PASSWORD):
        """Logs in by the first page."""
        one = Browser(self.client())
        one.get("/")
        assert one.send("/login", email=email, password=password).status_code == 303
        return one

    def configure(self, *, public=True, freeze=False):
        """Describes the project."""
        root = self.program()
        values = {"short_name": "trial", "title": "A trial", "server1": "fl.example.com", "public": public}
        assert root.patch("/project", values).status_code == 200
        if freeze:
            assert root.patch("/project", {"frozen": True}).status_code == 200
        return root

    def person(self, name="ann", *, org="org_a", role="org_admin", approved=True):
        """Signs somebody up, and approves them."""
        email = f"{name}@{org.replace('_', '-')}.example"
        body = {"email": email, "password": PASSWORD, "organization": org, "role": role}
        answer = self.client().post(f"{API}/users", json=body)
        assert answer.status_code == 201, answer.text
        if approved:
            user = answer.json()["user"]["id"]
            assert self.program().patch(f"/users/{user}", {"approval_state": 100}).status_code == 200
        return self.program(email)

    def audited(self, action):
        """What the audit log says of an action, the oldest first."""
        found = audit_pages.newest(self.desk.folder / audit_pages.LOG, count=1000)
        return [one for one in reversed(found) if one["action"] == action]


class Program:
    """Calls the REST interface with a token."""

    def __init__(self, client, login):
        self.client = client
        self.id = login["user"]["id"]

    def call(self, method, path, body=None, **more):
        given = {"json": body} if body is not None else {}
        return self.client.request(method, API + path, **given, **more)

    def get(self, path, **query):
        return self.call("GET", path, params=query)

    def post(self, path, body=None, **more):
        return self.call("POST", path, {} if body is None and not more else body, **more)

    def patch(self, path, body):
        """Changes something; reads it first when it is approved, as a program has to."""
        tag = self.get(path).headers.get("etag") if body.get("approval_state", 0) > 0 else None
        return self.call("PATCH", path, body, headers={"if-match": tag} if tag else {})

    def delete(self, path):
        return self.call("DELETE", path)

    def site(self, name="site-1", *, approved_by=None):
        """Makes a site, and has it approved."""
        answer = self.post("/clients", {"name": name, "capacity": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16}})
        assert answer.status_code == 201, answer.text
        one = answer.json()["client"]["id"]
        if approved_by is not None:
            assert approved_by.patch(f"/clients/{one}", {"approval_state": 100}).status_code == 200
        return one


class Browser:
    """Follows links and sends forms, each with the token that the last page had."""

    def __init__(self, client):
        self.client = client
        self.token = ""

    def get(self, path):
        answer = self.client.get(path)
        found = _TOKEN.search(answer.text)
        self.token = found.group(1) if found else self.token
        return answer

    def send(self, path, files=None, **fields):
        return self.client.post(path, data={"form_token": self.token, **fields}, files=files)


def unpack(content, code, folder):
    """Unpacks an archive as its owner does."""
    with pyzipper.AESZipFile(io.BytesIO(content)) as archive:
        archive.setpassword(code.encode())
        for info in archive.infolist():
            archive.extract(info, folder)
            (folder / info.filename).chmod(info.external_attr >> 16 & 0o777)
    (kit,) = folder.iterdir()
    return kit
